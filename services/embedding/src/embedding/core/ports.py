"""What the core needs from outside, and the values that cross that border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from manifests import ModelConfig
from manifests.endpoints import ModelEndpoint

Vectors: TypeAlias = npt.NDArray[np.float32]


class TextKind(Enum):
    """What the texts are."""

    QUERY = "query"
    PASSAGE = "passage"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What a reader of vectors must know.

    Attributes:
        name: The model's own name, not that of a ModelConfig.
        dimension: Elements of one vector.
        max_input_tokens: Tokens of one text that are read.
        fingerprint: Vectors of different fingerprints must not be compared.
        provider: `onnx` or `openai`, for metrics.
        shorter: Dimensions that its vectors can be cut to and still be compared.
    """

    name: str
    dimension: int
    max_input_tokens: int
    fingerprint: str
    provider: str
    shorter: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedResult:
    """Vectors in the order of the texts.

    Attributes:
        vectors: [texts, dimension], each row of length 1.
        truncated: Indexes of the texts that were cut, ascending.
        tokens: Tokens read of each text. An endpoint says only their sum; these are then shares of it.
    """

    vectors: Vectors
    truncated: Sequence[int]
    tokens: Sequence[int]

    @property
    def input_tokens(self) -> int:
        """Tokens of all texts."""
        return sum(self.tokens)


class Embedder(Protocol):
    """One model. Safe for concurrent calls."""

    async def describe(self) -> ModelInfo:
        """What the model is.

        Raises:
            ServiceError: Its endpoint does not answer as it should.
        """
        ...

    async def embed(self, texts: Sequence[str], kind: TextKind) -> EmbedResult:
        """Embeds at least one text; none is empty.

        Raises:
            Unavailable: MODEL_UNAVAILABLE; retry.
            ResourceExhausted: MODEL_RATE_LIMITED; retry after `retry_after`.
            FailedPrecondition: MODEL_REJECTED; do not retry.
            Internal: MODEL_BAD_RESPONSE; do not retry.
        """
        ...

    async def aclose(self) -> None:
        """Gives everything back; no call follows."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RerankResult:
    """Scores in the order of the passages.

    Attributes:
        scores: Higher is better.
        truncated: Indexes of the passages that were cut, as far as the model says it.
    """

    scores: Sequence[float]
    truncated: Sequence[int]


class Reranker(Protocol):
    """One model that reads query and passage together. Safe for concurrent calls."""

    async def rerank(self, query: str, passages: Sequence[str]) -> RerankResult:
        """Scores at least one passage; none is empty.

        Raises:
            ServiceError: As `Embedder.embed`.
        """
        ...

    async def aclose(self) -> None:
        """Gives everything back; no call follows."""
        ...


class ModelConfigs(Protocol):
    """The ModelConfigs of all namespaces."""

    def usable_model(self, tenant: str, said: str) -> ModelConfig | None:
        """The ModelConfig that a tenant calls so: `name`, or `owner/name` of one whose owner allows it.

        Reads memory only. None: there is none, or not for this tenant.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSource:
    """A folder with model.onnx, tokenizer.json and config.json."""

    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSource(ModelEndpoint):
    """An OpenAI-compatible endpoint. Equal sources share one client.

    Attributes:
        dimensions: Are asked for; None: the model's own.
    """

    timeout: timedelta = timedelta(seconds=60)
    max_retries: int = 2
    max_concurrent: int = 32
    dimensions: int | None = None


Source: TypeAlias = LocalSource | RemoteSource


M_co = TypeVar("M_co", covariant=True)


class Open(Protocol[M_co]):
    """Makes the model of a source; loads a local one, does not call a remote one."""

    async def __call__(self, source: Source) -> M_co: ...


OpenEmbedder: TypeAlias = Open[Embedder]
