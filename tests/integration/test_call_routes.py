"""How a call finds the pods of another namespace's team, and a run whose stream was cut."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from agentteams.session.v1 import run_pb2

from orchestrator.adapters.team_calls import TeamCalls
from servicekit.clock import SystemClock
from servicekit.context import Caller, current_caller, scope
from servicekit.errors import FailedPrecondition, ResourceExhausted, Unavailable
from servicekit.server import Service
from servicekit.testing import TEST_KEY, serve_in_process
from tests.support.fake_orchestrator import NAME, completed, finished, started

_Base: Any = pb_grpc.OrchestratorServiceServicer


class Pool(_Base):  # type: ignore[misc]
    """Pods of one Service: refuses, or begins a run whose stream is cut after its first event."""

    def __init__(self, *, elsewhere: str = "", busy: int = 0) -> None:
        self.elsewhere = elsewhere
        self.busy = busy
        self.asked: list[tuple[str, str]] = []
        self.followed: list[int] = []

    async def RunTeam(self, request: pb.RunTeamRequest, context: Any) -> AsyncIterator[pb.RunTeamResponse]:
        caller = current_caller()
        self.asked.append((f"{caller.tenant} for {caller.user}", request.start.request_id))
        if self.elsewhere:
            metadata = {"pool": self.elsewhere}
            raise FailedPrecondition("not here", reason="TEAM_SERVED_ELSEWHERE", metadata=metadata)
        if self.busy:
            self.busy -= 1
            raise ResourceExhausted("too many", reason="TOO_MANY_RUNS")
        yield pb.RunTeamResponse(run=run_pb2.Run(name="runs/r1"), items=[started()])
        raise Unavailable("the process stops", reason="DEPENDENCY_UNAVAILABLE")

    async def StreamRunEvents(
        self, request: pb.StreamRunEventsRequest, context: Any
    ) -> AsyncIterator[pb.StreamRunEventsResponse]:
        self.followed.append(request.after_sequence)
        if len(self.followed) == 1:
            raise Unavailable("the next one, too", reason="DEPENDENCY_UNAVAILABLE")
        if len(self.followed) == 2:
            yield pb.StreamRunEventsResponse(items=[completed(2, "Two years.")])
            return  # cut in order
        yield pb.StreamRunEventsResponse(items=[finished(3)])

    def service(self) -> Service:
        return Service(
            name=NAME,
            register=lambda server: pb_grpc.add_OrchestratorServiceServicer_to_server(self, server),
            called_across=True,
        )


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        with scope(caller=Caller("user", "alice")):
            yield stack


async def calls(stack: AsyncExitStack, **pools: Pool) -> TeamCalls:
    """Of pools by the names of their Services, with _ for -."""
    targets = {
        name.replace("_", "-"): await stack.enter_async_context(serve_in_process([pool.service()]))
        for name, pool in pools.items()
    }
    made = TeamCalls(lambda service, _: targets[service], keys=lambda _: TEST_KEY, clock=SystemClock())
    stack.push_async_callback(made.close)
    return made


async def test_pods_of_a_teams_own_are_found_and_a_cut_stream_found_again(
    stack: AsyncExitStack,
) -> None:
    front, own = Pool(elsewhere="at-desk"), Pool(busy=1)
    made, began = await calls(stack, agentteams_orchestrator=front, at_desk=own), list[str]()
    request_id = str(uuid.uuid4())
    front.followed.append(0)  # its first stream is there
    ended = await made.ask("owner", "desk", "How long?", request_id=request_id, began=began.append)
    assert (ended.state, ended.answer, ended.run) == ("SUCCEEDED", "Two years.", "runs/r1")
    assert began == ["runs/r1"]
    # One request, whoever is asked, in the owner's tenant for a user of another one.
    assert front.asked == [("owner for tenant:user/alice", request_id)]
    assert own.asked == [("owner for tenant:user/alice", request_id)] * 2
    # Any pod follows any run of the namespace; nothing is read twice.
    assert (front.followed, own.followed) == ([0, 1, 2], [])


async def test_pods_that_send_calls_in_a_circle_are_an_error(stack: AsyncExitStack) -> None:
    front, other = Pool(elsewhere="at-desk"), Pool(elsewhere="agentteams-orchestrator")
    made = await calls(stack, agentteams_orchestrator=front, at_desk=other)
    with pytest.raises(FailedPrecondition, match="not here"):
        await made.ask("owner", "desk", "?", request_id=str(uuid.uuid4()), began=lambda run: None)
    assert len(front.asked) + len(other.asked) <= 4


async def test_a_run_of_another_namespace_is_followed_by_its_name(stack: AsyncExitStack) -> None:
    front = Pool()
    made = await calls(stack, agentteams_orchestrator=front)
    ended = await made.follow("owner", "runs/r1")
    assert (ended.answer, front.asked, front.followed) == ("Two years.", [], [0, 0, 2])
