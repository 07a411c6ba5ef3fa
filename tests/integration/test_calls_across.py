"""A team that asks one of another tenant: two orchestrators with their own tenants' keys, real sessions."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import run_pb2
from agentteams.session.v1 import session_service_pb2 as session_service_pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from orchestrator.adapters.team_calls import TeamCalls, call_keys, filled_in
from servicekit.calls import CallKey
from servicekit.clock import SystemClock
from servicekit.context import Caller, scope
from tests.support.across import OWNERS_DESK
from tests.support.model_script import ChatRequest, Reply
from tests.support.ports import free_address
from tests.support.replicas import Fleet, Replica, replicas

MANIFESTS = (
    OWNERS_DESK
    + """
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat, namespace: user}
spec: {type: Chat, provider: BuiltIn}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: outer, namespace: user}
spec:
  modelConfigRef: {name: chat}
  mode: Broadcast
  members:
  - {name: own, instructions: You are of this house.}
  - {name: theirs, teamRef: {name: desk, namespace: owner}}
"""
)
ALICE = Caller("user", "alice")
AS_CALLED = Caller("owner", "tenant:user/alice")


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with replicas(tmp_path, MANIFESTS) as fleet:
        yield fleet


@pytest.fixture(autouse=True)
def as_alice() -> Any:
    with scope(caller=ALICE):
        yield


async def of_user(fleet: Fleet, owners: Replica, folder: Path) -> Replica:
    """An orchestrator of the callers' tenant: its own key, and one for calls of the owner's teams."""
    key = fleet.key.of_tenant("user")
    (folder / "call-owner").write_bytes(CallKey.of(fleet.key, owner="owner", home="user").to_file())
    calls = TeamCalls(filled_in(owners.address), keys=call_keys(key, folder), clock=SystemClock())
    fleet.stack.push_async_callback(calls.close)
    return await fleet.begin(tenant="user", calls=calls)


def script(clerk: Callable[[ChatRequest], Reply]) -> Callable[[ChatRequest], Reply]:
    def answer(request: ChatRequest) -> Reply:
        system = str(request.messages[0]["content"])
        if "clerk of another house" in system:
            return clerk(request)
        if "of this house" in system:
            return Reply("We do not know.")
        return Reply("All in all: two years.")

    return answer


async def called_runs(fleet: Fleet) -> list[run_pb2.Run]:
    sessions = fleet.rpc(fleet.session)
    store: Any = SessionServiceStub(sessions.channel)
    with scope(caller=AS_CALLED):
        return list((await sessions.unary(store.ListRuns, session_service_pb.ListRunsRequest())).runs)


async def the_called_run(fleet: Fleet) -> run_pb2.Run:
    async with asyncio.timeout(20):
        while not (found := await called_runs(fleet)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found[0]


async def ended(replica: Replica, run: run_pb2.Run) -> list[run_pb2.RunEvent]:
    return [item.event async for item in replica.follow(run) if item.HasField("event")]


def of_kind(events: list[run_pb2.RunEvent], kind: str) -> list[Any]:
    return [getattr(event, kind) for event in events if event.WhichOneof("event") == kind]


async def test_a_member_that_is_another_tenants_team_answers_in_a_run_of_its_own(
    fleet: Fleet, tmp_path: Path
) -> None:
    asked = []

    def clerk(request: ChatRequest) -> Reply:
        asked.append(request.last_user_text)
        return Reply("Two years, says our file.")

    fleet.model.script(script(clerk))
    owners = await fleet.begin(tenant="owner")
    users = await of_user(fleet, owners, tmp_path)
    run = await users.start("How long?", team="outer")
    events = await ended(users, run)
    finished = events[-1].run_finished
    assert finished.state == run_pb2.RUN_STATE_SUCCEEDED
    reports = {e.member: e.member_finished.answer for e in events if e.HasField("member_finished")}
    assert reports == {"own": "We do not know.", "theirs": "Two years, says our file."}
    assert len(asked) == 1
    assert "How long?" in asked[0]
    # A run of the owner's, of the user who asked, in the same trace if there is one.
    (inner,) = await called_runs(fleet)
    begun, over = of_kind(events, "team_called")
    assert (begun.run, begun.namespace, begun.team, begun.state) == (inner.name, "owner", "teams/desk", 0)
    assert (over.run, over.state) == (inner.name, run_pb2.RUN_STATE_SUCCEEDED)
    # What it used is reported, and is no part of what this run used.
    assert over.usage.model_calls == finished.summary.called_usage.model_calls == 1
    assert finished.summary.usage.model_calls == 2
    assert finished.summary.called_usage.output_tokens == over.usage.output_tokens > 0


async def test_a_permission_that_is_taken_back_fails_the_member_and_not_the_run(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.model.script(script(lambda _: Reply("Never.")))
    owners = await fleet.begin(tenant="owner")
    users = await of_user(fleet, owners, tmp_path)
    (fleet.manifests / "all.yaml").write_text(MANIFESTS.replace("{from: All}", "{from: Same}"))
    owners.catalogue.load()
    events = await ended(users, await users.start("How long?", team="outer"))
    assert events[-1].run_finished.state == run_pb2.RUN_STATE_SUCCEEDED
    errors = {e.member: e.member_finished.error.message for e in events if e.HasField("member_finished")}
    assert errors["own"] == ""
    assert 'team "owner/desk" is not there, or does not allow namespace "user"' in errors["theirs"]
    assert await called_runs(fleet) == []


async def test_a_kill_of_the_callers_orchestrator_begins_no_second_run_there(
    fleet: Fleet, tmp_path: Path
) -> None:
    gate, asked = asyncio.Event(), []

    def clerk(request: ChatRequest) -> Reply:
        asked.append(request)
        return Reply(chunks=["Two", " years."], gate=gate, gate_after=1)

    fleet.model.script(script(clerk))
    owners = await fleet.begin(tenant="owner")
    users = await of_user(fleet, owners, tmp_path)
    run = await users.start("How long?", team="outer")
    inner = await the_called_run(fleet)
    await users.kill()
    second = await of_user(fleet, owners, tmp_path)
    seen = []
    async for item in second.follow(run):
        seen.append(item)
        if item.event.HasField("run_resumed"):
            gate.set()
    events = [item.event for item in seen if item.HasField("event")]
    assert events[-1].run_finished.state == run_pb2.RUN_STATE_SUCCEEDED
    assert [one.name for one in await called_runs(fleet)] == [inner.name]
    assert len(asked) == 1
    assert {called.run for called in of_kind(events, "team_called")} == {inner.name}
    assert events[-1].run_finished.summary.called_usage.model_calls == 1


async def test_a_run_that_is_cancelled_stops_what_is_done_for_it_elsewhere(
    fleet: Fleet, tmp_path: Path
) -> None:
    fleet.model.script(script(lambda _: Reply(chunks=["Two", " years."], gate=asyncio.Event(), gate_after=1)))
    owners = await fleet.begin(tenant="owner")
    users = await of_user(fleet, owners, tmp_path)
    run = await users.start("How long?", team="outer")
    async for item in users.follow(run):
        if item.event.HasField("team_called"):
            break
    inner = await the_called_run(fleet)
    await users.cancel(run)
    assert (await ended(users, run))[-1].run_finished.state == run_pb2.RUN_STATE_CANCELLED
    with scope(caller=AS_CALLED):
        request = pb.StreamRunEventsRequest(run=inner.name)
        rpc = fleet.rpc(owners.address)
        stream = rpc.server_stream(owners.stub_of(rpc).StreamRunEvents, request)
        items = [item async for response in stream for item in response.items]
    assert items[-1].event.run_finished.state == run_pb2.RUN_STATE_CANCELLED


async def test_a_kill_of_the_owners_orchestrator_is_a_pause(fleet: Fleet, tmp_path: Path) -> None:
    gate, asked = asyncio.Event(), []

    def clerk(request: ChatRequest) -> Reply:
        asked.append(request)
        if len(asked) == 1:
            return Reply(chunks=["Two", " years."], gate=gate, gate_after=1)
        return Reply("Two years.")

    fleet.model.script(script(clerk))
    owners = await fleet.begin(tenant="owner")
    users = await of_user(fleet, owners, tmp_path)
    run = await users.start("How long?", team="outer")
    inner = await the_called_run(fleet)
    await owners.kill()
    await fleet.begin(tenant="owner", address=owners.address)
    events = await ended(users, run)
    assert events[-1].run_finished.state == run_pb2.RUN_STATE_SUCCEEDED
    reports = {e.member: e.member_finished.answer for e in events if e.HasField("member_finished")}
    assert reports["theirs"] == "Two years."
    assert [one.name for one in await called_runs(fleet)] == [inner.name]
    gate.set()


async def test_in_local_mode_one_process_asks_itself(fleet: Fleet) -> None:
    fleet.model.script(script(lambda _: Reply("Two years, says our file.")))
    address = free_address()
    calls = TeamCalls(filled_in(address), keys=call_keys(fleet.key, Path("nowhere")), clock=SystemClock())
    fleet.stack.push_async_callback(calls.close)
    replica = await fleet.begin(calls=calls, address=address)
    events = await ended(replica, await replica.start("How long?", team="outer"))
    reports = {e.member: e.member_finished.answer for e in events if e.HasField("member_finished")}
    assert reports["theirs"] == "Two years, says our file."
    (inner,) = await called_runs(fleet)
    assert inner.user == "tenant:user/alice"


async def test_a_key_that_is_not_there_yet_is_waited_for(fleet: Fleet, tmp_path: Path) -> None:
    fleet.model.script(script(lambda _: Reply("Two years.")))
    owners = await fleet.begin(tenant="owner")
    users = await of_user(fleet, owners, tmp_path)
    key = tmp_path / "call-owner"
    content = key.read_bytes()
    key.unlink()
    run = await users.start("How long?", team="outer")
    async for item in users.follow(run):
        if item.event.HasField("member_finished"):  # its own member; the other one waits
            key.write_bytes(content)
    assert (await ended(users, run))[-1].run_finished.summary.called_usage.model_calls == 1
