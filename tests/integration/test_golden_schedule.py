"""Golden sets of teams by schedule: evaluation services as processes, one of which is killed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb
from agentteams.session.v1 import golden_sets_pb2 as pb
from agentteams.session.v1 import run_pb2, scores_pb2
from agentteams.session.v1.golden_sets_pb2_grpc import GoldenSetServiceStub
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub
from google.protobuf.duration_pb2 import Duration

from manifests.golden_pb import questions_to_pb
from manifests.golden_questions import parse_questions
from servicekit.context import current_caller
from servicekit.errors import Conflict, InvalidArgument, NotFound, PermissionDenied
from servicekit.testing import rpc_as
from tests.integration.test_evaluation_service import MANIFESTS, PLANTED, TRUE, World, world_of
from tests.support.fake_orchestrator import FakeOrchestrator, finished, items
from tests.support.ports import free_port
from tests.support.stack import until

pytestmark = pytest.mark.timeout(240)  # processes that start on a busy machine

QUESTIONS = """
questions:
- {id: length, question: "How long is the warranty?", sources: [handbook.md], facts: [two years|2 years]}
- {id: begin, question: "When does it begin?", sources: [handbook.md, prices.md], facts: ["[1]"]}
"""
EVALUATION = """
    goldenSetRef: {configMapKeyRef: {name: golden, key: team.yaml}}
    schedule: "@hourly"
"""


@dataclass
class Orchestrator(FakeOrchestrator):
    """Runs are the session service's, so that they can be scored."""

    world: World
    says: str = TRUE
    gate: asyncio.Event | None = None
    asked: list[str] = field(default_factory=list)
    users: set[tuple[str, str]] = field(default_factory=set)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        super().__init__()
        self.streams.clear()
        self.streams.append(items(finished(1)))

    async def StartRun(self, request: orchestrator_pb.StartRunRequest, context: Any) -> run_pb2.Run:
        """A run that has ended already. From the second on it waits for the gate, if there is one."""
        caller = current_caller()
        self.users.add((caller.tenant, caller.user))
        self.asked.append(request.input[0].content)
        if self.gate is not None and len(self.asked) > 1:
            self.reached.set()
            await self.gate.wait()
        return run_pb2.Run(name=await self.world.ask(self.says, user=caller.user))


@pytest.fixture
async def orchestrator(tmp_path: Path) -> AsyncIterator[Orchestrator]:
    async with AsyncExitStack() as stack:
        world = await stack.enter_async_context(world_of("acme", tmp_path))
        orchestrator = Orchestrator(world=world)
        world.orchestrator = await stack.enter_async_context(orchestrator.serve())
        wants(world)
        yield orchestrator


def wants(world: World, *, instructions: str = "Be kind.") -> None:
    """The team is asked by schedule; other instructions are another revision."""
    text = MANIFESTS.format(url=world.model.base_url, tenant=world.tenant).rstrip()
    text = text.replace("  members:", f"  instructions: {instructions}\n  members:")
    (world.folder / "manifests" / "all.yaml").write_text(text + EVALUATION)


async def call(world: World, method: str, request: Any, *, service: str = "", user: str = "ada") -> Any:
    async with rpc_as(world.session, tenant=world.tenant, user=user, service=service) as rpc:
        stub: Any = GoldenSetServiceStub(rpc.channel)
        return await rpc.unary(getattr(stub, method), request)


async def set_questions(world: World, text: str = QUESTIONS) -> pb.TeamGoldenSet:
    request = questions_to_pb("helpdesk", "golden/team.yaml", parse_questions(text))
    found: pb.TeamGoldenSet = await call(world, "SetTeamGoldenSet", request)
    return found


async def state(world: World) -> pb.TeamGoldenSet:
    found: pb.TeamGoldenSet = await call(
        world, "GetTeamGoldenSet", pb.GetTeamGoldenSetRequest(team="teams/helpdesk")
    )
    return found


async def stored(world: World, user: str = "bob") -> list[scores_pb2.TeamEvaluation]:
    async with rpc_as(world.session, tenant=world.tenant, user=user) as rpc:
        stub: Any = ScoreServiceStub(rpc.channel)
        request = scores_pb2.ListTeamEvaluationsRequest(team="teams/helpdesk")
        return list((await rpc.unary(stub.ListTeamEvaluations, request)).evaluations)


async def evaluated(world: World, times: int) -> pb.TeamGoldenSet:
    """When there are so many evaluations."""

    async def done() -> bool:
        return len(await stored(world)) >= times

    await until(done, within_s=90, what=f"evaluation {times}")
    return await state(world)


async def test_a_golden_set_is_asked_once_whoever_is_killed_and_again_of_each_revision(
    orchestrator: Orchestrator,
) -> None:
    world = orchestrator.world
    await set_questions(world)
    orchestrator.gate = asyncio.Event()
    async with world.serving("first") as first:
        async with asyncio.timeout(90):
            await orchestrator.reached.wait()

        async def seen() -> bool:
            return (await state(world)).done == 1

        await until(seen, what="progress")
        assert (await state(world)).running
        first.send_signal(signal.SIGKILL)
        await first.wait()
    orchestrator.gate.set()
    assert await stored(world) == []
    port = free_port()
    async with world.serving("second", metrics_port=port), world.serving("third"):
        found = await evaluated(world, 1)
        # Two questions of the one that was killed, and two of one of the others.
        assert len(orchestrator.asked) == 4
        assert orchestrator.users == {("acme", "golden-set")}
        first_revision = found.newest.team_revision
        assert (found.newest.sources_found, found.newest.facts_present, found.newest.failed) == (0.75, 1.0, 0)
        assert (found.newest.faithfulness, found.newest.scheduled) == (1.0, True)
        assert (found.running, found.failures, found.HasField("former")) == (False, 0, False)
        [made] = await stored(world, "carol")  # everybody of the namespace sees it
        assert [(one.id, one.error, list(one.missing_sources)) for one in made.questions] == [
            ("length", "", []), ("begin", "", ["prices.md"]),
        ]  # fmt: skip
        assert made.create_time == found.newest.create_time

        orchestrator.says = PLANTED
        wants(world, instructions="Be brief.")
        found = await evaluated(world, 2)
        assert found.newest.team_revision not in ("", first_revision)
        assert (found.newest.facts_present, found.newest.faithfulness) == (0.5, 0.0)
        assert (found.former.team_revision, found.former.facts_present) == (first_revision, 1.0)

        # The same again changes nothing, and other questions are asked at once.
        await set_questions(world)
        assert len(orchestrator.asked) == 6
        await set_questions(world, QUESTIONS + '- {question: "Is it long?"}\n')
        found = await evaluated(world, 3)
        assert (found.questions, found.HasField("former")) == (3, False)
        assert len(orchestrator.asked) == 9

        async def metrics() -> bool:
            found = (await asyncio.to_thread(httpx.get, f"http://127.0.0.1:{port}/metrics", timeout=10)).text
            name = 'agentteams_evaluation_golden_score{score="facts_present",team="acme/helpdesk"} 0.5'
            return name in found and 'agentteams_evaluation_golden_teams{state="GOOD"} 1.0' in found

        await until(metrics, within_s=20, what="metrics")


async def test_what_a_caller_may_do_with_golden_sets(orchestrator: Orchestrator) -> None:
    world = orchestrator.world
    ask = pb.GetTeamGoldenSetRequest(team="teams/helpdesk")
    with pytest.raises(NotFound) as none:
        await call(world, "GetTeamGoldenSet", ask)
    assert none.value.reason == "GOLDEN_SET_NOT_FOUND"
    known = await set_questions(world)
    claim = pb.ClaimTeamGoldenSetRequest(
        team="teams/helpdesk", golden_set_sha256=known.golden_set_sha256, lease_duration=Duration(seconds=5)
    )
    for method, request in (
        ("ClaimTeamGoldenSet", claim),
        ("RenewTeamGoldenSet", pb.RenewTeamGoldenSetRequest(team="teams/helpdesk", token="t")),
        ("EndTeamGoldenSet", pb.EndTeamGoldenSetRequest(team="teams/helpdesk", token="t")),
        ("ListTeamGoldenSets", pb.ListTeamGoldenSetsRequest()),
    ):
        with pytest.raises(PermissionDenied):
            await call(world, method, request)
    evaluation = {"service": "evaluation", "user": ""}
    claimed = await call(world, "ClaimTeamGoldenSet", claim, **evaluation)
    assert [one.id for one in claimed.questions] == ["length", "begin"]
    with pytest.raises(Conflict) as taken:
        await call(world, "ClaimTeamGoldenSet", claim, **evaluation)
    assert taken.value.reason == "GOLDEN_SET_TAKEN"
    wrong = pb.EndTeamGoldenSetRequest(team="teams/helpdesk", token=claimed.token)
    with pytest.raises(InvalidArgument):
        await call(world, "EndTeamGoldenSet", wrong, **evaluation)
    for field_, bad in (
        ("questions[0].question", "questions: [{question: ' '}]"),
        ("questions[1].id", "questions: [{id: a, question: x}, {id: a, question: y}]"),
        ("questions[0].facts[0]", "questions: [{question: x, facts: ['']}]"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            await set_questions(world, bad)
        assert refused.value.violations[0].field == field_
    empty = pb.SetTeamGoldenSetRequest(team="teams/helpdesk")
    await call(world, "SetTeamGoldenSet", empty)
    with pytest.raises(NotFound):
        await call(world, "GetTeamGoldenSet", ask)
