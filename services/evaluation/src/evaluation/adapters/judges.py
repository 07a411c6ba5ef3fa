"""Which endpoint a judge's ModelConfig means, and the connections to it."""

import asyncio
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from evaluation.adapters.judge_openai import OpenAIJudge
from evaluation.core.ports import JudgeModel
from manifests import ModelConfig, Objects, SecretKeyRef
from manifests.secret_files import read_secret_file
from servicekit.errors import FailedPrecondition, NotFound

_MAX_OPEN = 32
_OPENAI_URL = "https://api.openai.com/v1"
_CONNECT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a model is served, and how to ask."""

    url: str
    model: str
    api_key: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    authorities: str = ""


@dataclass(slots=True)
class _Open:
    judge: OpenAIJudge
    client: AsyncOpenAI
    users: int = 0


class EndpointJudges:
    """`Judges` over manifests; opens each endpoint once, and keeps the last used ones.

    Args:
        objects: The manifests.
        built_in: What `provider: BuiltIn` means here; None: nothing.
        secrets_dir: Where Secrets are mounted.
        by_namespace: Files there are `<namespace>__<name>__<key>`, else `<name>/<key>`.
    """

    def __init__(
        self, *, objects: Objects, built_in: Endpoint | None, secrets_dir: Path | None, by_namespace: bool
    ) -> None:
        self._objects = objects
        self._built_in = built_in
        self._secrets_dir = secrets_dir
        self._by_namespace = by_namespace
        self._open: OrderedDict[tuple[str, str, str, Endpoint], _Open] = OrderedDict()

    @asynccontextmanager
    async def lease(self, tenant: str, name: str) -> AsyncIterator[JudgeModel]:
        """See Judges."""
        config = self._objects.model(tenant, name)
        if config is None or config.spec.type != "Chat":
            raise NotFound(
                f"judgeModelConfigRef: no ModelConfig {name} of type Chat in namespace {tenant}; apply one",
                reason="MODEL_NOT_FOUND",
                metadata={"model": name, "namespace": tenant},
            )
        # Read each time: a rotated key makes another endpoint, hence another client.
        endpoint = await asyncio.to_thread(self._endpoint, config)
        key = (tenant, name, config.spec.model_dump_json(), endpoint)
        opened = self._open.get(key)
        if opened is None:
            client = _client(endpoint, config)
            judge = OpenAIJudge(client=client, model=endpoint.model, config=config)
            opened = self._open[key] = _Open(judge, client)
        self._open.move_to_end(key)
        opened.users += 1
        try:
            yield opened.judge
        finally:
            opened.users -= 1
            await self._trim()

    async def close(self) -> None:
        """Closes all connections."""
        while self._open:
            _, opened = self._open.popitem()
            await opened.client.close()

    async def _trim(self) -> None:
        if len(self._open) <= _MAX_OPEN:
            return
        for key, opened in list(self._open.items()):
            if opened.users == 0:
                del self._open[key]
                await opened.client.close()
                return

    def _endpoint(self, config: ModelConfig) -> Endpoint:
        spec = config.spec
        if spec.provider == "BuiltIn":
            if self._built_in is None:
                raise _unusable(
                    config, "this installation has no chat model; set AGENTTEAMS_BUILTIN_CHAT_URL"
                )
            return self._built_in
        return Endpoint(
            url=_OPENAI_URL if spec.endpoint is None else spec.endpoint.url,
            model=spec.model or "",
            api_key=self._secret(config, spec.credentials_secret_key_ref),
            headers=tuple(
                (h.name, self._secret(config, h.value_from.secret_key_ref)) for h in spec.headers_from
            ),
            authorities=""
            if spec.tls is None
            else self._secret(config, spec.tls.ca_secret_key_ref, lines=True),
        )

    def _secret(self, config: ModelConfig, ref: SecretKeyRef | None, *, lines: bool = False) -> str:
        if ref is None:
            return ""
        try:
            return read_secret_file(
                self._secrets_dir,
                config.metadata.namespace,
                (ref.name, ref.key),
                by_namespace=self._by_namespace,
                lines=lines,
            )
        except LookupError as error:
            raise _unusable(config, str(error.args[0])) from error


def _unusable(config: ModelConfig, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"ModelConfig {config.metadata.name}: {why}",
        reason="MODEL_REJECTED",
        metadata={"model": config.metadata.name},
    )


def _client(endpoint: Endpoint, config: ModelConfig) -> AsyncOpenAI:
    http: DefaultAsyncHttpxClient | None = None
    if endpoint.authorities:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(cadata=endpoint.authorities)
        except ssl.SSLError as error:
            raise _unusable(config, "tls.caSecretKeyRef holds no certificates (PEM)") from error
        http = DefaultAsyncHttpxClient(verify=context)
    return AsyncOpenAI(
        base_url=endpoint.url,
        api_key=endpoint.api_key or "none",  # the client insists on a key
        max_retries=0,
        timeout=openai.Timeout(config.spec.limits.timeout_seconds, connect=_CONNECT_S),
        default_headers=dict(endpoint.headers),
        http_client=http,
    )
