"""The custom resources by the API of Kubernetes. Needs the extra `cluster` of this package."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import httpx2
from lightkube import AsyncClient
from lightkube.core.exceptions import ApiError, ConfigError
from lightkube.generic_resource import create_namespaced_resource
from lightkube.operators import exists

from manifests.base import API_VERSION
from manifests.cluster import REVISION, FeedError, Gone, Raw

TEAM_LABEL = "agentteams.dev/team"
_GROUP, _VERSION = API_VERSION.split("/")
_PLURALS = {"AgentTeam": "agentteams", "KnowledgeBase": "knowledgebases", "ModelConfig": "modelconfigs"}
# A connection may be half open without anybody noticing: after so long without a word a new one is made.
_SILENT_S = 120
_PAGE = 200
_GONE = 410


class KubernetesFeed:
    """`Feed` of one namespace, or of all. Connects at the first call, as the pod or by KUBECONFIG.

    Args:
        namespace: None: every namespace.
    """

    def __init__(self, namespace: str | None) -> None:
        self._namespace = namespace or "*"
        self._client: AsyncClient | None = None

    async def list(self, kind: str) -> tuple[Sequence[Raw], str]:
        """See Feed."""
        try:
            listing = self._open().list(
                _resource(kind), namespace=self._namespace, chunk_size=_PAGE, labels=_labels(kind)
            )
            found = [_raw(one) async for one in listing]
        except (ApiError, ConfigError, httpx2.HTTPError) as error:
            raise _failed(kind, error) from error
        return found, str(listing.resourceVersion)

    async def watch(self, kind: str, version: str) -> AsyncIterator[tuple[str, Raw]]:
        """See Feed."""
        events: AsyncGenerator[tuple[str, Any]] = self._open().watch(  # type: ignore[assignment]
            _resource(kind), namespace=self._namespace, labels=_labels(kind), resource_version=version
        )
        try:
            while True:
                async with asyncio.timeout(_SILENT_S):
                    event, found = await anext(events)
                yield event, _raw(found)
        except (StopAsyncIteration, TimeoutError):
            return
        except (ApiError, ConfigError, httpx2.HTTPError) as error:
            if isinstance(error, ApiError) and error.status.code == _GONE:
                raise Gone from error
            raise _failed(kind, error) from error
        finally:
            await events.aclose()

    async def close(self) -> None:
        """Ends the connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _open(self) -> AsyncClient:
        if self._client is None:
            self._client = AsyncClient()
        return self._client


def _resource(kind: str) -> Any:
    if kind == REVISION:
        return create_namespaced_resource("apps", "v1", kind, "controllerrevisions")
    return create_namespaced_resource(_GROUP, _VERSION, kind, _PLURALS[kind])


def _labels(kind: str) -> dict[str, Any] | None:
    return {TEAM_LABEL: exists()} if kind == REVISION else None


def _raw(found: Any) -> Raw:
    plain: Raw = found.to_dict()
    return plain


def _failed(kind: str, error: Exception) -> FeedError:
    return FeedError(f"{kind}: {type(error).__name__}: {error}")
