"""Which orchestrators the gateway asks."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from gateway.adapters.orchestrators import Orchestrators
from gateway.core.model import Message, NoScores, Question, Run, RunItem, Team
from servicekit.context import Caller, scope
from servicekit.errors import FailedPrecondition, NotFound

CLUSTER = "{service}.{namespace}.svc:50054"
QUESTION = Question(
    team="own", session="", messages=(Message(role="user", content="?"),), stream=False, include_usage=False
)


async def nothing() -> AsyncGenerator[RunItem, None]:
    nobody: tuple[RunItem, ...] = ()
    for item in nobody:
        yield item


@dataclass
class Asked:
    """All clients: they note what reaches them, and some teams are served elsewhere."""

    elsewhere: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    teams: list[str] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    refuses: bool = False

    def client(self, target: str, *, owner: str = "") -> "Client":
        self.owners[target] = owner
        self.open.add(target)
        return Client(target, self)


@dataclass
class Client:
    target: str
    asked: Asked

    async def close(self) -> None:
        self.asked.open.discard(self.target)

    async def check(self) -> None:
        self.asked.calls.append(("check", self.target))

    async def ask(self, question: Question, *, request_id: str) -> tuple[Run, AsyncGenerator[RunItem, None]]:
        self.asked.calls.append((request_id, self.target))
        self.asked.teams.append(question.team)
        if self.asked.refuses:
            raise NotFound("no such team", reason="TEAM_NOT_FOUND")
        pool = self.asked.elsewhere.get(self.target)
        if pool is not None:
            raise FailedPrecondition("not here", reason="TEAM_SERVED_ELSEWHERE", metadata={"pool": pool})
        return Run(name="runs/r", session="sessions/s"), nothing()

    def follow(self, run: Run) -> AsyncGenerator[RunItem, None]:
        self.asked.calls.append((run.name, self.target))
        return nothing()

    async def scores(self, run: Run, *, after: int, within: timedelta) -> NoScores:
        self.asked.calls.append((f"scores of {run.name}", self.target))
        return NoScores(missing="not_yet")

    async def team(self, name: str) -> Team:
        raise NotImplementedError

    async def teams(self) -> list[Team]:
        self.asked.calls.append(("teams", self.target))
        return []


@pytest.fixture
def asked() -> Asked:
    return Asked()


async def test_one_machine_has_one_orchestrator(asked: Asked) -> None:
    orchestrators = Orchestrators("127.0.0.1:50054", connect=asked.client)
    await orchestrators.check()
    with scope(caller=Caller("acme", "ada")):
        await orchestrators.ask(QUESTION, request_id="1")
    assert asked.calls == [("check", "127.0.0.1:50054"), ("1", "127.0.0.1:50054")]


async def test_every_namespace_has_its_own(asked: Asked) -> None:
    orchestrators = Orchestrators(CLUSTER, connect=asked.client)
    await orchestrators.check()  # none in particular
    for tenant in ("acme", "globex"):
        with scope(caller=Caller(tenant, "ada")):
            await orchestrators.teams()
            orchestrators.follow(Run(name="runs/r", session="sessions/s"))
    assert asked.calls == [
        ("teams", "agentteams-orchestrator.acme.svc:50054"),
        ("runs/r", "agentteams-orchestrator.acme.svc:50054"),
        ("teams", "agentteams-orchestrator.globex.svc:50054"),
        ("runs/r", "agentteams-orchestrator.globex.svc:50054"),
    ]


async def test_a_team_with_pods_of_its_own_is_asked_there_and_remembered(asked: Asked) -> None:
    front, own = "agentteams-orchestrator.acme.svc:50054", "at-own.acme.svc:50054"
    asked.elsewhere[front] = "at-own"
    orchestrators = Orchestrators(CLUSTER, connect=asked.client)
    with scope(caller=Caller("acme", "ada")):
        await orchestrators.ask(QUESTION, request_id="1")
        await orchestrators.ask(QUESTION, request_id="2")
        assert asked.calls == [("1", front), ("1", own), ("2", own)]
        # It has given its pods up: they say where it is now.
        asked.elsewhere = {own: "agentteams-pool"}
        await orchestrators.ask(QUESTION, request_id="3")
        assert asked.calls[3:] == [("3", own), ("3", "agentteams-pool.acme.svc:50054")]


async def test_what_is_served_nowhere_is_an_error_and_no_loop(asked: Asked) -> None:
    asked.elsewhere = {
        "agentteams-orchestrator.acme.svc:50054": "at-own",
        "at-own.acme.svc:50054": "agentteams-pool",
    }
    orchestrators = Orchestrators(CLUSTER, connect=asked.client)
    with scope(caller=Caller("acme", "ada")), pytest.raises(FailedPrecondition):
        await orchestrators.ask(QUESTION, request_id="1")
    assert len(asked.calls) == 2


async def test_a_team_of_another_namespace_is_asked_there_as_a_call(asked: Asked) -> None:
    orchestrators = Orchestrators(CLUSTER, connect=asked.client)
    front = "agentteams-orchestrator.globex.svc:50054"
    question = replace(QUESTION, team="globex/own")
    with scope(caller=Caller("acme", "ada")):
        asked.elsewhere[front] = "at-own"
        run, _ = await orchestrators.ask(question, request_id="1")
        assert run.namespace == "globex"
        orchestrators.follow(run)
        await orchestrators.scores(run, after=4, within=timedelta(seconds=9))
        await orchestrators.ask(replace(QUESTION, team="acme/own"), request_id="2")
    assert asked.calls == [
        ("1", front),
        ("1", "at-own.globex.svc:50054"),
        ("runs/r", front),
        ("scores of runs/r", front),
        ("2", "agentteams-orchestrator.acme.svc:50054"),
    ]
    assert asked.teams == ["own", "own", "own"]
    assert asked.owners == {
        front: "globex", "at-own.globex.svc:50054": "globex", "agentteams-orchestrator.acme.svc:50054": ""
    }  # fmt: skip


async def test_namespaces_that_refuse_leave_no_connection_behind(asked: Asked) -> None:
    orchestrators = Orchestrators(CLUSTER, connect=asked.client)
    asked.refuses = True
    with scope(caller=Caller("acme", "ada")):
        for number in range(3):
            with pytest.raises(NotFound):
                await orchestrators.ask(replace(QUESTION, team=f"made-up-{number}/x"), request_id="1")
        assert asked.open == set()
        asked.refuses = False
        await orchestrators.ask(replace(QUESTION, team="globex/x"), request_id="1")
    assert asked.open == {"agentteams-orchestrator.globex.svc:50054"}
    await orchestrators.close()
    assert asked.open == set()
