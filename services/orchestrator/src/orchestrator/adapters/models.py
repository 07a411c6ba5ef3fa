"""The connections to the endpoints of ModelConfigs."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import httpx2
import openai
from openai import AsyncOpenAI, DefaultAioHttpClient

from manifests import ModelConfig, ModelConfigSpec
from manifests.endpoints import (
    CONNECT_S,
    EndpointUnusable,
    ModelEndpoint,
    Secrets,
    endpoint_of,
    trust_of,
)
from orchestrator.adapters.llm_openai import OpenAIChatModel, idle_s
from orchestrator.core.ports import ChatModel
from servicekit.errors import FailedPrecondition
from servicekit.leases import Leases

_MAX_ENDPOINTS = 64


class EndpointModels:
    """Opens one client for each endpoint and ModelConfig, and keeps the last used ones.

    Args:
        built_in: What `provider: BuiltIn` means here; None: nothing.
        secrets: Keys, headers and certificates.
    """

    def __init__(self, *, built_in: ModelEndpoint | None, secrets: Secrets) -> None:
        self._built_in = built_in
        self._secrets = secrets
        # One for all: each would read the authorities' certificates anew, 45 ms in which nothing else runs.
        self._tls = httpx2.create_ssl_context()
        self._clients = Leases[tuple[ModelEndpoint, str, str, ModelConfigSpec], AsyncOpenAI](
            most=_MAX_ENDPOINTS, close=AsyncOpenAI.close
        )

    @asynccontextmanager
    async def lease(self, config: ModelConfig) -> AsyncIterator[ChatModel]:
        """See ChatModels. Raises FailedPrecondition if nothing says where the model is."""
        with _rejected():
            endpoint = endpoint_of(config, self._secrets, built_in=self._built_in)

        async def make() -> AsyncOpenAI:
            return self._client(endpoint, config)

        # Without labels and annotations, which decide nothing and cannot be hashed.
        key = (endpoint, config.metadata.namespace, config.metadata.name, config.spec)
        async with self._clients.lease(key, make) as client:
            yield OpenAIChatModel(client=client, model=endpoint.model, config=config)

    async def close(self) -> None:
        """Closes all connections."""
        await self._clients.close()

    def _client(self, endpoint: ModelEndpoint, config: ModelConfig) -> AsyncOpenAI:
        with _rejected():
            tls = trust_of(config, endpoint) or self._tls
        timeout = openai.Timeout(idle_s(config), connect=CONNECT_S)
        return AsyncOpenAI(
            **endpoint.client_options,
            timeout=timeout,
            http_client=DefaultAioHttpClient(timeout=timeout, verify=tls),
        )


@contextmanager
def _rejected() -> Iterator[None]:
    try:
        yield
    except EndpointUnusable as error:
        raise FailedPrecondition(str(error), reason="MODEL_REJECTED", metadata=error.metadata) from error
