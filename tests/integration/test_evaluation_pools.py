"""Golden sets of teams reach the pods that begin the team's runs: two orchestrators, over real gRPC."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb

from evaluation.adapters.orchestrator_client import OrchestratorAsker
from servicekit.client import RpcClient, open_channel
from servicekit.context import Caller, scope
from servicekit.errors import FailedPrecondition, Unavailable
from servicekit.identity import TokenIssuer
from servicekit.testing import TEST_KEY
from tests.support.fake_orchestrator import FakeOrchestrator, answer, finished, items

TARGET = "{service}.{namespace}:50054"


@dataclass
class Cluster:
    """The orchestrators of a namespace by the names that a cluster would give them."""

    asker: OrchestratorAsker
    front: FakeOrchestrator
    own: FakeOrchestrator
    opened: list[str] = field(default_factory=list)
    told: set[str] = field(default_factory=set)

    async def ask(self, team: str = "big") -> list[str]:
        with scope(caller=Caller("acme", "ada", "evaluation"), timeout=timedelta(seconds=20)):
            async for name in self.asker.ask(team, "How long is the warranty?"):
                self.told.add(name)
        return sorted(self.told)


def refusal(pool: str) -> FailedPrecondition:
    return FailedPrecondition("not here", reason="TEAM_SERVED_ELSEWHERE", metadata={"pool": pool})


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    front, own = FakeOrchestrator(), FakeOrchestrator()
    front.teams = own.teams = [pb.Team(name="teams/big"), pb.Team(name="teams/small")]
    opened: list[str] = []
    async with AsyncExitStack() as stack:
        targets = {
            "agentteams-orchestrator.acme:50054": await stack.enter_async_context(front.serve()),
            "at-big.acme:50054": await stack.enter_async_context(own.serve()),
        }

        def connect(target: str) -> RpcClient:
            opened.append(target)
            issuer = TokenIssuer(TEST_KEY, service="evaluation")
            return RpcClient(
                open_channel(targets[target]), issuer=issuer, default_timeout=timedelta(seconds=10)
            )

        asker = OrchestratorAsker(TARGET, connect=connect, stack=stack)
        yield Cluster(asker=asker, front=front, own=own, opened=opened)


async def test_a_team_with_pods_of_its_own_is_asked_there(cluster: Cluster) -> None:
    cluster.front.start_error = refusal("at-big")
    assert await cluster.ask() == ["runs/r1"]
    [first], [second] = cluster.front.starts, cluster.own.starts
    assert first == second  # one request, wherever it is made
    assert (second.team, second.input[0].content) == ("teams/big", "How long is the warranty?")
    assert (cluster.own.callers[0].tenant, cluster.own.callers[0].user) == ("acme", "ada")
    assert await cluster.ask() == ["runs/r1", "runs/r2"]
    assert cluster.opened == ["agentteams-orchestrator.acme:50054", "at-big.acme:50054"]


async def test_a_team_without_is_asked_at_the_door_of_its_namespace(cluster: Cluster) -> None:
    assert await cluster.ask("small") == ["runs/r1"]
    assert cluster.own.starts == []


@pytest.mark.parametrize("pool", ["at-other", "evil.example:1/", ""])
async def test_no_pool_is_believed_to_be_any_host(cluster: Cluster, pool: str) -> None:
    cluster.front.start_error = refusal(pool)
    with pytest.raises(FailedPrecondition) as refused:
        await cluster.ask()
    assert refused.value.reason == "TEAM_SERVED_ELSEWHERE"
    assert cluster.opened == ["agentteams-orchestrator.acme:50054"]


async def test_two_pools_that_name_each_other_are_asked_once_each(cluster: Cluster) -> None:
    cluster.front.start_error = cluster.own.start_error = refusal("at-big")
    with pytest.raises(FailedPrecondition):
        await cluster.ask()
    assert (len(cluster.front.starts), len(cluster.own.starts)) == (1, 1)


async def test_a_run_that_fails_is_an_error_and_its_name_is_known(cluster: Cluster) -> None:
    down = Unavailable("the model is away", reason="MODEL_UNAVAILABLE")
    cluster.front.streams.clear()
    cluster.front.streams.append(items(*answer("Half")[:-1], finished(4, error=down)))
    with pytest.raises(Unavailable) as failed:
        await cluster.ask("small")
    assert (cluster.told, failed.value.reason) == ({"runs/r1"}, "MODEL_UNAVAILABLE")
