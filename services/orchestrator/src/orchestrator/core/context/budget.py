"""How much a model may be told in one call."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from manifests import ModelConfig
from orchestrator.core.context.tokens import Learnt, Measure, Tokenizer

Result = TypeVar("Result")

_REPLY_TOKENS = 1024  # kept free where the manifest says nothing of the answer's length


class Tokenizers(Protocol):
    """The tokenizers that this process has."""

    async def of(self, config: ModelConfig) -> Tokenizer | None:
        """The model's own, or None."""
        ...


class NoTokenizers:
    """None at all."""

    async def of(self, config: ModelConfig) -> Tokenizer | None:
        """See Tokenizers."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """What is known of the models' contexts.

    Attributes:
        built_in_tokens: Of the model that the installation provides; None: not known.
        learnt: From the endpoints' counts.
        tokenizers: Of models whose vocabularies are at hand.
    """

    built_in_tokens: int | None = None
    learnt: Learnt = field(default_factory=Learnt)
    tokenizers: Tokenizers = field(default_factory=NoTokenizers)

    async def measure(self, config: ModelConfig) -> Measure:
        """How to count the model's tokens."""
        return await self.tokenizers.of(config) or self.learnt.percent(model_key(config))

    def window(self, config: ModelConfig) -> int | None:
        """Tokens that the model can read and write in one call; None: not known."""
        own = config.spec.context_tokens
        return self.built_in_tokens if own is None and config.spec.provider == "BuiltIn" else own


async def counting(measure: Measure, work: Callable[[], Result]) -> Result:
    """Does work that counts: in a thread where a tokenizer does it, at a microsecond or two a character."""
    return work() if isinstance(measure, int) else await asyncio.to_thread(work)


def reply_tokens(config: ModelConfig, room: int) -> int:
    """Tokens to keep free for the answer where there is room for so many in all."""
    return min(config.spec.parameters.max_output_tokens or _REPLY_TOKENS, room // 2)


def model_key(config: ModelConfig) -> str:
    """What is learnt of a model is kept under this name."""
    return config.metadata.full_name
