"""Which endpoint a ModelConfig means, and the connections to it."""

import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import openai
import structlog
from openai import AsyncOpenAI, DefaultAioHttpClient

from manifests import ModelConfig, ModelConfigSpec
from orchestrator.adapters.llm_openai import OpenAIChatModel, idle_s
from orchestrator.core.ports import ChatModel
from servicekit.errors import FailedPrecondition

log = structlog.get_logger()

_MAX_ENDPOINTS = 64
_CONNECT_S = 5.0
_OPENAI_URL = "https://api.openai.com/v1"
_NO_KEY = "none"  # the client insists on a key; endpoints without one ignore it


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a model is served, and how to ask."""

    url: str
    api_key: str
    model: str


@dataclass(slots=True)
class _Open:
    client: AsyncOpenAI
    users: int = 0


class EndpointModels:
    """Opens one client for each endpoint and ModelConfig, and keeps the last used ones.

    Args:
        built_in: What `provider: BuiltIn` means here; None: nothing.
        secrets_dir: Where Secrets are mounted, as `<name>/<key>`.
    """

    def __init__(self, *, built_in: Endpoint | None, secrets_dir: Path | None) -> None:
        self._built_in = built_in
        self._secrets_dir = secrets_dir
        # One for all: each would read the authorities' certificates anew, 45 ms in which nothing else runs.
        self._tls = httpx2.create_ssl_context()
        self._open: OrderedDict[tuple[Endpoint, str, str, ModelConfigSpec], _Open] = OrderedDict()

    @asynccontextmanager
    async def lease(self, config: ModelConfig) -> AsyncIterator[ChatModel]:
        """See ChatModels. Raises FailedPrecondition if nothing says where the model is."""
        endpoint = self._endpoint(config)
        # Without labels and annotations, which decide nothing and cannot be hashed.
        key = (endpoint, config.metadata.namespace, config.metadata.name, config.spec)
        opened = self._open.get(key)
        if opened is None:
            opened = self._open[key] = _Open(_client(endpoint, config, self._tls))
        self._open.move_to_end(key)
        opened.users += 1
        try:
            yield OpenAIChatModel(client=opened.client, model=endpoint.model, config=config)
        finally:
            opened.users -= 1
            await self._trim()

    async def close(self) -> None:
        """Closes all connections."""
        while self._open:
            _, opened = self._open.popitem()
            await opened.client.close()

    async def _trim(self) -> None:
        if len(self._open) <= _MAX_ENDPOINTS:
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
                raise FailedPrecondition(
                    f"ModelConfig {config.metadata.name}: this installation provides no chat model; set "
                    "AGENTTEAMS_BUILTIN_CHAT_URL, or provider: OpenAICompatible with an endpoint",
                    reason="MODEL_REJECTED",
                    metadata={"model": config.metadata.name},
                )
            return self._built_in
        url = _OPENAI_URL if spec.endpoint is None else spec.endpoint.url
        return Endpoint(url=url, api_key=self._secret(config), model=spec.model or "")

    def _secret(self, config: ModelConfig) -> str:
        reference = config.spec.credentials_secret_key_ref
        if reference is None:
            return _NO_KEY
        problem = "no secrets folder is configured (AGENTTEAMS_SECRETS_DIR)"
        if self._secrets_dir is not None:
            try:
                return (self._secrets_dir / reference.name / reference.key).read_text().strip()
            except OSError as error:
                problem = str(error.strerror)
        raise FailedPrecondition(
            f"ModelConfig {config.metadata.name}: secret {reference.name}, key {reference.key}: {problem}",
            reason="MODEL_REJECTED",
            metadata={"model": config.metadata.name, "secret": reference.name, "key": reference.key},
        )


def _client(endpoint: Endpoint, config: ModelConfig, tls: ssl.SSLContext) -> AsyncOpenAI:
    timeout = openai.Timeout(idle_s(config), connect=_CONNECT_S)
    return AsyncOpenAI(
        api_key=endpoint.api_key or _NO_KEY,
        base_url=endpoint.url,
        max_retries=0,
        timeout=timeout,
        http_client=DefaultAioHttpClient(timeout=timeout, verify=tls),
    )
