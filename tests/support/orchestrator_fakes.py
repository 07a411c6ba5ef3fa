"""The orchestrator's ports, by hand: they do what a test says and remember what they were asked."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from agentteams.session.v1 import run_pb2
from google.protobuf.json_format import ParseDict

from manifests import AgentTeam, KnowledgeBase, ModelConfig
from orchestrator.adapters.events_pb import event_to_pb, stored_as, stored_event
from orchestrator.core.chat import Completion, Prompt, TextPart, Tool, ToolCall
from orchestrator.core.ledger import Ledger
from orchestrator.core.log import Item, RunLog
from orchestrator.core.model import (
    Chunk,
    Embedding,
    Event,
    InputProvided,
    InputRequested,
    Message,
    RunFinished,
    RunInput,
    SearchQuery,
    SearchResult,
    StoredEvent,
)
from orchestrator.core.ports import (
    Acquired,
    Appended,
    Begun,
    BusyPolicy,
    ChatModel,
    Followed,
    Renewed,
    RunRow,
)
from orchestrator.core.recorded import Recorded
from orchestrator.core.stages import StageClock
from orchestrator.core.structured import Schema
from orchestrator.core.tools import NoTools, Tools
from orchestrator.core.turn import Turn, World
from servicekit.context import Caller, current_caller
from servicekit.errors import (
    AlreadyExists,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)

ADA = Caller("default", "ada")
LEASE_LOST = Conflict("somebody else owns it", reason="LEASE_LOST")
DOWN = Unavailable("down", reason="DEPENDENCY_UNAVAILABLE")


class LoopClock:
    """The event loop's time, which tests let fly."""

    def now(self) -> datetime:
        """From 2026 on."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The loop's."""
        return asyncio.get_running_loop().time()


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


def chunk(name: str, text: str = "") -> Chunk:
    """A chunk."""
    text = text or f"text of {name}: the warranty"
    return Chunk(id=name, document=f"d/{name}", title=f"{name}.md", text=text, score=1.0)


def ok(*names: str) -> SearchResult:
    """A search that found these chunks."""
    return SearchResult(outcome="OK", chunks=tuple(chunk(name) for name in names), ready_documents=1)


@dataclass
class FakeKnowledge:
    """Results are taken one after the other; the last one again and again."""

    results: list[SearchResult | Exception] = field(default_factory=lambda: [ok("a", "b")])
    queries: list[SearchQuery] = field(default_factory=list)
    gate: asyncio.Event | None = None
    now: str = ""  # the revision

    async def search(self, query: SearchQuery) -> SearchResult:
        """See Knowledge."""
        self.queries.append(query)
        if self.gate is not None:
            await self.gate.wait()
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result

    async def revision(self, knowledge_base: str) -> str:
        """See Knowledge."""
        return self.now


@dataclass
class FakeEmbedder:
    """Vectors that the test names; other texts are orthogonal to all."""

    angles: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None
    texts: list[str] = field(default_factory=list)

    async def embed_query(self, model: str, text: str) -> Embedding:
        """See Embedder."""
        self.texts.append(text)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.vector(text)

    def vector(self, text: str) -> Embedding:
        """The text's."""
        out = np.zeros(3, dtype=np.float32)
        if text in self.angles:
            out[:2] = np.cos(self.angles[text]), np.sin(self.angles[text])
        else:
            out[2] = 1.0
        return Embedding(vector=out, model_fingerprint=f"fp-{len(out)}")


@dataclass
class FakeStore:
    """Keeps runs as the session service does: gapless logs, by token, one writer for each session.

    Used directly it is the store of one process; `link` makes that of one among several.
    """

    log: dict[str, list[Event]] = field(default_factory=dict)
    rows: dict[str, RunRow] = field(default_factory=dict)
    owners: dict[str, Caller] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    schemas: dict[str, Schema | None] = field(default_factory=dict)
    inputs: dict[str, tuple[Message, ...]] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    asked: dict[str, tuple[int, timedelta | None]] = field(default_factory=dict)  # history, retention
    history: tuple[Message, ...] = ()
    failures: deque[Exception] = field(default_factory=deque)  # of the next appends
    failing: Exception | None = None  # of every append
    lose_answer: bool = False  # the next append is stored, and its caller never hears of it
    gate: asyncio.Event | None = None  # appends wait for it
    begin_gate: asyncio.Event | None = None
    batches: list[int] = field(default_factory=list)
    appending: asyncio.Event = field(default_factory=asyncio.Event)
    beginning: asyncio.Event = field(default_factory=asyncio.Event)
    lost: list[str] = field(default_factory=list)
    expired: list[Acquired] = field(default_factory=list)
    earlier: dict[str, list[StoredEvent]] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)  # run: process; none: free to be taken
    asked_to_stop: set[str] = field(default_factory=set)
    reads: int = 0
    said: dict[str, dict[str, RunInput]] = field(default_factory=dict)  # by run and call
    parked_until: dict[str, datetime] = field(default_factory=dict)
    parks: bool = True  # the version before did not
    earlier_runs: list[list[StoredEvent]] = field(default_factory=list)

    async def begin(
        self,
        *,
        request_id: str,
        team: str,
        session: str,
        messages: Sequence[Message],
        history_messages: int,
        team_revision: str,
        on_busy: BusyPolicy,
        max_active_runs: int,
        answer_schema: Schema | None = None,
        retention: timedelta | None,
    ) -> Begun:
        """See SessionLog."""
        self.beginning.set()
        if self.begin_gate is not None:
            await self.begin_gate.wait()
        if request_id in self.requests:
            row = self.rows[self.requests[request_id]]
            return Begun(run=row, created=False, fencing_token=0, history=(), started=None)
        before = [row for row in self.rows.values() if row.session == session and not row.is_over]
        if before and on_busy == "REJECT":
            raise FailedPrecondition("busy", reason="SESSION_BUSY")
        running = sum(row.team == team and row.state == "RUNNING" for row in self.rows.values())
        if not before and running >= max_active_runs:
            raise ResourceExhausted("too many", reason="TOO_MANY_RUNS", retry_after=timedelta(seconds=2))
        number = len(self.rows) + 1
        name, session = f"runs/r{number}", session or f"sessions/s{number}"
        row = RunRow(name=name, team=team, session=session, state="PENDING", last_sequence=0, user="ada")
        self.schemas[name] = answer_schema
        self.requests[request_id], self.revisions[name] = name, team_revision
        self.rows[name], self.owners[name], self.tokens[name] = row, current_caller(), 0
        self.inputs[name], self.log[name] = tuple(messages), []
        self.asked[name] = (history_messages, retention)
        if before:
            if on_busy == "INTERRUPT":
                self.asked_to_stop.update(row.name for row in before if row.state == "RUNNING")
            return Begun(run=row, created=True, fencing_token=0, history=(), started=None)
        self._start(name)
        return Begun(
            run=self.rows[name],
            created=True,
            fencing_token=self.tokens[name],
            history=self.history,
            started=self._read(name)[0],
        )

    async def append(
        self, run: str, *, fencing_token: int, events: Sequence[Event], park_until: datetime | None = None
    ) -> Appended:
        """See SessionLog."""
        self.appending.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.popleft()
        if self.failing is not None:
            raise self.failing
        if fencing_token != self.tokens.setdefault(run, 1):
            raise LEASE_LOST
        have = self.log.setdefault(run, [])
        last = have[-1].sequence if have else 1
        new = [event for event in events if event.sequence > last]
        if new and new[0].sequence != last + 1:
            raise AssertionError(f"a gap: {last} is followed by {new[0].sequence}")
        have.extend(new)
        self.batches.append(len(events))
        stored = [stored_as(event, event_to_pb(event)) for event in events]
        if stored[-1].is_last:
            stored[-1].payload.run_finished.summary.stages.add(stage="session_save")  # type: ignore[attr-defined]
        if self.lose_answer:
            self.lose_answer = False
            await asyncio.Event().wait()
        row = self.rows.get(run)
        if row is None:
            return Appended(stored=stored)
        step = have[-1].step
        state = step.state if isinstance(step, RunFinished) else row.state
        self.rows[run] = replace(row, last_sequence=have[-1].sequence, state=state)
        waiting = [r.name for r in self.rows.values() if r.session == row.session and r.state == "PENDING"]
        next_run = None
        if isinstance(step, RunFinished) and waiting:
            self._start(waiting[0])
            self.holders[waiting[0]] = self.holders.get(run, "")
            next_run = self._acquired(waiting[0])
        unread, stop = self.unread(run), run in self.asked_to_stop
        parked = park_until is not None and not unread and not stop and self.parks
        if park_until is not None and parked:
            assert self.pending(run), "parked, and nobody was asked"
            self.parked_until[run] = park_until
            self.rows[run] = replace(self.rows[run], state="WAITING", owner_address="")
            self.holders.pop(run, None)
        return Appended(stored=stored, cancel_requested=stop, next_run=next_run, parked=parked, inputs=unread)

    async def get(self, run: str) -> RunRow:
        """See SessionLog."""
        self.reads += 1
        caller = current_caller()
        anybody = caller == Caller("default", "", "orchestrator")
        if run not in self.rows or (self.owners[run] != caller and not anybody):
            raise NotFound(run, reason="RUN_NOT_FOUND")
        return self.rows[run]

    async def events(self, run: str, *, after: int, wait: timedelta = timedelta(0)) -> list[StoredEvent]:
        """See SessionLog."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait.total_seconds()
        while True:
            stored = self.earlier[run] if run in self.earlier else self._read(run)
            events = [event for event in stored if event.sequence > after]
            if events or loop.time() >= end or (run in self.rows and self.rows[run].is_over):
                return events
            await asyncio.sleep(0.02)

    async def session_logs(self, row: RunRow) -> list[list[StoredEvent]]:
        """See SessionLog."""
        return await self.earlier_logs()

    async def earlier_logs(self) -> list[list[StoredEvent]]:
        """Of every run."""
        self.reads += 1
        return self.earlier_runs

    async def renew(self, runs: Sequence[str]) -> Renewed:
        """See SessionLog."""
        return Renewed(
            lost=[run for run in runs if run in self.lost],
            cancelled=[run for run in runs if run in self.asked_to_stop],
            inputs={run: unread for run in runs if (unread := self.unread(run))},
        )

    async def release(self, runs: Sequence[str]) -> None:
        """See SessionLog."""
        for run in runs:
            self.free(run)

    async def request_cancel(self, run: str) -> RunRow:
        """See SessionLog."""
        row = await self.get(run)
        if row.is_over:
            raise FailedPrecondition(f"{run} has ended", reason="RUN_FINISHED")
        self.asked_to_stop.add(run)
        if row.state == "WAITING":
            self.wake(run)
        return row

    async def provide(self, run: str, said: RunInput, *, user: str) -> RunRow:
        """See SessionLog."""
        row = await self.get(run)
        known = self.said.setdefault(run, {}).get(said.call_id)
        said = replace(said, user=user)
        if known is not None:
            if known != said:
                raise AlreadyExists("said already", reason="INPUT_PROVIDED")
            return row
        if row.is_over:
            raise FailedPrecondition(f"{run} has ended", reason="RUN_FINISHED")
        if said.call_id not in self.pending(run):
            raise InvalidArgument("not asked", reason="INPUT_NOT_REQUESTED")
        self.said[run][said.call_id] = said
        if row.state == "WAITING":
            self.wake(run)
        return self.rows[run]

    async def acquire_expired(self) -> list[Acquired]:
        """See SessionLog."""
        taken, self.expired = self.expired, []
        for one in taken:
            self.tokens[one.run.name] = one.fencing_token
        return taken

    # --- for tests ------------------------------------------------------------

    def link(self, process: str) -> "Link":
        """The store of one process."""
        return Link(self, process)

    def free(self, run: str, *, lost: bool = False) -> None:
        """A lease that was given back, or ran out because its owner was lost."""
        self.holders.pop(run, None)
        self.rows[run] = replace(
            self.rows[run], owner_address="", lost_attempts=self.rows[run].lost_attempts + lost
        )

    def pending(self, run: str) -> list[str]:
        """The calls about which people are asked and have not answered."""
        asked = [step.call_id for step in self.steps(run) if isinstance(step, InputRequested)]
        logged = [step.input.call_id for step in self.steps(run) if isinstance(step, InputProvided)]
        return [call for call in asked if call not in logged]

    def unread(self, run: str) -> tuple[RunInput, ...]:
        """What people said that the log does not hold yet."""
        said = self.said.get(run, {})
        return tuple(said[call] for call in self.pending(run) if call in said) if run in self.log else ()

    def wake(self, run: str) -> None:
        """A run that waited may be taken."""
        self.parked_until.pop(run, None)
        self.tokens[run] += 1
        self.rows[run] = replace(self.rows[run], state="RUNNING")

    def take(self, process: str) -> list[Acquired]:
        """All that nobody holds."""
        out = []
        for run, until in list(self.parked_until.items()):
            if LoopClock().now() >= until:
                self.wake(run)
        for run, row in self.rows.items():
            if row.state == "RUNNING" and run not in self.holders:
                self.tokens[run] += 1
                self.holders[run] = process
                self.rows[run] = replace(
                    row,
                    attempt=row.attempt + 1,
                    owner_address=process,
                    cancel_requested=run in self.asked_to_stop,
                )
                out.append(self._acquired(run))
        return out

    def crashed(self, of: AgentTeam, events: Sequence[Event], *, lost_attempts: int = 1) -> str:
        """A run whose first process was lost when these events were stored."""
        name = "runs/r1"
        team = f"teams/{of.metadata.name}"
        self.rows[name] = RunRow(
            name=name, team=team, session="sessions/s", state="RUNNING", last_sequence=0, user="ada",
            lost_attempts=lost_attempts,
        )  # fmt: skip
        self.owners[name], self.revisions[name], self.tokens[name] = ADA, of.revision, 1
        self.inputs[name], self.log[name] = (Message(role="user", content="Why?"),), list(events)
        self.rows[name] = replace(self.rows[name], last_sequence=1 + len(events))
        return name

    def steps(self, run: str = "runs/r1") -> list[Any]:
        """What is stored, without times."""
        return [event.step for event in self.log[run]]

    def _start(self, run: str) -> None:
        self.tokens[run] = 1
        self.rows[run] = replace(self.rows[run], state="RUNNING", last_sequence=1)

    def _acquired(self, run: str) -> Acquired:
        return Acquired(
            run=self.rows[run],
            fencing_token=self.tokens[run],
            caller=self.owners[run],
            history=self.history,
            input=self.inputs[run],
            inputs=self.unread(run),
        )

    def _read(self, run: str) -> list[StoredEvent]:
        if not self.tokens.get(run):
            return []
        started = run_pb2.RunEvent(sequence=1)
        started.create_time.FromDatetime(datetime(2026, 1, 1, tzinfo=UTC))
        started.run_started.team_revision = self.revisions.get(run, "")
        if schema := self.schemas.get(run):
            ParseDict(dict(schema), started.run_started.answer_schema)
        return [stored_event(event) for event in (started, *map(event_to_pb, self.log.get(run, [])))]


class Killed(Exception):
    """What a process that is no more would not notice."""


@dataclass
class Link:
    """One process' way to the store; a dead one reaches nothing any more."""

    store: FakeStore
    process: str
    dead: bool = False

    def kill(self) -> None:
        """As kill -9, and the time until the leases have run out."""
        self.dead = True
        for run in [run for run, holder in self.store.holders.items() if holder == self.process]:
            self.store.free(run, lost=True)

    async def begin(self, **asked: Any) -> Begun:
        """See SessionLog."""
        self._alive()
        begun = await self.store.begin(**asked)
        if not begun.fencing_token:
            return begun
        run = begun.run.name
        self.store.holders[run] = self.process
        self.store.rows[run] = replace(self.store.rows[run], owner_address=self.process)
        return begun

    async def append(
        self, run: str, *, fencing_token: int, events: Sequence[Event], park_until: datetime | None = None
    ) -> Appended:
        """See SessionLog."""
        self._alive()
        return await self.store.append(run, fencing_token=fencing_token, events=events, park_until=park_until)

    async def provide(self, run: str, said: RunInput, *, user: str) -> RunRow:
        """See SessionLog."""
        self._alive()
        return await self.store.provide(run, said, user=user)

    async def get(self, run: str) -> RunRow:
        """See SessionLog."""
        self._alive()
        return await self.store.get(run)

    async def events(self, run: str, *, after: int, wait: timedelta = timedelta(0)) -> list[StoredEvent]:
        """See SessionLog."""
        self._alive()
        return await self.store.events(run, after=after, wait=wait)

    async def session_logs(self, row: RunRow) -> list[list[StoredEvent]]:
        """See SessionLog."""
        self._alive()
        return await self.store.session_logs(row)

    async def renew(self, runs: Sequence[str]) -> Renewed:
        """See SessionLog."""
        self._alive()
        lost = [run for run in runs if self.store.holders.get(run) != self.process]
        return replace(await self.store.renew(runs), lost=lost)

    async def release(self, runs: Sequence[str]) -> None:
        """See SessionLog."""
        self._alive()
        await self.store.release([run for run in runs if self.store.holders.get(run) == self.process])

    async def request_cancel(self, run: str) -> RunRow:
        """See SessionLog."""
        self._alive()
        return await self.store.request_cancel(run)

    async def acquire_expired(self) -> list[Acquired]:
        """See SessionLog."""
        self._alive()
        return self.store.take(self.process)

    def _alive(self) -> None:
        if self.dead:
            raise Killed


@dataclass
class FakePeers:
    """Other processes by address; those that are not there cannot be reached."""

    processes: dict[str, Any] = field(default_factory=dict)
    followed: list[str] = field(default_factory=list)

    async def follow(self, address: str, run: str, *, after: int) -> AsyncIterator[Followed]:
        """See Peers."""
        if address not in self.processes:
            raise DOWN
        self.followed.append(address)
        async for items in self.processes[address].follow(run, after=after, forwarded=True):
            yield items

    async def cancel(self, address: str, run: str) -> None:
        """See Peers."""
        if address not in self.processes:
            raise DOWN
        await self.processes[address].cancel(run, forwarded=True)

    async def provide(self, address: str, run: str, said: RunInput) -> None:
        """See Peers."""
        if address not in self.processes:
            raise DOWN
        await self.processes[address].provide(run, said, forwarded=True)


def stored(sequence: int, kind: str = "run_started", *, member: str = "") -> StoredEvent:
    """An event out of the store."""
    return StoredEvent(
        sequence=sequence,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        member=member,
        kind=kind,
        payload=None,
    )


def model_config(name: str = "chat", **limits: int) -> ModelConfig:
    """A chat model."""
    spec = {"type": "Chat", "provider": "BuiltIn", "limits": limits}
    return ModelConfig.model_validate({"metadata": {"name": name}, "spec": spec})


def team(*members: dict[str, Any], name: str = "helpdesk", **spec: Any) -> AgentTeam:
    """A team; one plain member unless said otherwise."""
    body = {"modelConfigRef": {"name": "chat"}, "members": members or ({"name": "agent"},), **spec}
    return AgentTeam.model_validate_json(_json({"metadata": {"name": name}, "spec": body}))


def knowledge(**fields: Any) -> list[dict[str, Any]]:
    """spec.knowledge with one knowledge base, docs."""
    return [{"name": "docs", "knowledgeBaseRef": {"name": "docs"}, **fields}]


def _json(value: object) -> str:
    import json  # noqa: PLC0415

    return json.dumps(value)


@dataclass
class FakeCatalogue:
    """The manifests of every namespace."""

    all_teams: list[AgentTeam] = field(default_factory=list)
    models: list[ModelConfig] = field(default_factory=lambda: [model_config()])
    problems: list[str] = field(default_factory=list)
    known_bases: tuple[str, ...] = ("docs",)

    def team(self, namespace: str, name: str) -> AgentTeam | None:
        """See Catalogue."""
        return next((t for t in self.all_teams if t.metadata.name == name), None)

    def teams(self, namespace: str) -> list[AgentTeam]:
        """See Catalogue."""
        return self.all_teams

    def team_problems(self, namespace: str, name: str) -> list[str]:
        """See Catalogue."""
        return self.problems

    def model(self, namespace: str, name: str) -> ModelConfig | None:
        """See Catalogue."""
        return next((m for m in self.models if m.metadata.name == name), None)

    def knowledge_base(self, namespace: str, name: str) -> KnowledgeBase | None:
        """See Catalogue."""
        if name not in self.known_bases:
            return None
        spec = {"embedding": {"modelConfigRef": {"name": "embed"}}}
        return KnowledgeBase.model_validate({"metadata": {"name": name}, "spec": spec})


@dataclass
class Bench:
    """One run and all that it works with."""

    models: FakeModels = field(default_factory=FakeModels)
    knowledge: FakeKnowledge = field(default_factory=FakeKnowledge)
    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)
    store: FakeStore = field(default_factory=FakeStore)
    catalogue: FakeCatalogue = field(default_factory=FakeCatalogue)
    clock: LoopClock = field(default_factory=LoopClock)
    tools: Tools = field(default_factory=NoTools)

    @property
    def world(self) -> World:
        """For runs."""
        return World(
            catalogue=self.catalogue,
            models=self.models,
            knowledge=self.knowledge,
            embedder=self.embedder,
            tools=self.tools,
        )

    def run_log(self) -> RunLog:
        """A new run's."""
        return RunLog(run="runs/r1", fencing_token=1, store=self.store, clock=self.clock, last_sequence=1)

    def turn(self, of: AgentTeam, question: str = "Why?", history: Sequence[Message] = ()) -> Turn:
        """A new run."""
        return Turn(
            team=of,
            question=question,
            history=history,
            world=self.world,
            log=self.run_log(),
            ledger=Ledger.of(of, earlier=self.store.earlier_logs),
            stages=StageClock(self.clock),
            answer_schema=Recorded().schema_for(of),
        )


def of_type(steps: Sequence[Any], kind: type) -> Iterator[Any]:
    """The steps of one kind."""
    return (step for step in steps if isinstance(step, kind))


async def flat(followed: AsyncIterator[Sequence[Item]]) -> AsyncIterator[Item]:
    """What a follower gets, one by one."""
    async for items in followed:
        for item in items:
            yield item
