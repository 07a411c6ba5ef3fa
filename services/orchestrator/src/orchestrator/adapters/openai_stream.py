"""The lines of a streamed chat completion, put together to an answer."""

from collections.abc import Iterator

import msgspec

from orchestrator.core.chat import Completion, ToolCall
from servicekit.errors import Internal, ResourceExhausted, Unavailable

_CHARS_PER_TOKEN = 4  # where an endpoint reports no usage
_MAX_LINE_BYTES = 1_000_000
_MAX_ANSWER_CHARS = 400_000  # a model that goes on for ever must not fill our memory
_MAX_TOOL_CALLS = 64


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ToolCallDelta(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    # What a reasoning model thinks, under the names in use: counted, and no part of the answer.
    reasoning_content: object = None
    reasoning: object = None
    tool_calls: list[_ToolCallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None

    @property
    def output_tokens(self) -> int | None:
        """With those of the reasoning, which some endpoints count in the total only."""
        if self.completion_tokens is None or self.prompt_tokens is None or self.total_tokens is None:
            return self.completion_tokens
        return max(self.completion_tokens, self.total_tokens - self.prompt_tokens)


class _Failure(msgspec.Struct):
    message: str | None = None
    code: str | int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    model: str | None = None
    usage: _Usage | None = None
    error: _Failure | str | None = None


_decoder = msgspec.json.Decoder(_Chunk)


class Assembly:
    """Takes a stream's bytes as they come and knows the answer at its end.

    Args:
        name: The ModelConfig's name, for errors.
        model: The model's name, unless the endpoint says another.
    """

    def __init__(self, *, name: str, model: str) -> None:
        self._name = name
        self._model = model
        self._rest = b""
        self._texts: list[str] = []
        self._chars = 0
        self._reasoning_chars = 0
        self._calls: dict[int, list[str]] = {}  # index -> id, name, arguments
        self._finish_reason = ""
        self._usage: _Usage | None = None
        self.done = False

    def check(self, content_type: str) -> None:
        """Raises Internal if the endpoint does not stream (a login page, say)."""
        if not content_type.startswith("text/event-stream"):
            raise self._bad(f"content type {content_type or 'none'} instead of a stream of events")

    def feed(self, data: bytes) -> Iterator[str]:
        """Reads the next bytes; yields the pieces of text in them.

        Raises:
            Internal: Something that is no chat completion.
            Unavailable, ResourceExhausted: The endpoint said so in the stream.
        """
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > _MAX_LINE_BYTES:
            raise self._bad(f"a line of more than {_MAX_LINE_BYTES} bytes")
        text = []
        for line in lines:
            if not line.startswith(b"data:"):
                continue  # blank lines, comments that keep the connection alive, other fields
            payload = line[5:].strip()
            if payload == b"[DONE]":
                self.done = True
                break
            piece = self._read(payload)
            if piece:
                text.append(piece)
        if text:
            # One piece for all that one read brought: fewer steps further on.
            joined = "".join(text)
            self._texts.append(joined)
            self._chars += len(joined)
            if self._chars > _MAX_ANSWER_CHARS:
                raise self._bad(f"an answer of more than {_MAX_ANSWER_CHARS} characters")
            yield joined

    def completion(self, *, prompt_chars: int) -> Completion:
        """The answer. Raises Unavailable if the stream ended before it did."""
        if not self.done and not self._finish_reason:
            raise Unavailable(
                f"the stream of model {self._name} was cut off",
                reason="MODEL_UNAVAILABLE",
                metadata={"model": self._name},
            )
        text = "".join(self._texts)
        usage = self._usage or _Usage()
        written = (
            self._reasoning_chars
            + len(text)
            + sum(len(arguments) for _, _, arguments in self._calls.values())
        )
        calls = tuple(
            ToolCall(id=call_id or f"call_{index}", name=name, arguments=arguments)
            for index, (call_id, name, arguments) in sorted(self._calls.items())
        )
        return Completion(
            text=text,
            tool_calls=calls,
            finish_reason=self._finish_reason or "stop",
            model=self._model,
            input_tokens=_tokens(usage.prompt_tokens, prompt_chars),
            output_tokens=_tokens(usage.output_tokens, written),
            counted=usage.prompt_tokens is not None,
        )

    def _read(self, payload: bytes) -> str:
        try:
            chunk = _decoder.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._bad(f"a line that is no chat completion chunk ({error})") from error
        if chunk.error is not None:
            self._fail(chunk.error)
        if chunk.model:
            self._model = chunk.model
        if chunk.usage is not None:
            self._usage = chunk.usage
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        if choice.finish_reason:
            self._finish_reason = choice.finish_reason
        if choice.delta is None:
            return ""
        self._add_reasoning(choice.delta)
        for delta in choice.delta.tool_calls or ():
            self._add_call(delta)
        return choice.delta.content or ""

    def _add_call(self, delta: _ToolCallDelta) -> None:
        index = delta.index
        if index is None:
            # Some endpoints number nothing: an id begins a call, what has none goes on with the last.
            index = len(self._calls) if delta.id or not self._calls else max(self._calls)
        call = self._calls.setdefault(index, ["", "", ""])
        if len(self._calls) > _MAX_TOOL_CALLS:
            raise self._bad(f"more than {_MAX_TOOL_CALLS} tool calls at once")
        call[0] = delta.id or call[0]
        if delta.function is not None:
            call[1] += delta.function.name or ""
            call[2] += delta.function.arguments or ""
            self._chars += len(delta.function.arguments or "")
            if self._chars > _MAX_ANSWER_CHARS:
                raise self._bad(f"tool arguments of more than {_MAX_ANSWER_CHARS} characters")

    def _add_reasoning(self, delta: _Delta) -> None:
        thought = delta.reasoning_content or delta.reasoning
        if isinstance(thought, str):
            self._reasoning_chars += len(thought)
            if self._reasoning_chars > _MAX_ANSWER_CHARS:
                raise self._bad(f"reasoning of more than {_MAX_ANSWER_CHARS} characters")

    def _fail(self, error: _Failure | str) -> None:
        message = error if isinstance(error, str) else (error.message or "no reason given")
        code = "" if isinstance(error, str) else str(error.code)
        said = f"model {self._name} failed while it answered: {message}"
        if code == "429" or "rate_limit" in code:
            raise ResourceExhausted(said, reason="MODEL_RATE_LIMITED", metadata={"model": self._name})
        raise Unavailable(said, reason="MODEL_UNAVAILABLE", metadata={"model": self._name})

    def _bad(self, what: str) -> Internal:
        return Internal(
            f"model {self._name} sent {what}",
            reason="MODEL_BAD_RESPONSE",
            metadata={"model": self._name},
        )


def _tokens(counted: int | None, chars: int) -> int:
    return chars // _CHARS_PER_TOKEN if counted is None else counted
