"""What the stand-in model answers: requests, replies, faults and the built-in scenarios.

Nothing here knows HTTP; `model_server` carries it over the wire.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from asyncio import Event
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import msgspec
import numpy as np

FaultKind = Literal[
    "status",
    "stall",
    "cut",
    "bad_json",
    "bad_tool_arguments",
    "unknown_tool",
    "empty_choices",
    "html",
]
StallPoint = Literal["headers", "first_chunk", "middle"]
ScenarioName = Literal["quickstart", "one-search", "answer"]

_WORD = re.compile(r"[^\W_]+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_CITATION = re.compile(r"\[(\d+)\]")
_STOP_WORDS = frozenset(
    {"and", "are", "but", "can", "did", "does", "for", "from", "had", "has", "have", "how", "its", "not"}
    | {"that", "the", "this", "was", "were", "what", "when", "where", "which", "who", "with", "you", "your"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asks for; `arguments` as text is sent as it is, valid JSON or not."""

    name: str
    arguments: Mapping[str, object] | str = field(default_factory=dict)
    id: str = ""

    def arguments_json(self) -> str:
        if isinstance(self.arguments, str):
            return self.arguments
        return msgspec.json.encode(dict(self.arguments)).decode()


@dataclass(frozen=True, slots=True)
class Reply:
    """One chat answer. `chunks` are the deltas; `text` alone is split at its words."""

    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    chunks: Sequence[str] = ()
    finish_reason: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    # The answer stops after `gate_after` deltas until the event is set, so a
    # test can act in the middle of a stream without sleeping.
    gate: Event | None = None
    gate_after: int = 0
    # Of the first token, for answers that are not streamed: its likeliest forms with their probabilities.
    top_logprobs: Mapping[str, float] | None = None
    # Of the prompt's tokens: each with its logarithm. For requests that ask, as vLLM has it.
    prompt_logprobs: Sequence[tuple[str, float]] | None = None

    def deltas(self) -> Sequence[str]:
        if self.chunks:
            return self.chunks
        return re.findall(r"\s*\S+\s*$|\s*\S+", self.text) or ([self.text] if self.text else [])

    def full_text(self) -> str:
        return "".join(self.chunks) if self.chunks else self.text


@dataclass(slots=True, kw_only=True)
class Fault:
    """Trouble for the next `times` matching requests (None: until cleared), after `skip` good ones."""

    kind: FaultKind
    times: int | None = 1
    skip: int = 0
    path: str = ""  # only requests whose path contains it
    contains: str = ""  # only requests whose raw body contains it
    status: int = 500
    retry_after_s: float | None = None
    message: str = "the stand-in was told to fail"
    at: StallPoint = "headers"
    seconds: float = 30.0
    after_chunks: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(get_args(FaultKind))}")
        if self.at not in get_args(StallPoint):
            raise ValueError(f"at {self.at!r} is not one of {', '.join(get_args(StallPoint))}")

    def take(self, path: str, body: bytes, *, has_tools: bool) -> bool:
        """Says whether it strikes this request, and counts it if so."""
        if self.times == 0 or self.path not in path or self.contains.encode() not in body:
            return False
        if self.kind in ("bad_tool_arguments", "unknown_tool") and not has_tools:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request as the scripts see it."""

    body: Mapping[str, Any]

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        return self.body.get("messages") or []

    @property
    def tools(self) -> Mapping[str, Mapping[str, Any]]:
        """The tools that may be called, by name; none if `tool_choice` forbids them."""
        if self.body.get("tool_choice") == "none":
            return {}
        return {tool["function"]["name"]: tool["function"] for tool in self.body.get("tools") or []}

    @property
    def forced_tool(self) -> str:
        choice = self.body.get("tool_choice")
        return str(choice["function"]["name"]) if isinstance(choice, Mapping) else ""

    @property
    def turn(self) -> Sequence[Mapping[str, Any]]:
        """The last user message and all that follows it."""
        for index in range(len(self.messages) - 1, -1, -1):
            if self.messages[index].get("role") == "user":
                return self.messages[index:]
        return self.messages

    @property
    def last_user_text(self) -> str:
        turn = self.turn
        return _text_of(turn[0]) if turn and turn[0].get("role") == "user" else ""

    @property
    def evidence(self) -> str:
        """What this turn knows: tool results, and evidence lines shown in a message."""
        shown = [_text_of(m) for m in self.turn if m.get("role") == "tool"]
        system = [m for m in self.messages if m.get("role") in ("system", "developer")]
        shown += [t for m in [*system, *self.turn] if "<evidence>" in (t := _text_of(m))]
        return "\n".join(dict.fromkeys(shown))

    def called(self, tool: str) -> Sequence[Mapping[str, Any]]:
        """Arguments of the calls of a tool in this turn that have a result."""
        done = {m.get("tool_call_id") for m in self.turn if m.get("role") == "tool"}
        calls = [c for m in self.turn for c in m.get("tool_calls") or [] if c["function"]["name"] == tool]
        return [msgspec.json.decode(c["function"]["arguments"]) for c in calls if c["id"] in done]


Script = Callable[[ChatRequest], Reply | None]


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)


def scenario(name: ScenarioName, *, chunks: int = 40) -> Callable[[ChatRequest], Reply]:
    """The built-in behaviours.

    - quickstart: delegates to every member in order, searches once, then answers;
    - one-search: searches once, then answers, never delegates;
    - answer: answers at once.

    Args:
        name: which one.
        chunks: deltas of an answer; its last one is a citation if there is evidence.
    """
    if name not in get_args(ScenarioName):
        raise ValueError(f"scenario {name!r} is not one of {', '.join(get_args(ScenarioName))}")

    def reply(request: ChatRequest) -> Reply:
        tools = request.tools if name != "answer" else {}
        if name == "quickstart" and (delegation := tools.get("delegate_task")):
            members = delegation["parameters"]["properties"]["member"]["enum"]
            answered = {call.get("member") for call in request.called("delegate_task")}
            for member in members:
                if member not in answered:
                    arguments = {"member": member, "task": request.last_user_text}
                    return Reply(tool_calls=[ToolCall(name="delegate_task", arguments=arguments)])
        search = "search_knowledge"
        forced = request.forced_tool == search
        if search in tools and (forced or not (request.evidence or request.called(search))):
            return Reply(tool_calls=[ToolCall(name=search, arguments={"query": request.last_user_text})])
        return Reply(chunks=answer_chunks(request.evidence, chunks))

    return reply


def answer_chunks(evidence: str, count: int) -> list[str]:
    """Exactly `count` deltas of one word each that quote the evidence numbered lowest, and cite it."""
    citation = min(_CITATION.finditer(evidence), key=lambda found: int(found[1]), default=None)
    if citation is None:
        words = ["I", " found", " nothing", " in", " the", " documents."]
        tail: list[str] = []
    else:
        quoted = [f" {word}" for word in _WORD.findall(evidence[citation.end() :])[:200]]
        words = ["According", " to", " the", " documents:", *quoted]
        tail = [f" [{citation[1]}]."]
    body = itertools.islice(itertools.cycle(words), max(0, count - len(tail)))
    return [*body, *tail]


def count_tokens(text: str) -> int:
    """Words and punctuation marks: crude, but the same everywhere."""
    return len(_TOKEN.findall(text))


@functools.lru_cache(maxsize=65536)
def _word_vector(word: str, dimension: int) -> tuple[tuple[int, float], ...]:
    digest = hashlib.blake2b(word.encode(), digest_size=24).digest()
    picks = (int.from_bytes(digest[i : i + 3], "little") for i in range(0, 24, 3))
    return tuple(((pick >> 1) % dimension, 1.0 if pick & 1 else -1.0) for pick in picks)


def embed_words(text: str, dimension: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """A unit vector made of the text's words: texts that share words are close, others nearly orthogonal."""
    words = [w for w in _WORD.findall(text.lower()) if (len(w) > 2 or w.isdigit()) and w not in _STOP_WORDS]
    vector = np.zeros(dimension, dtype=np.float32)
    for word in words or [text]:
        for index, sign in _word_vector(word, dimension):
            vector[index] += sign
    length = float(np.linalg.norm(vector))
    if length == 0.0:  # the signs can cancel out
        vector[0] = length = 1.0
    return vector / np.float32(length)
