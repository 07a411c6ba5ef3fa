"""Which model a name means, and the embedders that are open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from embedding.core.ports import (
    Embedder,
    LocalSource,
    ModelConfigs,
    Open,
    RemoteSource,
    Reranker,
    Source,
)
from embedding.core.shortened import Shortened
from manifests import ModelConfig
from manifests.base import model_resource, owner_and_name
from manifests.endpoints import EndpointUnusable, Secrets, endpoint_of, has_secrets
from manifests.sharing import not_permitted
from servicekit.errors import FailedPrecondition, NotFound
from servicekit.leases import Leases

BUILTIN = "builtin"
ModelType = Literal["Embedding", "Rerank"]


class _Closes(Protocol):
    async def aclose(self) -> None: ...


M = TypeVar("M", bound=_Closes)


class OpenModels(Generic[M]):
    """Finds models of one type by name, and opens each distinct one once.

    Args:
        builtin: The model that the installation provides, if it does.
        configs: The ModelConfigs; None: there is only `models/builtin`.
        secrets: Where their API keys are.
        open_embedder: Makes one.
        max_open: Models open at a time; the one not used for longest goes first.
    """

    TYPE: ClassVar[ModelType]
    SETTINGS: ClassVar[str]  # that say where the builtin one is

    def __init__(
        self,
        *,
        builtin: Source | None,
        configs: ModelConfigs | None,
        secrets: Secrets,
        open_embedder: Open[M],
        max_open: int = 32,
    ) -> None:
        self._builtin = builtin
        self._configs = configs
        self._secrets = secrets
        self._open_embedder = open_embedder
        self._open = Leases[Source, M](most=max_open, close=lambda model: model.aclose())

    @asynccontextmanager
    async def lease(self, namespace: str, name: str) -> AsyncIterator[M]:
        """The model that a namespace calls so; it stays open for the block.

        Raises:
            NotFound: MODEL_NOT_FOUND.
            FailedPrecondition: MODEL_REJECTED; one of its secrets is not there or cannot be used.
        """
        source, dimensions = await self._source(namespace, name)
        async with self._open.lease(source, lambda: self._open_embedder(source)) as model:
            yield model if dimensions is None else self._shortened(model, dimensions)

    async def warm_up(self) -> None:
        """Opens the built-in model, so that the first call does not wait for it."""
        if self._builtin is not None:
            async with self.lease("", BUILTIN):
                pass

    async def aclose(self) -> None:
        """Closes every model."""
        await self._open.close()

    def _shortened(self, model: M, dimensions: int) -> M:
        raise AssertionError(f"a model of type {self.TYPE} has no dimensions")  # manifests refuse it

    async def _source(self, namespace: str, name: str) -> tuple[Source, int | None]:
        """Where the model is, and what its vectors are cut to here; an endpoint cuts them itself."""
        config = self._configs.usable_model(namespace, name) if self._configs is not None else None
        if config is None:
            if name != BUILTIN:
                owner, own = owner_and_name(namespace, name)
                if owner != namespace:
                    raise _not_found(name, not_permitted("ModelConfig", owner, own, namespace))
                raise _not_found(
                    name,
                    f"models/{name}: no ModelConfig of that name in namespace {namespace!r}; "
                    f"apply one, or use models/{BUILTIN}",
                )
            return self._installed(name), None
        spec = config.spec
        if spec.type != self.TYPE:
            raise _not_found(
                name, f"{model_resource(name)} is of type {spec.type}; name a ModelConfig of type {self.TYPE}"
            )
        if spec.provider == "BuiltIn":
            builtin = self._installed(name)
            if isinstance(builtin, LocalSource):
                return builtin, spec.embedding.dimensions
            return replace(builtin, dimensions=spec.embedding.dimensions), None
        return await self._remote(config), None

    def _installed(self, name: str) -> Source:
        if self._builtin is None:
            raise _not_found(
                name,
                f"models/{name}: this installation provides no model of type {self.TYPE}; "
                f"set {self.SETTINGS}",
            )
        return self._builtin

    async def _remote(self, config: ModelConfig) -> RemoteSource:
        try:
            # Read at every call: a rotated key makes another source, hence another client.
            read = asyncio.to_thread(endpoint_of, config, self._secrets) if has_secrets(config.spec) else None
            endpoint = await read if read else endpoint_of(config, self._secrets)
        except EndpointUnusable as exc:
            raise FailedPrecondition(str(exc), reason="MODEL_REJECTED", metadata=exc.metadata) from exc
        limits = config.spec.limits
        return RemoteSource(
            url=endpoint.url,
            model=endpoint.model,
            api_key=endpoint.api_key,
            headers=endpoint.headers,
            authorities=endpoint.authorities,
            timeout=timedelta(seconds=limits.timeout_seconds),
            max_retries=limits.max_retries,
            max_concurrent=limits.max_concurrent,
            dimensions=config.spec.embedding.dimensions,
        )


class Models(OpenModels[Embedder]):
    """The embedding models."""

    TYPE = "Embedding"
    SETTINGS = "AGENTTEAMS_BUILTIN_EMBEDDING_DIR or AGENTTEAMS_BUILTIN_EMBEDDING_MODEL"

    def _shortened(self, model: Embedder, dimensions: int) -> Embedder:
        return Shortened(model, dimensions)


class Rerankers(OpenModels[Reranker]):
    """The models that rerank."""

    TYPE = "Rerank"
    SETTINGS = "AGENTTEAMS_BUILTIN_RERANK_DIR"


def _not_found(name: str, message: str) -> NotFound:
    return NotFound(message, reason="MODEL_NOT_FOUND", metadata={"model": model_resource(name)})
