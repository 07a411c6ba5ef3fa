"""A store of runs, by hand: it does what a test says, for one process or for several."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from agentteams.session.v1 import run_pb2
from google.protobuf.json_format import ParseDict

from manifests import AgentTeam
from orchestrator.adapters.events_pb import event_to_pb, stored_as, stored_event
from orchestrator.core.model import (
    Event,
    InputProvided,
    InputRequested,
    Message,
    RunFinished,
    RunInput,
    StoredEvent,
)
from orchestrator.core.ports import Acquired, Appended, Begun, BusyPolicy, Renewed, RunChoice, RunRow
from orchestrator.core.structured import Schema
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

    async def acquire_expired(self, which: RunChoice) -> list[Acquired]:
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

    async def acquire_expired(self, which: RunChoice) -> list[Acquired]:
        """See SessionLog."""
        self._alive()
        return self.store.take(self.process)

    def _alive(self) -> None:
        if self.dead:
            raise Killed


def stored(sequence: int, kind: str = "run_started", *, member: str = "") -> StoredEvent:
    """An event out of the store."""
    return StoredEvent(
        sequence=sequence,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        member=member,
        kind=kind,
        payload=None,
    )
