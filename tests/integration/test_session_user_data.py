"""Forks, memories, export and erasure over gRPC."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from agentteams.session.v1 import memory_pb2, run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.memory_pb2_grpc import MemoryServiceStub
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from servicekit.client import RpcClient
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, PermissionDenied, ServiceError
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import TEST_KEY, FakeClock, rpc_as, serve_in_process
from session.adapters.store import SqlSessionStore
from session.memory_servicer import MemoryServicer, memory_service
from session.servicer import SessionServicer, session_service
from tests.support.session_service import answer, append, begin, finished, tool_call
from tests.support.sessions import Databases, databases, migrated_file

__all__ = ["databases", "migrated_file"]

ADA, BOB, EVE = Caller("acme", "ada"), Caller("acme", "bob"), Caller("globex", "ada")
GATEWAY = Caller("acme", "", "gateway")


class Client:
    """Both services, called with identity, deadline and typed errors."""

    def __init__(self, rpc: RpcClient, clock: FakeClock) -> None:
        self.rpc = rpc
        self.clock = clock
        self._stubs = (SessionServiceStub(rpc.channel), MemoryServiceStub(rpc.channel))

    def __getattr__(self, method: str) -> Callable[[Any], Any]:
        found = next(getattr(stub, method) for stub in self._stubs if hasattr(stub, method))
        return lambda request: self.rpc.unary(found, request)

    async def export(self, user: str = "") -> list[pb.UserRecord]:
        stream = self.rpc.server_stream(self._stubs[0].ExportUserData, pb.ExportUserDataRequest(user=user))
        return [record async for response in stream for record in response.records]


@asynccontextmanager
async def served(databases: Databases) -> AsyncIterator[Client]:
    clock = FakeClock()
    store = SqlSessionStore(database=databases.plain, clock=clock, new_id=new_id)
    tokens = PageTokens(TEST_KEY)
    services = [
        session_service(SessionServicer(store=store, tokens=tokens)),
        memory_service(MemoryServicer(store=store, tokens=tokens)),
    ]
    async with serve_in_process(services) as target, rpc_as(target, tenant="acme", user="ada") as rpc:
        yield Client(rpc, clock)


@pytest.fixture
async def client(databases: Databases) -> AsyncIterator[Client]:
    async with served(databases) as client:
        yield client


def unique() -> str:
    return str(uuid.uuid4())


async def turn(client: Client, text: str, session: str = "", **fields: Any) -> run_pb2.Run:
    run: run_pb2.Run = (await client.BeginRun(begin(text, session, **fields))).run
    events = [tool_call(2), answer(3, f"re: {text}"), finished(4, run_pb2.RUN_STATE_SUCCEEDED)]
    await client.AppendRunEvents(append(run.name, *events))
    return run


async def remember(client: Client, text: str, team: str = "") -> memory_pb2.Memory:
    memory = memory_pb2.Memory(text=text, team=team)
    added: memory_pb2.Memory = await client.AddMemory(
        memory_pb2.AddMemoryRequest(memory=memory, request_id=unique())
    )
    return added


async def wrong_field(call: Any) -> str:
    with pytest.raises(InvalidArgument) as caught:
        await call
    assert caught.value.reason == "INVALID_FIELD"
    return caught.value.violations[0].field


# Forks, filters, retention


async def test_a_fork_over_the_wire(client: Client) -> None:
    run = await turn(client, "one")
    request = pb.ForkSessionRequest(message=f"{run.session}/messages/1", request_id=unique())
    forked = await client.ForkSession(request)
    assert (forked.team, forked.display_name, forked.message_count, forked.user) == (
        "teams/helpdesk",
        "one",
        1,
        "ada",
    )
    assert await client.ForkSession(request) == forked
    copied = (await client.ListMessages(pb.ListMessagesRequest(parent=forked.name))).messages
    assert [(m.name, m.content) for m in copied] == [(f"{forked.name}/messages/1", "one")]
    for message in (
        "",
        run.session,
        f"{run.session}/messages/0",
        f"{run.session}/messages/x",
        "a/messages/1",
    ):
        wrong = pb.ForkSessionRequest(message=message, request_id=unique())
        assert await wrong_field(client.ForkSession(wrong)) == "message"
    wrong = pb.ForkSessionRequest(message=request.message, request_id="1")
    assert await wrong_field(client.ForkSession(wrong)) == "request_id"


async def test_sessions_are_filtered_by_time_and_a_page_token_belongs_to_its_filters(client: Client) -> None:
    first = (await turn(client, "one")).session
    client.clock.advance(timedelta(days=1))
    second = (await turn(client, "two")).session
    request = pb.ListSessionsRequest()
    request.updated_after.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    assert [s.name for s in (await client.ListSessions(request)).sessions] == [second]
    request = pb.ListSessionsRequest()
    request.created_before.FromDatetime(datetime(2026, 1, 2, tzinfo=UTC))
    assert [s.name for s in (await client.ListSessions(request)).sessions] == [first]
    token = (await client.ListSessions(pb.ListSessionsRequest(page_size=1))).next_page_token
    request.page_token = token
    assert await wrong_field(client.ListSessions(request)) == "page_token"
    request = pb.ListSessionsRequest()
    request.updated_before.seconds = 10**15
    assert await wrong_field(client.ListSessions(request)) == "updated_before"


async def test_another_users_sessions_are_for_services_only(client: Client) -> None:
    run = await turn(client, "one")
    for caller in (ADA, GATEWAY):
        with scope(caller=caller):
            found = await client.ListSessions(pb.ListSessionsRequest(user="ada"))
            assert [s.name for s in found.sessions] == [run.session]
    with scope(caller=Caller("globex", "", "gateway")):
        assert not (await client.ListSessions(pb.ListSessionsRequest(user="ada"))).sessions
    for caller in (BOB, Caller("acme", "")):
        with scope(caller=caller):
            for call in (
                client.ListSessions(pb.ListSessionsRequest(user="ada")),
                client.EraseUserData(pb.EraseUserDataRequest(user="ada")),
                client.export("ada"),
            ):
                with pytest.raises(PermissionDenied):
                    await call
    with scope(caller=GATEWAY), pytest.raises(PermissionDenied):
        await client.ListSessions(pb.ListSessionsRequest())


async def test_retention_is_kept_and_checked(client: Client) -> None:
    request = begin("one")
    request.retention.FromTimedelta(timedelta(days=30))
    run = (await client.BeginRun(request)).run
    session = await client.GetSession(pb.GetSessionRequest(name=run.session))
    assert session.retention.ToTimedelta() == timedelta(days=30)
    assert not (
        await client.GetSession(pb.GetSessionRequest(name=(await turn(client, "x")).session))
    ).HasField("retention")
    for seconds in (0, 59, -1, 10**12):
        request = begin("two")
        request.retention.seconds = seconds
        assert await wrong_field(client.BeginRun(request)) == "retention"
        made = pb.CreateSessionRequest(session=session_pb2.Session(team="teams/a"), request_id=unique())
        made.session.retention.seconds = seconds
        assert await wrong_field(client.CreateSession(made)) == "session.retention"


# Memories


async def test_memories_over_the_wire(client: Client) -> None:
    request = memory_pb2.AddMemoryRequest(
        memory=memory_pb2.Memory(text="Speaks German", team="teams/billing"), request_id=unique()
    )
    added = await client.AddMemory(request)
    assert (added.text, added.team, added.user) == ("Speaks German", "teams/billing", "ada")
    assert await client.AddMemory(request) == added
    request.memory.text = "Speaks French"
    with pytest.raises(InvalidArgument) as caught:
        await client.AddMemory(request)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    second = await remember(client, "Prefers trains")

    page = await client.ListMemories(memory_pb2.ListMemoriesRequest(page_size=1))
    rest = await client.ListMemories(
        memory_pb2.ListMemoriesRequest(page_size=1, page_token=page.next_page_token)
    )
    assert {m.name for m in (*page.memories, *rest.memories)} == {added.name, second.name}
    assert not rest.next_page_token
    travel = await client.ListMemories(memory_pb2.ListMemoriesRequest(team="teams/travel"))
    assert list(travel.memories) == [second]

    found = await client.SearchMemories(memory_pb2.SearchMemoriesRequest(query="german, train?"))
    assert len(found.memories) == 2
    found = await client.SearchMemories(
        memory_pb2.SearchMemoriesRequest(query="german train", team="teams/travel", max_results=1)
    )
    assert list(found.memories) == [second]
    await client.ForgetMemory(memory_pb2.ForgetMemoryRequest(name=added.name))
    with pytest.raises(ServiceError) as gone:
        await client.ForgetMemory(memory_pb2.ForgetMemoryRequest(name=added.name))
    assert gone.value.reason == "MEMORY_NOT_FOUND"


@pytest.mark.parametrize("text", ["", "x" * 4097, "ü" * 2049, "a\0b"], ids=["empty", "long", "bytes", "nul"])
async def test_texts_that_are_no_memories(client: Client, text: str) -> None:
    memory = memory_pb2.Memory(text=text)
    add = client.AddMemory(memory_pb2.AddMemoryRequest(memory=memory, request_id=unique()))
    assert await wrong_field(add) == "memory.text"
    search = client.SearchMemories(memory_pb2.SearchMemoriesRequest(query=text))
    assert await wrong_field(search) == "query"
    assert await wrong_field(client.SearchMemories(memory_pb2.SearchMemoriesRequest(query="?!"))) == "query"
    assert (await remember(client, "ü" * 2048)).text == "ü" * 2048


# Export and erasure


async def test_an_export_holds_everything_of_one_user_in_order(client: Client) -> None:
    with scope(caller=BOB):
        await turn(client, "bob's")
        await remember(client, "bob's")
    first = await turn(client, "one")
    again = await turn(client, "two", session=first.session)
    client.clock.advance(timedelta(days=1))
    second = await turn(client, "three")
    memory = await remember(client, "Speaks German")

    for records in (await client.export(), await _as(GATEWAY, client.export("ada"))):
        kinds = [record.WhichOneof("record") for record in records]
        run = ["run", *["run_event"] * 4]
        assert kinds == [
            "session",
            *["message"] * 4,
            *run,
            *run,
            "session",
            *["message"] * 2,
            *run,
            "memory",
        ]
        assert [r.session.name for r in records if r.HasField("session")] == [first.session, second.session]
        assert {r.run.name for r in records if r.HasField("run")} == {first.name, again.name, second.name}
        contents = [r.message.content for r in records if r.HasField("message")]
        assert contents == ["one", "re: one", "two", "re: two", "three", "re: three"]
        events = [r.run_event.sequence for r in records if r.HasField("run_event")]
        assert events == [1, 2, 3, 4] * 3
        assert records[-1].memory == memory
    with scope(caller=Caller("acme", "nobody")):
        assert await client.export() == []


async def _as(caller: Caller, call: Any) -> Any:
    with scope(caller=caller):
        return await call


async def test_an_export_goes_on_past_a_page(client: Client) -> None:
    session = (await client.BeginRun(begin("q1"))).run
    events = [tool_call(n) for n in range(2, 252)]
    await client.AppendRunEvents(append(session.name, *events))
    for _ in range(101):
        await client.CreateSession(
            pb.CreateSessionRequest(session=session_pb2.Session(team="teams/a"), request_id=unique())
        )
        client.clock.advance(timedelta(seconds=1))
    records = await client.export()
    assert [r.run_event.sequence for r in records if r.HasField("run_event")] == list(range(1, 252))
    names = [r.session.name for r in records if r.HasField("session")]
    assert len(names) == len(set(names)) == 102


async def test_erasure_says_what_it_deleted_and_is_refused_while_a_run_works(client: Client) -> None:
    with scope(caller=BOB):
        bobs = await turn(client, "bob's")
    await turn(client, "one")
    await remember(client, "Speaks German")
    run = (await client.BeginRun(begin("two"))).run
    with pytest.raises(ServiceError) as caught:
        await client.EraseUserData(pb.EraseUserDataRequest())
    assert caught.value.reason == "SESSION_BUSY"
    assert caught.value.metadata["run"] == run.name
    await client.AppendRunEvents(append(run.name, finished(2, run_pb2.RUN_STATE_CANCELLED)))
    with scope(caller=GATEWAY):
        erased = await client.EraseUserData(pb.EraseUserDataRequest(user="ada"))
        assert erased == pb.EraseUserDataResponse(sessions=2, messages=3, runs=2, run_events=6, memories=1)
        again = await client.EraseUserData(pb.EraseUserDataRequest(user="ada"))
        assert again == pb.EraseUserDataResponse()
    assert await client.export() == []
    with scope(caller=BOB):
        assert (await client.GetSession(pb.GetSessionRequest(name=bobs.session))).message_count == 2
