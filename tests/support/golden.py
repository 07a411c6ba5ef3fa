"""Golden histories: what the log of a run of an example holds, kept in tests/golden/.

A `Scene` is an example with a question and a script that answers as its model.
`play` runs it; `compare` holds what came of it against the golden file (or
writes that: `make golden`); `cut_anywhere` takes a history over after each of
its events, so that it fails when a step that is in the log is done again.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from agentteams.session.v1 import run_pb2
from google.protobuf.json_format import MessageToDict, ParseDict

from manifests import AgentTeam, Catalogue, ModelConfig
from orchestrator.adapters.events_pb import event_to_pb, stored_event
from orchestrator.core.chat import Completion, Prompt, TextPart, Tool, ToolCall
from orchestrator.core.ledger import Ledger
from orchestrator.core.log import RunLog
from orchestrator.core.model import (
    Event,
    EvidenceRetrieved,
    MemberFinished,
    Message,
    MessageCompleted,
    ModelCallFinished,
    RunFinished,
    RunInput,
    SearchResult,
    StepFinished,
    TasksChanged,
    ToolCallFinished,
)
from orchestrator.core.ports import ChatModel
from orchestrator.core.recorded import Recorded
from orchestrator.core.run import execute
from orchestrator.core.stages import StageClock
from orchestrator.core.structured import Schema
from orchestrator.core.tools import NoTools, Tools
from orchestrator.core.turn import Turn, World
from tests.support.fake_knowledge import FakeEmbedder, FakeKnowledge, chunk
from tests.support.fake_store import FakeStore, LoopClock
from tests.support.model_script import ChatRequest, Reply
from tests.support.orchestrator_fakes import FakeCatalogue

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
RUN = "runs/r1"
# What differs from run to run.
_VOLATILE = {"create_time", "expire_time", "duration", "first_token_duration", "stages"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An example and how its model answers.

    Attributes:
        name: Of its golden file.
        manifests: The folder under examples/ with all that the team needs; or `teams`.
        team: Which team is asked.
        question: What.
        script: The model: the answer must follow from the request alone, so
            that a run that is taken over is answered as before. It may raise.
        documents: What every search finds, by id.
        people: What people say to the run when it asks.
        teams: Instead of manifests: the teams there are, with a chat model and knowledge.
        uneven: Its model takes longer for some requests than for others, so that what is
            done side by side ends in another order when the run is taken over.
        tools: Makes the tools of its sources.
    """

    name: str
    team: str
    question: str
    script: Callable[[ChatRequest], Reply]
    manifests: str = ""
    documents: Mapping[str, str] = field(default_factory=dict)
    people: Sequence[RunInput] = ()
    teams: Sequence[AgentTeam] = ()
    uneven: bool = False
    tools: Callable[[], Tools] = NoTools

    def catalogue(self) -> Catalogue | FakeCatalogue:
        """What there is, without problems."""
        if self.teams:
            return FakeCatalogue(all_teams=list(self.teams))
        catalogue = Catalogue(ROOT / "examples" / self.manifests)
        catalogue.load()
        if catalogue.problems:
            raise AssertionError(f"examples/{self.manifests}: {catalogue.problems}")
        return catalogue

    def found(self) -> SearchResult:
        """What every search finds."""
        chunks = tuple(chunk(name, text) for name, text in self.documents.items())
        return SearchResult(outcome="OK" if chunks else "EMPTY", chunks=chunks, ready_documents=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a scene: its whole log without the first event, and what its model was asked."""

    events: Sequence[Event]
    asked: Sequence[ChatRequest]

    @property
    def answer(self) -> str:
        """The run's answer."""
        (answer,) = [e.step.message for e in self.events if isinstance(e.step, MessageCompleted)]
        return answer.content


class ScriptedModels:
    """A scene's script as every model of a catalogue; without a server, so that the order is the same."""

    def __init__(self, script: Callable[[ChatRequest], Reply], *, uneven: bool) -> None:
        self._script = script
        self.uneven = uneven
        self.asked: list[ChatRequest] = []

    @asynccontextmanager
    async def lease(self, config: ModelConfig) -> AsyncIterator[ChatModel]:
        """See ChatModels."""
        yield _ScriptedModel(self, config.metadata.name)

    def reply(self, request: ChatRequest) -> Reply:
        """What the script says; a call that fails is not one that was answered."""
        reply = self._script(request)
        self.asked.append(request)
        return reply


class _ScriptedModel:
    def __init__(self, owner: ScriptedModels, name: str) -> None:
        self._owner, self._name = owner, name

    async def stream(
        self,
        messages: Sequence[Prompt],
        *,
        tools: Sequence[Tool],
        must_answer: bool,
        answer_schema: Schema | None = None,
    ) -> AsyncIterator[TextPart | Completion]:
        """See ChatModel."""
        body: dict[str, Any] = {"model": self._name, "messages": [_message(prompt) for prompt in messages]}
        if tools:
            body["tools"] = [
                {"type": "function", "function": {"name": t.name, "parameters": t.parameters}} for t in tools
            ]
            may_answer = not any(tool.required for tool in tools)
            body["tool_choice"] = "none" if must_answer else "auto" if may_answer else "required"
        reply = self._owner.reply(ChatRequest(body))
        if self._owner.uneven:
            await asyncio.sleep(0.1 * (sum(len(prompt.content) for prompt in messages) % 7))
        for piece in reply.deltas():
            yield TextPart(text=piece)
        wanted = [
            # A conversation only grows: an id of its own for each call, the same in every attempt.
            ToolCall(id=f"call-{len(messages)}-{n}", name=call.name, arguments=call.arguments_json())
            for n, call in enumerate(reply.tool_calls, start=1)
        ]
        yield Completion(
            text="".join(reply.deltas()),
            tool_calls=tuple(wanted),
            finish_reason="tool_calls" if wanted else "stop",
            model="scripted",
            input_tokens=10,
            output_tokens=5,
        )


async def play(scene: Scene, before: Sequence[Event] = ()) -> Played:
    """Runs a scene; takes its run over where these events of an earlier attempt end."""
    catalogue = scene.catalogue()
    team = catalogue.team("default", scene.team)
    if team is None:
        raise AssertionError(f"{scene.name}: there is no team {scene.team}")
    clock, store, models = LoopClock(), FakeStore(), ScriptedModels(scene.script, uneven=scene.uneven)
    store.log[RUN] = list(before)
    stored = [stored_event(event_to_pb(event)) for event in before]
    log = RunLog(run=RUN, fencing_token=1, store=store, clock=clock, last_sequence=1)
    log.adopt(stored)
    recorded = Recorded.of(stored)
    if misfit := recorded.misfit(team):
        raise AssertionError(f"the history is not one of team {scene.team}: {misfit}")
    turn = Turn(
        team=team,
        question=scene.question,
        history=(),
        world=World(
            catalogue=catalogue,
            models=models,
            knowledge=FakeKnowledge(results=[scene.found()]),
            embedder=FakeEmbedder(),
            tools=scene.tools(),
        ),
        log=log,
        ledger=Ledger.of(team, earlier=store.earlier_logs),
        stages=StageClock(clock),
        attempt=2 if before else 1,
        recorded=recorded,
    )
    turn.inputs.deliver(scene.people)
    await execute(turn)
    await log.close()
    return Played(events=store.log[RUN], asked=models.asked)


def compare(scene: Scene, events: Iterable[Event]) -> None:
    """Holds a history against the scene's golden file; writes that if GOLDEN=write is in the environment."""
    path = GOLDEN / f"{scene.name}.jsonl"
    lines = [json.dumps(normal(event), ensure_ascii=False) for event in events]
    if os.environ.get("GOLDEN") == "write":
        path.write_text("\n".join(lines) + "\n")
    golden = path.read_text().splitlines() if path.exists() else []
    if lines != golden:
        raise AssertionError(
            f"differs from {path.name} (is it meant so? `make golden`):\n{_difference(golden, lines)}"
        )


def normal(event: Event) -> dict[str, Any]:
    """An event as JSON without what differs from run to run."""
    fields = MessageToDict(event_to_pb(event), preserving_proto_field_name=True)
    return {name: _stable(value) for name, value in fields.items() if name not in _VOLATILE}


def golden_events(scene: Scene) -> list[Event]:
    """The history in the scene's golden file, as an earlier version of the code may have left it."""
    events = []
    for line in (GOLDEN / f"{scene.name}.jsonl").read_text().splitlines():
        stored = stored_event(ParseDict(json.loads(line), run_pb2.RunEvent()))
        if stored.step is None:
            raise AssertionError(f"{scene.name}: an event that the code does not know: {line}")
        events.append(
            Event(sequence=stored.sequence, time=stored.time, member=stored.member, step=stored.step)
        )
    return events


async def cut_anywhere(scene: Scene, whole: Sequence[Event]) -> None:
    """Takes a finished history over after each of its events but those from the answer on.

    Fails if a step that the log holds is done again, if another step is done
    than in the whole history, or if the answer is another.
    """
    answer = next(n for n, event in enumerate(whole) if isinstance(event.step, MessageCompleted))
    in_one_go = [request.body for request in (await play(scene)).asked]
    for kept in range(1, answer + 1):
        played = await play(scene, whole[:kept])
        where = f"{scene.name}, taken over after {kept} of {len(whole)} events"
        assert list(played.events[:kept]) == list(whole[:kept]), where
        assert steps(played.events) == steps(whole), where
        asked = sum(isinstance(event.step, ModelCallFinished) for event in whole[kept:])
        assert len(played.asked) == asked, where
        if not scene.uneven:  # else somebody may have reported earlier, or later, than in one go
            assert all(request.body in in_one_go for request in played.asked), where
        lists = task_lists(played.events)
        assert all(one != next_ for of in lists.values() for one, next_ in pairwise(of)), where
        assert {path: of[-1] for path, of in lists.items()} == {
            path: of[-1] for path, of in task_lists(whole).items()
        }, where
        end = played.events[-1].step
        assert isinstance(end, RunFinished), where
        assert end.summary.usage == whole[-1].step.summary.usage, where  # type: ignore[union-attr]


def task_lists(events: Iterable[Event]) -> dict[str, list[TasksChanged]]:
    """How each task list changed, by the path of its team."""
    lists: dict[str, list[TasksChanged]] = {}
    for event in events:
        if isinstance(event.step, TasksChanged):
            lists.setdefault(event.step.path, []).append(event.step)
    return lists


def steps(events: Iterable[Event]) -> list[str]:
    """What was done, in any order: each finished step with what it came to."""
    done = []
    for event in events:
        match event.step:
            case ModelCallFinished(step=step, text=text):
                done.append(f"model {step}: {text}")
            case ToolCallFinished(call_id=call_id, result=result):
                done.append(f"tool {call_id}: {result}")
            case EvidenceRetrieved(step=step, outcome=outcome):
                done.append(f"search {step}: {outcome}")
            case MemberFinished(call_id=call_id, answer=answer):
                done.append(f"member {call_id}: {answer}")
            case StepFinished(path=path, attempt=attempt, output=output):
                done.append(f"step {path} {attempt}: {output}")
            case MessageCompleted(message=Message(content=content)):
                done.append(f"answer: {content}")
    return sorted(done)


def _message(prompt: Prompt) -> dict[str, object]:
    message: dict[str, object] = {"role": prompt.role, "content": prompt.content}
    if prompt.tool_calls:
        message["tool_calls"] = [
            {"id": c.id, "function": {"name": c.name, "arguments": c.arguments}} for c in prompt.tool_calls
        ]
    if prompt.tool_call_id:
        message["tool_call_id"] = prompt.tool_call_id
    return message


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(value[key]) for key in sorted(value) if key not in _VOLATILE}
    return [_stable(item) for item in value] if isinstance(value, list) else value


def _difference(golden: Sequence[str], lines: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415

    return "\n".join(difflib.unified_diff(golden, lines, "golden", "now", lineterm="", n=1))
