"""Models, by hand: they play scripts and remember what they were asked."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from manifests import ModelConfig
from orchestrator.core.chat import Completion, Prompt, TextPart, Tool, ToolCall
from orchestrator.core.ports import ChatModel
from orchestrator.core.structured import Schema

Part = TextPart | Completion | Exception | asyncio.Event | float
Script = Sequence[Part]


def says(text: str, *, tokens: int = 1) -> Script:
    """An answer, word by word."""
    words = text.split(" ")
    pieces = [word if index == 0 else f" {word}" for index, word in enumerate(words)]
    return [*(TextPart(text=piece) for piece in pieces), done(text, tokens=tokens)]


def calls(*wanted: tuple[str, str], text: str = "") -> Script:
    """Asks for tools: names with arguments as JSON."""
    made = tuple(
        ToolCall(id=f"id-{index}", name=name, arguments=arguments)
        for index, (name, arguments) in enumerate(wanted)
    )
    parts: list[Part] = [TextPart(text=text)] if text else []
    return [*parts, replace(done(text), tool_calls=made, finish_reason="tool_calls")]


def delegates(*wanted: tuple[str, str]) -> Script:
    """A leader's calls: members with tasks."""
    return calls(*(("delegate_task", f'{{"member": "{m}", "task": "{t}"}}') for m, t in wanted))


def done(text: str, *, tokens: int = 1) -> Completion:
    """How a stream ends."""
    return Completion(
        text=text,
        tool_calls=(),
        finish_reason="stop",
        model="fake",
        input_tokens=tokens,
        output_tokens=tokens,
    )


@dataclass
class Call:
    """What a model was asked."""

    prompts: list[Prompt]
    tools: list[str]
    must_answer: bool
    config: str
    answer_schema: Schema | None = None

    @property
    def last(self) -> str:
        """The last message."""
        return self.prompts[-1].content


@dataclass
class FakeModels:
    """Every call plays the next script; `choose` picks by what is asked."""

    scripts: deque[Script] = field(default_factory=deque)
    choose: Callable[[Call], Script] | None = None
    calls: list[Call] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, *scripts: Script) -> None:
        """For the next calls."""
        self.scripts.extend(scripts)

    @asynccontextmanager
    async def lease(self, config: ModelConfig) -> AsyncIterator[ChatModel]:
        """See ChatModels."""
        yield _FakeModel(self, config.metadata.name)


@dataclass
class _FakeModel:
    owner: FakeModels
    config: str

    async def stream(
        self,
        messages: Sequence[Prompt],
        *,
        tools: Sequence[Tool],
        must_answer: bool,
        answer_schema: Schema | None = None,
    ) -> AsyncIterator[TextPart | Completion]:
        call = Call(list(messages), [t.name for t in tools], must_answer, self.config, answer_schema)
        self.owner.calls.append(call)
        self.owner.called.set()
        script = self.owner.choose(call) if self.owner.choose else self.owner.scripts.popleft()
        for part in script:
            if isinstance(part, Exception):
                raise part
            if isinstance(part, asyncio.Event):
                await part.wait()
            elif isinstance(part, float):
                await asyncio.sleep(part)
            else:
                yield part
