"""How much a model may be told in one call."""

from dataclasses import dataclass, field

from manifests import ModelConfig
from orchestrator.core.context.tokens import Learnt

_REPLY_TOKENS = 1024  # kept free where the manifest says nothing of the answer's length


@dataclass(frozen=True, slots=True, kw_only=True)
class Contexts:
    """What is known of the models' contexts.

    Attributes:
        built_in_tokens: Of the model that the installation provides; None: not known.
        learnt: From the endpoints' counts.
    """

    built_in_tokens: int | None = None
    learnt: Learnt = field(default_factory=Learnt)

    def window(self, config: ModelConfig) -> int | None:
        """Tokens that the model can read and write in one call; None: not known."""
        own = config.spec.context_tokens
        return self.built_in_tokens if own is None and config.spec.provider == "BuiltIn" else own


def reply_tokens(config: ModelConfig, room: int) -> int:
    """Tokens to keep free for the answer where there is room for so many in all."""
    return min(config.spec.parameters.max_output_tokens or _REPLY_TOKENS, room // 2)
