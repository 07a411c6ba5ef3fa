"""Which endpoint a judge's ModelConfig means, and the connections to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import openai
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from evaluation.adapters.judge_openai import OpenAIJudge
from evaluation.core.ports import JudgeModel
from manifests import ModelConfig, ModelConfigSpec, Objects
from manifests.endpoints import (
    CONNECT_S,
    EndpointUnusable,
    ModelEndpoint,
    Secrets,
    endpoint_of,
    trust_of,
)
from servicekit.errors import FailedPrecondition, NotFound
from servicekit.leases import Leases

_MAX_OPEN = 32


class _Judge(NamedTuple):
    judge: OpenAIJudge
    client: AsyncOpenAI


class EndpointJudges:
    """`Judges` over manifests; opens each endpoint once, and keeps the last used ones.

    Args:
        objects: The manifests.
        built_in: What `provider: BuiltIn` means here; None: nothing.
        secrets: Keys, headers and certificates.
    """

    def __init__(self, *, objects: Objects, built_in: ModelEndpoint | None, secrets: Secrets) -> None:
        self._objects = objects
        self._built_in = built_in
        self._secrets = secrets
        self._open = Leases[tuple[str, str, ModelConfigSpec, ModelEndpoint], _Judge](
            most=_MAX_OPEN, close=lambda opened: opened.client.close()
        )

    @asynccontextmanager
    async def lease(self, tenant: str, name: str) -> AsyncIterator[JudgeModel]:
        """See Judges."""
        # Asked each time: what the owner takes back is not used again.
        config = self._objects.usable_model(tenant, name)
        if config is None or config.spec.type != "Chat":
            raise NotFound(
                f"judgeModelConfigRef: no ModelConfig {name} of type Chat for namespace {tenant}; apply one, "
                "or let its owner allow it",
                reason="MODEL_NOT_FOUND",
                metadata={"model": name, "namespace": tenant},
            )
        try:
            # Read each time: a rotated key makes another endpoint, hence another client.
            endpoint = await asyncio.to_thread(endpoint_of, config, self._secrets, built_in=self._built_in)
        except EndpointUnusable as error:
            raise _rejected(error) from error

        async def make() -> _Judge:
            client = _client(endpoint, config)
            return _Judge(OpenAIJudge(client=client, model=endpoint.model, config=config), client)

        async with self._open.lease((tenant, name, config.spec, endpoint), make) as opened:
            yield opened.judge

    async def close(self) -> None:
        """Closes all connections."""
        await self._open.close()


def _client(endpoint: ModelEndpoint, config: ModelConfig) -> AsyncOpenAI:
    try:
        trust = trust_of(config, endpoint)
    except EndpointUnusable as error:
        raise _rejected(error) from error
    return AsyncOpenAI(
        **endpoint.client_options,
        timeout=openai.Timeout(config.spec.limits.timeout_seconds, connect=CONNECT_S),
        http_client=None if trust is None else DefaultAsyncHttpxClient(verify=trust),
    )


def _rejected(error: EndpointUnusable) -> FailedPrecondition:
    return FailedPrecondition(str(error), reason="MODEL_REJECTED", metadata=error.metadata)
