"""Talking to a model: what it is sent, what it may call, how it answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """What a model may call.

    `parameters` is a JSON schema; `required`: it may not answer before it has called.
    """

    name: str
    description: str
    parameters: Mapping[str, object]
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What a model wants called. `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


PromptKind = Literal["", "history", "memory", "summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One message to a model; `tool_call_id` makes it the answer of a tool.

    What has a kind comes from before the question, and may be left out if the
    prompt does not fit.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    kind: PromptKind = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPart:
    """The next piece of the text that a model writes."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A model has answered: the last thing that a model's stream yields."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    input_tokens: int
    output_tokens: int
    attempts: int = 1
    counted: bool = True  # by the endpoint that was asked first; else a guess, or another model's count
