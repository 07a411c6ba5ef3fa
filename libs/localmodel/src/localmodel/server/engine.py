"""What produces an answer: a model runtime or the extractive answerer, behind one interface."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from localmodel.server.wire import ChatRequest

FinishReason = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that an answer cost; a tool decision's own call is included."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """A piece of the answer's text; `logprobs` is passed through when it was asked for."""

    text: str
    logprobs: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token of a given text, and its log-probability after all that comes before it."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """The tokens of the request's last message."""

    tokens: tuple[Token, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolDecision:
    """The answer is a call of this tool."""

    name: str
    arguments: dict[str, Any]

    def arguments_json(self) -> str:
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The last event of an answer."""

    reason: FinishReason
    usage: Usage


Event = TextDelta | ToolDecision | Scored | Finished


class Engine(Protocol):
    """Answers one request at a time per admission slot."""

    def ready(self) -> None:
        """Returns if a request can be answered now.

        Raises:
            ApiError: 503 with the reason and Retry-After.
        """

    def answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Yields text deltas, one tool decision or the scored text, then Finished.

        Raises:
            ApiError: while iterating; before the first event if nothing was produced.
        """
