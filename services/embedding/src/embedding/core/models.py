"""Which model a name means, and the embedders that are open."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Generic, Literal, Protocol, TypeVar

from embedding.core.ports import (
    Embedder,
    LocalSource,
    ModelSpec,
    ModelSpecs,
    Open,
    RemoteSource,
    Reranker,
    Secrets,
    Source,
)
from embedding.core.shortened import Shortened
from servicekit.errors import NotFound

BUILTIN = "builtin"
ModelType = Literal["Embedding", "Rerank"]
OPENAI_URL = "https://api.openai.com/v1"


class _Closes(Protocol):
    async def aclose(self) -> None: ...


M = TypeVar("M", bound=_Closes)


@dataclass(slots=True, kw_only=True)
class _Open(Generic[M]):
    model: M
    users: int = 0
    dropped: bool = False


class OpenModels(Generic[M]):
    """Finds models of one type by name, and opens each distinct one once.

    Args:
        builtin: The model that the installation provides, if it does.
        specs: The ModelConfigs; None: there is only `models/builtin`.
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
        specs: ModelSpecs | None,
        secrets: Secrets,
        open_embedder: Open[M],
        max_open: int = 32,
    ) -> None:
        self._builtin = builtin
        self._specs = specs
        self._secrets = secrets
        self._open_embedder = open_embedder
        self._max_open = max_open
        self._open: OrderedDict[Source, _Open[M]] = OrderedDict()
        self._opening = asyncio.Lock()

    @asynccontextmanager
    async def lease(self, namespace: str, name: str) -> AsyncIterator[M]:
        """The model of `models/{name}`; it stays open for the block.

        Raises:
            NotFound: MODEL_NOT_FOUND.
            FailedPrecondition: MODEL_REJECTED; one of its secrets is not there or cannot be used.
        """
        source, dimensions = await self._source(namespace, name)
        opened = self._open.get(source)
        if opened is None:
            async with self._opening:
                opened = self._open.get(source)
                if opened is None:
                    opened = _Open(model=await self._open_embedder(source))
                    self._open[source] = opened
        self._open.move_to_end(source)
        opened.users += 1
        try:
            await self._shrink()
            yield opened.model if dimensions is None else self._shortened(opened.model, dimensions)
        finally:
            opened.users -= 1
            if opened.dropped and opened.users == 0:
                await opened.model.aclose()

    async def warm_up(self) -> None:
        """Opens the built-in model, so that the first call does not wait for it."""
        if self._builtin is not None:
            async with self.lease("", BUILTIN):
                pass

    async def aclose(self) -> None:
        """Closes every model."""
        while self._open:
            _, opened = self._open.popitem()
            await opened.model.aclose()

    def _shortened(self, model: M, dimensions: int) -> M:
        raise AssertionError(f"a model of type {self.TYPE} has no dimensions")  # manifests refuse it

    async def _shrink(self) -> None:
        while len(self._open) > self._max_open:
            _, oldest = self._open.popitem(last=False)
            oldest.dropped = True
            if oldest.users == 0:
                await oldest.model.aclose()

    async def _source(self, namespace: str, name: str) -> tuple[Source, int | None]:
        """Where the model is, and what its vectors are cut to here; an endpoint cuts them itself."""
        spec = self._specs.find(namespace, name) if self._specs is not None else None
        if spec is None:
            if name != BUILTIN:
                raise _not_found(
                    name,
                    f"models/{name}: no ModelConfig of that name in namespace {namespace!r}; "
                    f"apply one, or use models/{BUILTIN}",
                )
            return self._installed(name), None
        if spec.type != self.TYPE:
            raise _not_found(
                name, f"models/{name} is of type {spec.type}; name a ModelConfig of type {self.TYPE}"
            )
        if spec.provider == "BuiltIn":
            builtin = self._installed(name)
            if isinstance(builtin, LocalSource):
                return builtin, spec.dimensions
            return replace(builtin, dimensions=spec.dimensions), None
        return await self._remote(namespace, name, spec), None

    def _installed(self, name: str) -> Source:
        if self._builtin is None:
            raise _not_found(
                name,
                f"models/{name}: this installation provides no model of type {self.TYPE}; "
                f"set {self.SETTINGS}",
            )
        return self._builtin

    async def _remote(self, namespace: str, name: str, spec: ModelSpec) -> RemoteSource:
        url = OPENAI_URL if spec.provider == "OpenAI" else spec.url
        if url is None or spec.model is None:
            raise _not_found(
                name, f"models/{name}: provider {spec.provider} cannot be used for type {self.TYPE}"
            )
        # Read at every call: a rotated key makes another source, hence another client.
        key = await self._secrets.read(namespace, spec.secret) if spec.secret is not None else None
        read = self._secrets.read
        headers = tuple([(header, await read(namespace, ref)) for header, ref in spec.headers])
        authorities = await read(namespace, spec.authorities, lines=True) if spec.authorities else ""
        return RemoteSource(
            url=url,
            model=spec.model,
            api_key=key,
            headers=headers,
            authorities=authorities,
            timeout=spec.timeout,
            max_retries=spec.max_retries,
            max_concurrent=spec.max_concurrent,
            dimensions=spec.dimensions,
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
    return NotFound(message, reason="MODEL_NOT_FOUND", metadata={"model": f"models/{name}"})
