"""One run and all that it works with, by hand: manifests, other processes, steps."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from manifests import DEFAULT_NAMESPACE, AgentTeam, KnowledgeBase, ModelConfig
from orchestrator.core.calls import Calls, NoCalls
from orchestrator.core.ledger import Ledger
from orchestrator.core.log import Item, RunLog
from orchestrator.core.model import Message, RunInput
from orchestrator.core.ports import Followed
from orchestrator.core.recorded import Recorded
from orchestrator.core.stages import StageClock
from orchestrator.core.tools import NoTools, Tools
from orchestrator.core.turn import Turn, World
from tests.support.fake_knowledge import FakeEmbedder, FakeKnowledge
from tests.support.fake_models import FakeModels
from tests.support.fake_store import DOWN, FakeStore, LoopClock


@dataclass
class FakePeers:
    """Other processes by address; those that are not there cannot be reached."""

    processes: dict[str, Any] = field(default_factory=dict)
    followed: list[str] = field(default_factory=list)

    async def follow(self, address: str, run: str, *, after: int) -> AsyncIterator[Followed]:
        """See Peers."""
        if address not in self.processes:
            raise DOWN
        self.followed.append(address)
        async for items in self.processes[address].follow(run, after=after, forwarded=True):
            yield items

    async def cancel(self, address: str, run: str) -> None:
        """See Peers."""
        if address not in self.processes:
            raise DOWN
        await self.processes[address].cancel(run, forwarded=True)

    async def provide(self, address: str, run: str, said: RunInput) -> None:
        """See Peers."""
        if address not in self.processes:
            raise DOWN
        await self.processes[address].provide(run, said, forwarded=True)


def model_config(name: str = "chat", **limits: int) -> ModelConfig:
    """A chat model."""
    spec = {"type": "Chat", "provider": "BuiltIn", "limits": limits}
    return ModelConfig.model_validate({"metadata": {"name": name}, "spec": spec})


def team(*members: dict[str, Any], name: str = "helpdesk", **spec: Any) -> AgentTeam:
    """A team; one plain member unless said otherwise."""
    body = {"modelConfigRef": {"name": "chat"}, "members": members or ({"name": "agent"},), **spec}
    return AgentTeam.model_validate_json(json.dumps({"metadata": {"name": name}, "spec": body}))


def knowledge(**fields: Any) -> list[dict[str, Any]]:
    """spec.knowledge with one knowledge base, docs."""
    return [{"name": "docs", "knowledgeBaseRef": {"name": "docs"}, **fields}]


@dataclass
class FakeCatalogue:
    """The manifests of every namespace."""

    all_teams: list[AgentTeam] = field(default_factory=list)
    models: list[ModelConfig] = field(default_factory=lambda: [model_config()])
    problems: list[str] = field(default_factory=list)
    known_bases: tuple[str, ...] = ("docs",)
    allowed: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def team(self, namespace: str, name: str) -> AgentTeam | None:
        """See Catalogue."""
        return next((t for t in self.all_teams if t.metadata.name == name), None)

    def teams(self, namespace: str) -> list[AgentTeam]:
        """See Catalogue."""
        return self.all_teams

    def team_problems(self, namespace: str, name: str) -> list[str]:
        """See Catalogue."""
        return self.problems

    def allowed_tenants(self, namespace: str, name: str) -> tuple[str, ...]:
        """See Catalogue."""
        return self.allowed.get(name, ())

    def model(self, namespace: str, name: str) -> ModelConfig | None:
        """See Catalogue."""
        known = (m for m in self.models if m.metadata.name == name)
        return next((m for m in known if m.metadata.namespace in (namespace, DEFAULT_NAMESPACE)), None)

    def knowledge_base(self, namespace: str, name: str) -> KnowledgeBase | None:
        """See Catalogue."""
        if name not in self.known_bases:
            return None
        spec = {"embedding": {"modelConfigRef": {"name": "embed"}}}
        return KnowledgeBase.model_validate({"metadata": {"name": name}, "spec": spec})


@dataclass
class Bench:
    """One run and all that it works with."""

    models: FakeModels = field(default_factory=FakeModels)
    knowledge: FakeKnowledge = field(default_factory=FakeKnowledge)
    embedder: FakeEmbedder = field(default_factory=FakeEmbedder)
    store: FakeStore = field(default_factory=FakeStore)
    catalogue: FakeCatalogue = field(default_factory=FakeCatalogue)
    clock: LoopClock = field(default_factory=LoopClock)
    tools: Tools = field(default_factory=NoTools)
    calls: Calls = field(default_factory=NoCalls)

    @property
    def world(self) -> World:
        """For runs."""
        return World(
            catalogue=self.catalogue,
            models=self.models,
            knowledge=self.knowledge,
            embedder=self.embedder,
            tools=self.tools,
            calls=self.calls,
        )

    def run_log(self) -> RunLog:
        """A new run's."""
        return RunLog(run="runs/r1", fencing_token=1, store=self.store, clock=self.clock, last_sequence=1)

    def turn(self, of: AgentTeam, question: str = "Why?", history: Sequence[Message] = ()) -> Turn:
        """A new run."""
        return Turn(
            team=of,
            question=question,
            history=history,
            world=self.world,
            log=self.run_log(),
            ledger=Ledger.of(of, earlier=self.store.earlier_logs),
            stages=StageClock(self.clock),
            answer_schema=Recorded().schema_for(of),
        )


def of_type(steps: Sequence[Any], kind: type) -> Iterator[Any]:
    """The steps of one kind."""
    return (step for step in steps if isinstance(step, kind))


async def flat(followed: AsyncIterator[Sequence[Item]]) -> AsyncIterator[Item]:
    """What a follower gets, one by one."""
    async for items in followed:
        for item in items:
            yield item
