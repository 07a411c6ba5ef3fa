"""A session service in process, its client and its requests."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from google.protobuf.struct_pb2 import Struct

from servicekit.client import RpcClient
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import TEST_KEY, FakeClock, rpc_as, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.store import SqlSessionStore
from session.servicer import SessionServicer, session_service
from tests.support.sessions import fill


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A served store."""

    target: str
    clock: FakeClock


@dataclass(frozen=True, slots=True)
class Client:
    """The stub, called with identity, deadline and typed errors."""

    rpc: RpcClient

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        stub = SessionServiceStub(self.rpc.channel)
        return lambda request: self.rpc.unary(getattr(stub, method), request)


@asynccontextmanager
async def served(url: str) -> AsyncIterator[Server]:
    database = open_database(url, PoolLimits(connections=4, timeout=timedelta(seconds=2)))
    clock = FakeClock()
    store = SqlSessionStore(database=database, clock=clock, new_id=new_id)
    servicer = SessionServicer(store=store, tokens=PageTokens(TEST_KEY))
    try:
        async with serve_in_process([session_service(servicer)]) as target:
            yield Server(target=target, clock=clock)
    finally:
        await database.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    url = f"sqlite:///{tmp_path / 'session.db'}"
    await fill(url)
    async with served(url) as server:
        yield server


@pytest.fixture
async def ada(server: Server) -> AsyncIterator[Client]:
    async with rpc_as(server.target, tenant="acme", user="ada") as rpc:
        yield Client(rpc)


@contextmanager
def acting(user: str, *, tenant: str = "acme", service: str = "") -> Iterator[None]:
    with scope(caller=Caller(tenant, user, service)):
        yield


def begin(text: str = "why?", session: str = "", **fields: Any) -> pb.BeginRunRequest:
    request = pb.BeginRunRequest(
        **{
            "request_id": str(uuid.uuid4()),
            "team": "teams/helpdesk",
            "session": session,
            "input": [session_pb2.Message(role=session_pb2.ROLE_USER, content=text)],
            "lease_owner": "orchestrator-1",
            "team_revision": "r1",
        }
        | fields
    )
    if not request.HasField("lease_duration"):
        request.lease_duration.FromSeconds(30)
    return request


def event(sequence: int, **kind: Any) -> run_pb2.RunEvent:
    made = run_pb2.RunEvent(sequence=sequence, **kind)
    made.create_time.FromJsonString("2026-01-01T00:00:01.5Z")
    return made


def tool_call(sequence: int) -> run_pb2.RunEvent:
    arguments = Struct()
    arguments.update({"query": "why"})
    return event(
        sequence,
        member="writer",
        tool_call_started=run_pb2.ToolCallStarted(
            call_id=f"c{sequence}", tool="search_knowledge", arguments=arguments
        ),
    )


def answer(sequence: int, text: str = "because [1]", **fields: Any) -> run_pb2.RunEvent:
    message = session_pb2.Message(
        role=session_pb2.ROLE_ASSISTANT,
        content=text,
        citations=[session_pb2.Citation(number=1, document_title="handbook.md", text="a chunk")],
    )
    return event(sequence, message_completed=run_pb2.MessageCompleted(message=message), **fields)


def finished(sequence: int, state: "run_pb2.RunState.ValueType", **fields: Any) -> run_pb2.RunEvent:
    summary = run_pb2.RunSummary(usage=run_pb2.Usage(input_tokens=7))
    return event(sequence, run_finished=run_pb2.RunFinished(state=state, summary=summary, **fields))


def append(run: str, *events: run_pb2.RunEvent, token: int = 1) -> pb.AppendRunEventsRequest:
    return pb.AppendRunEventsRequest(run=run, fencing_token=token, events=events)


async def violation(call: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        await call
    assert caught.value.reason == "INVALID_FIELD"
    return caught.value.violations[0].field
