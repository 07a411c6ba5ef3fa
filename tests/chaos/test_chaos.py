"""The harness against the real thing, and against a store that forgot its fencing."""

import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import select

from servicekit.client import RpcClient
from servicekit.context import Caller, scope
from servicekit.errors import ServiceError
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import TEST_KEY, FakeClock, rpc_as, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.schema import migrate
from session.adapters.store import SqlSessionStore
from session.adapters.tables import runs
from session.core.model import Owner
from session.servicer import SessionServicer, session_service
from tests.chaos.history import Ack, Ask, History, StoredMessage, StoredRun, Stream
from tests.chaos.report import Plan
from tests.chaos.run import chaos
from tests.chaos.traffic import event_of
from tests.chaos.validate import validate

LEASE = Duration(seconds=3)
QUESTION = "How many days?"
_REFUSALS = ("LEASE_LOST", "RUN_FINISHED", "INVALID_FIELD", "SEQUENCE_GAP")


class UnfencedStore(SqlSessionStore):
    """The planted bug: whoever appends is believed to own the run."""

    async def append_events(self, owner: Owner, run: str, *, fencing_token: int, **rest: Any) -> Any:
        query = select(runs.c.fencing_token).where(runs.c.id == run)
        newest = await self._database.read(lambda connection: connection.execute(query).scalar_one())
        return await super().append_events(owner, run, fencing_token=newest, **rest)


@dataclass(frozen=True, kw_only=True)
class Service:
    """A session service in this process."""

    rpc: RpcClient
    clock: FakeClock

    async def call(self, method: str, request: Any) -> Any:
        return await self.rpc.unary(getattr(SessionServiceStub(self.rpc.channel), method), request)


@pytest.fixture(params=[SqlSessionStore, UnfencedStore])
async def service(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Service]:
    database = open_database(f"sqlite:///{tmp_path / 'session.db'}", PoolLimits(connections=2))
    await migrate(database)
    clock = FakeClock()
    store = request.param(database=database, clock=clock, new_id=new_id)
    servicer = SessionServicer(store=store, tokens=PageTokens(TEST_KEY))
    async with (
        serve_in_process([session_service(servicer)]) as target,
        rpc_as(target, user="ada") as rpc,
    ):
        yield Service(rpc=rpc, clock=clock)
    await database.close()


@dataclass(kw_only=True)
class Writer:
    """An orchestrator, as far as its run's log is concerned: what is stored it shows."""

    service: Service
    run: str
    token: int
    shown: Stream

    async def append(self, *events: run_pb2.RunEvent) -> None:
        """Shows the events once they are stored; a refused writer is done and shows nothing."""
        request = pb.AppendRunEventsRequest(run=self.run, fencing_token=self.token, events=events)
        try:
            stored = await self.service.call("AppendRunEvents", request)
        except ServiceError as error:
            if error.reason not in _REFUSALS:
                raise
            return
        # Of the end it shows what is stored, as an orchestrator does.
        shown = [*events[:-1], stored.run_finished] if stored.HasField("run_finished") else events
        self.shown.items.extend(event_of(event) for event in shown)


def steps(clock: FakeClock, answer: str) -> Sequence[run_pb2.RunEvent]:
    """What either writer makes of the run after event 2, each with its own answer."""
    now = Timestamp()
    now.FromDatetime(clock.now())
    message = session_pb2.Message(role=session_pb2.ROLE_ASSISTANT, content=answer)
    return [
        run_pb2.RunEvent(
            sequence=3,
            create_time=now,
            tool_call_started=run_pb2.ToolCallStarted(call_id="#1.0", tool=answer),
        ),
        run_pb2.RunEvent(
            sequence=4,
            create_time=now,
            tool_call_finished=run_pb2.ToolCallFinished(call_id="#1.0", result=answer),
        ),
        run_pb2.RunEvent(
            sequence=5, create_time=now, message_completed=run_pb2.MessageCompleted(message=message)
        ),
        run_pb2.RunEvent(
            sequence=6, create_time=now, run_finished=run_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED)
        ),
    ]


async def read_back(service: Service, history: History, run: str) -> None:
    found = await service.call("GetRun", pb.GetRunRequest(name=run))
    events = await service.call("ListRunEvents", pb.ListRunEventsRequest(run=run))
    messages = await service.call("ListMessages", pb.ListMessagesRequest(parent=found.session))
    history.runs[run] = StoredRun(
        name=run,
        session=found.session,
        state=run_pb2.RunState.Name(found.state),
        last_sequence=found.last_sequence,
        events=[event_of(event) for event in events.events],
    )
    roles = {session_pb2.ROLE_USER: "user", session_pb2.ROLE_ASSISTANT: "assistant"}
    history.sessions[found.session] = [
        StoredMessage(sequence=m.sequence, role=roles[m.role], content=m.content, run=m.run)
        for m in messages.messages
    ]


@pytest.mark.parametrize("first_to_end", ["frozen", "new"])
async def test_the_checker_finds_a_store_without_fencing(
    service: Service, first_to_end: str, request: pytest.FixtureRequest
) -> None:
    """Two writers, one of which was frozen for longer than its lease; only the store can tell them apart."""
    asked = str(uuid.uuid4())
    begun = await service.call(
        "BeginRun",
        pb.BeginRunRequest(
            request_id=asked,
            team="teams/solo",
            input=[session_pb2.Message(role=session_pb2.ROLE_USER, content=QUESTION)],
            lease_owner="frozen",
            lease_duration=LEASE,
            team_revision="r1",
        ),
    )
    run = begun.run.name
    shown = [Stream(client=name, run=run, after=1) for name in ("of-frozen", "of-new")]
    frozen = Writer(service=service, run=run, token=begun.fencing_token, shown=shown[0])
    now = Timestamp()
    now.FromDatetime(service.clock.now())
    call = run_pb2.ModelCallFinished(step="#1", model="m")
    await frozen.append(run_pb2.RunEvent(sequence=2, create_time=now, model_call_finished=call))
    shown[1].after = 2

    service.clock.advance(timedelta(seconds=10))
    with scope(caller=Caller("default", "", "orchestrator")):
        taken = await service.call(
            "AcquireExpiredRuns", pb.AcquireExpiredRunsRequest(lease_owner="new", lease_duration=LEASE)
        )
    assert [acquired.run.name for acquired in taken.runs] == [run]
    new = Writer(service=service, run=run, token=taken.runs[0].fencing_token, shown=shown[1])

    # The frozen one goes on as if nothing had happened; the new one works, too.
    of_frozen, of_new = steps(service.clock, "thirty"), steps(service.clock, "forty")
    await frozen.append(*of_frozen[:2])
    await new.append(*of_new[:2])
    last = {"frozen": (frozen, of_frozen[2:]), "new": (new, of_new[2:])}
    for name in sorted(last, key=lambda name: name != first_to_end):
        writer, rest = last[name]
        await writer.append(*rest)

    history = History(
        asks=[Ask(request_id=asked, client="ada", question=QUESTION)],
        acks=[Ack(request_id=asked, run=run, session=begun.run.session)],
        streams=shown,
    )
    await read_back(service, history, run)
    found = {violation.kind for violation in validate(history)}
    fenced = "UnfencedStore" not in request.node.name
    assert found == (set() if fenced else {"stream_differs"})


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(240)
@pytest.mark.parametrize("store", ["sqlite"])
async def test_nothing_is_lost_while_services_are_killed(tmp_path: Path, store: str) -> None:
    """`make chaos` in short."""
    plan = Plan(seed=7, seconds=25.0, store=store, every_s=3.0, grpc_clients=5, openai_clients=2)
    report = await chaos(plan, tmp_path)
    assert list(map(str, report.violations)) == [], report.lines()
    assert report.turns >= 15
    assert len(report.faults) >= 3
