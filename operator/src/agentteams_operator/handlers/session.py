"""kopf's connection to the API server, overheard: what is watched, and what is listed anew.

When a watch is too old to be continued, kopf lists again and does not say what is no longer there: an object
that was deleted in between would be taken for one that is. So after each new list the names are compared.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from types import SimpleNamespace
from typing import Any

import aiohttp
import kopf
import structlog
from yarl import URL

from agentteams_operator.core import metrics
from servicekit.counters import from_zero

log = structlog.get_logger()

_NAMES_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
_TIMEOUT = aiohttp.ClientTimeout(total=60)
_PAUSES_S = (1, 2, 5, 10)

Listed = Callable[[str, Mapping[str, Any]], None]
"""Told the URL's path and the list: of each object its metadata."""


class Listening:
    """Asks for the names of what kopf has listed.

    Args:
        listed: Told them.
        wanted: Whether anybody wants to know.
        kinds: Plurals of what is watched, for the metric.
        begun: Told the plural of each watch that begins.
    """

    def __init__(
        self, listed: Listed, wanted: Callable[[], bool], *,
        kinds: Collection[str], begun: Callable[[str], None] = lambda _resource: None,
    ) -> None:  # fmt: skip
        self._listed = listed
        self._wanted = wanted
        self._kinds = kinds
        from_zero(metrics.WATCHES_BEGUN, resource=kinds)
        self._begun = begun
        self._asking: dict[str, asyncio.Task[None]] = {}

    def session(self, connection: kopf.ConnectionInfo) -> kopf.AiohttpSession:
        """As kopf makes it, overheard."""
        trace = aiohttp.TraceConfig()
        trace.on_request_start.append(self._started)
        trace.on_request_end.append(self._ended)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.as_ssl_context()),
            headers=connection.as_http_headers(),
            trust_env=connection.trust_env,
            proxy=connection.proxy_url,
            trace_configs=[trace],
        )
        return kopf.AiohttpSession(
            server=connection.server,
            default_namespace=connection.default_namespace,
            expiration=connection.expiration,
            aiohttp_session=session,
        )

    async def _started(
        self, session: object, context: object, request: aiohttp.TraceRequestStartParams
    ) -> None:
        if request.url.query.get("watch") == "true":
            resource = request.url.name
            metrics.WATCHES_BEGUN.labels(resource if resource in self._kinds else "other").inc()
            self._begun(resource)

    async def _ended(
        self, session: aiohttp.ClientSession, context: SimpleNamespace, end: aiohttp.TraceRequestEndParams
    ) -> None:
        query = end.url.query
        if (
            end.method != "GET"
            or "limit" not in query  # of all that kopf asks only lists of objects have it
            or "continue" in query
            or end.response.status != 200
            or not self._wanted()
        ):
            return
        path = end.url.path
        if path not in self._asking:
            self._asking[path] = asyncio.create_task(self._ask(session, end.url))

    async def _ask(self, session: aiohttp.ClientSession, url: URL) -> None:
        names = url.with_query({k: v for k, v in url.query.items() if k != "limit"})
        try:
            for pause_s in _PAUSES_S:
                try:
                    async with session.get(
                        names, headers={"Accept": _NAMES_ONLY}, timeout=_TIMEOUT
                    ) as answer:
                        answer.raise_for_status()
                        self._listed(url.path, await answer.json())
                        return
                except (aiohttp.ClientError, TimeoutError) as error:
                    log.warning("names_not_listed", path=url.path, error=type(error).__name__)
                    await asyncio.sleep(pause_s)
        finally:
            del self._asking[url.path]
