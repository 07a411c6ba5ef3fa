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

from manifests import ModelConfig, ModelConfigSpec, SecretKeyRef
from orchestrator.adapters.llm_openai import OpenAIChatModel, idle_s
from orchestrator.adapters.secrets import read_secret
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
    headers: tuple[tuple[str, str], ...] = ()
    authorities: str = ""  # certificates (PEM) of those that may vouch for it; empty: the system's


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
            tls = _trusting(endpoint.authorities, config) if endpoint.authorities else self._tls
            opened = self._open[key] = _Open(_client(endpoint, config, tls))
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
        return Endpoint(
            url=url,
            api_key=self._header(config, spec.credentials_secret_key_ref) or _NO_KEY,
            model=spec.model or "",
            headers=tuple(
                (header.name, self._header(config, header.value_from.secret_key_ref))
                for header in spec.headers_from
            ),
            authorities="" if spec.tls is None else self._secret(config, spec.tls.ca_secret_key_ref),
        )

    def _header(self, config: ModelConfig, reference: SecretKeyRef | None) -> str:
        value = "" if reference is None else self._secret(config, reference)
        # Nothing else can be sent, and the error of the HTTP library would show it.
        if reference is not None and not (value.isascii() and value.isprintable()):
            what = f"secret {reference.name}, key {reference.key} holds characters that no header can have"
            raise _unusable(config, reference, what)
        return value

    def _secret(self, config: ModelConfig, reference: SecretKeyRef) -> str:
        try:
            return read_secret(self._secrets_dir, reference)
        except LookupError as error:
            raise _unusable(config, reference, str(error)) from error


def _unusable(config: ModelConfig, reference: SecretKeyRef, why: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"ModelConfig {config.metadata.name}: {why}",
        reason="MODEL_REJECTED",
        metadata={"model": config.metadata.name, "secret": reference.name, "key": reference.key},
    )


def _trusting(authorities: str, config: ModelConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=authorities)
    except ssl.SSLError as error:
        if config.spec.tls is None:
            raise AssertionError("only tls.caSecretKeyRef names authorities") from error
        reference = config.spec.tls.ca_secret_key_ref
        what = f"secret {reference.name}, key {reference.key} holds no certificates (PEM)"
        raise _unusable(config, reference, what) from error
    return context


def _client(endpoint: Endpoint, config: ModelConfig, tls: ssl.SSLContext) -> AsyncOpenAI:
    timeout = openai.Timeout(idle_s(config), connect=_CONNECT_S)
    return AsyncOpenAI(
        api_key=endpoint.api_key or _NO_KEY,
        base_url=endpoint.url,
        max_retries=0,
        timeout=timeout,
        default_headers=dict(endpoint.headers),
        http_client=DefaultAioHttpClient(timeout=timeout, verify=tls),
    )
