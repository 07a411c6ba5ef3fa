"""Teams that callers of other tenants ask: orchestrators with the owner's key alone, real sessions."""

import asyncio
import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import session_pb2
from agentteams.session.v1 import session_service_pb2 as session_service_pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from google.protobuf.duration_pb2 import Duration

from gateway.auth import ApiKeys
from servicekit.calls import issuer_for
from servicekit.client import RpcClient
from servicekit.context import Caller, scope
from servicekit.errors import NotFound, ServiceError
from tests.support.gateway import serve_gateway
from tests.support.model_script import Reply, ToolCall
from tests.support.replicas import Fleet, Replica, replicas

MANIFESTS = """
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat, namespace: owner}
spec: {type: Chat, provider: BuiltIn}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: open, namespace: owner}
spec:
  description: For all
  modelConfigRef: {name: chat}
  members: [{name: one, role: thinks}, {name: two}]
  allowedNamespaces: {from: All}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: closed, namespace: owner}
spec:
  modelConfigRef: {name: chat}
  members: [{name: agent}]
"""
ALICE = Caller("user", "alice")


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with replicas(tmp_path, MANIFESTS) as fleet:
        yield fleet


def of_owner(fleet: Fleet, replica: Replica) -> RpcClient:
    """As the gateway calls for somebody of another tenant."""
    return fleet.rpc(replica.address, issuer_for(fleet.key, owner="owner", service="gateway"))


def asked(team: str, session: str = "") -> pb.StartRunRequest:
    message = session_pb2.Message(role=session_pb2.ROLE_USER, content="Why?")
    return pb.StartRunRequest(
        team=f"teams/{team}", session=session, input=[message], request_id=str(uuid.uuid4())
    )


@contextmanager
def refused(reason: str) -> Iterator[Any]:
    with pytest.raises(ServiceError) as caught:
        yield caught
    assert caught.value.reason == reason


async def test_an_allowed_team_works_for_another_tenants_user_who_is_shown_what_it_says_and_no_more(
    fleet: Fleet,
) -> None:
    replica = await fleet.begin(tenant="owner")
    rpc, stub = of_owner(fleet, replica), replica.stub_of
    fleet.model.queue(
        Reply(tool_calls=[ToolCall(name="delegate_task", arguments={"member": "one", "task": "Think"})]),
        Reply("secret thoughts of one"), Reply("Because."),
    )  # fmt: skip
    with scope(caller=ALICE):
        responses = [
            r async for r in rpc.server_stream(stub(rpc).RunTeam, pb.RunTeamRequest(start=asked("open")))
        ]
        run, items = responses[0].run, [item for response in responses for item in response.items]
        events = [item.event for item in items if item.HasField("event")]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        told = [event.WhichOneof("event") for event in events]
        assert (told[0], told[-2:]) == ("run_started", ["message_completed", "run_finished"])
        assert {*told[1:-2]} == {None, "model_call_finished"}
        assert "secret" not in str(items)
        assert "delegate" not in str(items)
        assert "".join(i.text_delta.text for i in items if i.HasField("text_delta")) == "Because."
        assert events[-1].run_finished.summary.usage.model_calls == 3
        assert (run.user, run.owner_address) == ("tenant:user/alice", "")
        # The conversation goes on, and it is hers.
        fleet.model.queue(Reply("Still because."))
        again = await rpc.unary(stub(rpc).StartRun, asked("open", run.session))
        assert again.session == run.session
        request = pb.StreamRunEventsRequest(run=again.name)
        seen = [r async for r in rpc.server_stream(stub(rpc).StreamRunEvents, request)]
        assert "Still because." in str(seen)
        scores = pb.StreamRunEventsRequest(run=run.name, wait_scores=Duration(seconds=1))
        with refused("INVALID_FIELD"):
            _ = [r async for r in rpc.server_stream(stub(rpc).StreamRunEvents, scores)]
        with refused("RUN_FINISHED"):
            await rpc.unary(stub(rpc).CancelRun, pb.CancelRunRequest(name=run.name))
    # Nobody else's: not of her own tenant, nor a user of the owner with her name.
    with scope(caller=Caller("user", "bob")), refused("SESSION_NOT_FOUND"):
        await rpc.unary(stub(rpc).StartRun, asked("open", run.session))
    with scope(caller=Caller("owner", "alice")), refused("RUN_NOT_FOUND"):
        _ = [r async for r in replica.rpc.server_stream(replica.stub.StreamRunEvents, request)]
    # The owner has it among its own, with the whole log.
    sessions = fleet.rpc(fleet.session)
    store: Any = SessionServiceStub(sessions.channel)
    with scope(caller=Caller("owner", "tenant:user/alice")):
        runs = (await sessions.unary(store.ListRuns, session_service_pb.ListRunsRequest())).runs
        assert [one.name for one in runs] == [again.name, run.name]
        assert "secret thoughts" in str(await fleet.stored(run))
    with scope(caller=ALICE):  # and her own tenant has nothing of it
        assert not (await sessions.unary(store.ListRuns, session_service_pb.ListRunsRequest())).runs


async def test_what_is_not_allowed_may_as_well_not_be_there_and_a_withdrawal_holds_at_once(
    fleet: Fleet,
) -> None:
    replica = await fleet.begin(tenant="owner")
    rpc, stub = of_owner(fleet, replica), replica.stub_of
    with scope(caller=ALICE):
        listed = await rpc.unary(stub(rpc).ListTeams, pb.ListTeamsRequest())
        assert [(team.name, team.ready, list(team.members)) for team in listed.teams] == [
            ("teams/open", True, [])
        ]
        for team in ("closed", "absent"):
            with refused("TEAM_NOT_FOUND"):
                await rpc.unary(stub(rpc).StartRun, asked(team))
            with refused("TEAM_NOT_FOUND"):
                await rpc.unary(stub(rpc).GetTeam, pb.GetTeamRequest(name=f"teams/{team}"))
        gate = asyncio.Event()
        fleet.model.queue(Reply(chunks=["Half", " done."], gate=gate, gate_after=1))
        run = await rpc.unary(stub(rpc).StartRun, asked("open"))
        path = fleet.manifests / "all.yaml"
        path.write_text(MANIFESTS.replace("{from: All}", "{from: Same}"))
        replica.catalogue.load()
        with refused("TEAM_NOT_FOUND"):
            await rpc.unary(stub(rpc).StartRun, asked("open"))
        # What was begun goes on, and whoever began it may see how it ends.
        gate.set()
        request = pb.StreamRunEventsRequest(run=run.name)
        seen = [r async for r in rpc.server_stream(stub(rpc).StreamRunEvents, request)]
        assert "Half done." in str(seen)
    # The token of a call is no token of the owner's tenant.
    foreign = fleet.rpc(fleet.session, issuer_for(fleet.key, owner="owner", service="gateway"))
    store: Any = SessionServiceStub(foreign.channel)
    with scope(caller=ALICE), refused("UNAUTHENTICATED"):
        await foreign.unary(store.ListRuns, session_service_pb.ListRunsRequest())


async def test_through_the_gateway_a_team_of_another_namespace_is_a_model_too(fleet: Fleet) -> None:
    replica = await fleet.begin(tenant="owner")
    keys = ApiKeys([(hashlib.sha256(b"hers").digest(), ALICE)])
    async with (
        serve_gateway(replica.address, auth=keys) as gateway,
        httpx2.AsyncClient(base_url=gateway.url, headers={"authorization": "Bearer hers"}) as http,
    ):
        fleet.model.queue(Reply("Because."), Reply("Still."))
        body = {"model": "owner/open", "messages": [{"role": "user", "content": "Why?"}]}
        answer = await http.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == "Because."
        session = {"x-agentteams-session": answer.headers["x-agentteams-session"]}
        streamed = await http.post("/v1/chat/completions", json=body | {"stream": True}, headers=session)
        assert "Still." in streamed.text
        found = (await http.get("/v1/models/owner/open")).json()
        assert (found["id"], found["agentteams"]["members"]) == ("owner/open", [])
        for name in ("owner/closed", "owner/absent"):
            missing = await http.get(f"/v1/models/{name}")
            refusal = await http.post("/v1/chat/completions", json=body | {"model": name})
            for response in (missing, refusal):
                assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_orchestrator_of_one_tenant_takes_nobody_elses_word(fleet: Fleet) -> None:
    replica = await fleet.begin(tenant="owner")
    rpc = fleet.rpc(replica.address, issuer_for(fleet.key, owner="other", service="gateway"))
    with scope(caller=ALICE), refused("UNAUTHENTICATED"):
        await rpc.unary(replica.stub_of(rpc).StartRun, asked("open"))
    with scope(caller=ALICE), pytest.raises(ServiceError) as caught:
        await replica.rpc.unary(replica.stub.StartRun, asked("open"))
    assert not isinstance(caught.value, NotFound)
