"""Conversations of several runs over the real session service: summaries, memories, retention."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from localmodel.server import conversation, wire
from localmodel.server.extractive import summarize
from manifests import AgentTeam
from orchestrator.adapters.memory_client import MemoryClient
from orchestrator.adapters.session_client import SessionClient
from orchestrator.core.log import Item
from orchestrator.core.model import HistorySummarized, Message, RunFinished
from orchestrator.core.ports import RunRow
from orchestrator.core.runs import Runs
from servicekit.client import RpcClient, open_channel
from servicekit.clock import SystemClock
from servicekit.context import Caller, scope
from servicekit.identity import TokenIssuer
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import TEST_KEY, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.schema import migrate
from session.adapters.store import SqlSessionStore
from session.memory_servicer import MemoryServicer, memory_service
from session.servicer import SessionServicer, session_service
from tests.support.fake_models import Call, Script, calls, says
from tests.support.orchestrator_fakes import Bench, FakePeers, flat, team

ADA = Caller("default", "ada")
BOB = Caller("default", "bob")
EVE = Caller("other", "ada")  # of another tenant, with the same name
SUMMARIZES = {"historyRuns": 1, "summary": {"enabled": True, "triggerTokens": 200}}
LONG = "and some words of no importance that make it longer " * 6


@dataclass
class Live:
    """An orchestrator's runs over a session service with SQLite."""

    bench: Bench
    runs: Runs
    sessions: RpcClient

    async def ask(self, question: str, *, of: AgentTeam, session: str = "", caller: Caller = ADA) -> RunRow:
        """One run to its end."""
        self.bench.catalogue.all_teams = [of]
        with scope(caller=caller):
            row = await self.runs.start(
                team_name=f"teams/{of.metadata.name}",
                session=session,
                messages=[Message(role="user", content=question)],
                request_id=str(uuid.uuid4()),
            )
            async with asyncio.timeout(30):
                items: list[Item] = [item async for item in flat(self.runs.follow(row.name, after=0))]
        end: Any = items[-1]
        assert isinstance(end.step, RunFinished)
        assert end.step.state == "SUCCEEDED", end.step.error
        return row

    def shown(self, call: int = -1) -> str:
        """All that the model was told in a call."""
        return "\n".join(prompt.content for prompt in self.bench.models.calls[call].prompts)

    async def summaries(self, session: str) -> list[HistorySummarized]:
        """Of all runs of a session."""
        stub: Any = SessionServiceStub(self.sessions.channel)
        found = []
        with scope(caller=ADA):
            runs = (await self.sessions.unary(stub.ListRuns, pb.ListRunsRequest(session=session))).runs
            for run in reversed(runs):
                request = pb.ListRunEventsRequest(run=run.name, page_size=500)
                for event in (await self.sessions.unary(stub.ListRunEvents, request)).events:
                    if event.HasField("history_summarized"):
                        it = event.history_summarized
                        found.append(
                            HistorySummarized(text=it.text, through_sequence=it.through_message_sequence)
                        )
        return found


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with AsyncExitStack() as stack:
        file = tmp_path / "session.db"
        database = open_database(f"sqlite:///{file}", PoolLimits(connections=4))
        stack.push_async_callback(database.close)
        await migrate(database)
        store = SqlSessionStore(database=database, clock=SystemClock(), new_id=new_id)
        tokens = PageTokens(TEST_KEY)
        services = [
            session_service(SessionServicer(store=store, tokens=tokens)),
            memory_service(MemoryServicer(store=store, tokens=tokens)),
        ]
        target = await stack.enter_async_context(serve_in_process(services))

        def rpc(service: str) -> RpcClient:
            channel = open_channel(target)
            stack.push_async_callback(channel.close)
            issuer = TokenIssuer(TEST_KEY, service=service)
            return RpcClient(channel, issuer=issuer, default_timeout=timedelta(seconds=10))

        bench = Bench()
        client = SessionClient(rpc("orchestrator"), owner="o1", address="", lease=timedelta(seconds=3))
        world = replace(bench.world, memories=MemoryClient(rpc("orchestrator")))
        runs = Runs(world=world, store=client, peers=FakePeers(), clock=SystemClock())
        task = asyncio.create_task(runs.work())
        await asyncio.sleep(0)
        yield Live(bench=bench, runs=runs, sessions=rpc("test"))
        task.cancel()
        await asyncio.wait([task])


def sums_up(call: Call) -> Script:
    """Answers with the number of the question; a summary names the questions that it was told of."""
    words = call.last.split()
    if "<conversation>" in call.last:
        return says(
            " ".join(
                ["Notes:", *dict.fromkeys(word.rstrip(".") for word in words if word.startswith("fact"))]
            )
        )
    return says(f"Answer to {next(word for word in words if word.startswith('fact'))}. {LONG}")


async def test_what_was_said_long_ago_is_known_by_its_summary(live: Live) -> None:
    live.bench.models.choose = sums_up
    of = team(session=SUMMARIZES)
    session = (await live.ask(f"fact1 {LONG}", of=of)).session
    for number in range(2, 7):
        await live.ask(f"fact{number} {LONG}", of=of, session=session)
    summaries = await live.summaries(session)
    assert [summary.through_sequence for summary in summaries] == [2, 4, 6, 8, 10]
    # Each holds the one before it: the first fact is still there.
    assert summaries[-1].text == "Notes: fact1 fact2 fact3 fact4 fact5"
    await live.ask(f"fact7 {LONG}", of=of, session=session)
    told = live.shown(-2)  # the last one sums up
    assert "<summary>\nNotes: fact1 fact2 fact3 fact4 fact5\n</summary>" in told
    assert f"fact5 {LONG}" not in told
    assert f"fact6 {LONG}" in told


def local_answerer(call: Call) -> Script:
    """As the answerer of local mode that has no model."""
    messages = [wire.Message(role=prompt.role, content=prompt.content) for prompt in call.prompts]
    asked = conversation.transcript(messages)
    return says(f"No. Well, {LONG}" if asked is None else summarize(*asked))


async def test_the_local_answerer_without_a_model_sums_up_what_it_is_sent(live: Live) -> None:
    live.bench.models.choose = local_answerer
    of = team(session=SUMMARIZES)
    session = (await live.ask(f"My name is Ada. Well, {LONG}", of=of)).session
    for number in (2, 3, 4):
        await live.ask(f"Number {number}? Well, {LONG}", of=of, session=session)
    (*_, last) = await live.summaries(session)
    assert last.text.splitlines() == [
        "user: My name is Ada.", "assistant: No.", "user: Number 2?", "assistant: No.",
        "user: Number 3?", "assistant: No.",
    ]  # fmt: skip


async def test_without_summaries_only_the_last_questions_are_known(live: Live) -> None:
    live.bench.models.choose = sums_up
    of = team(session={"historyRuns": 1})
    session = (await live.ask(f"fact1 {LONG}", of=of)).session
    for number in (2, 3):
        await live.ask(f"fact{number} {LONG}", of=of, session=session)
    assert await live.summaries(session) == []
    assert "fact1" not in live.shown()
    assert "fact2" in live.shown()


def remembers(call: Call) -> Script:
    """Remembers the user's town once it is told."""
    if "It will be remembered." in call.last:
        return says("I will remember.")
    if "I live in Rome" in call.last:
        return calls(("remember", '{"text": "The user lives in Rome."}'))
    return says("Perhaps.")


async def test_a_fact_is_known_in_another_session_and_to_nobody_else(live: Live) -> None:
    live.bench.models.choose = remembers
    of = team(session={"userMemory": "ReadWrite"})
    await live.ask("I live in Rome.", of=of)
    known = "<memories>\n1. The user lives in Rome.\n</memories>"

    await live.ask("Where in the world do I live?", of=of)
    assert known in live.shown()
    for caller in (BOB, EVE):
        await live.ask("Where in the world do I live?", of=of, caller=caller)
        assert "Rome" not in live.shown()
    await live.ask("Where in the world do I live?", of=team(name="other", session={"userMemory": "ReadOnly"}))
    assert "Rome" not in live.shown()  # it is the team's that was told
    await live.ask("Where in the world do I live?", of=team())
    assert "Rome" not in live.shown()

    live.bench.models.choose = lambda call: (
        says("Gone.") if call.last == "It is forgotten." else calls(("forget", '{"number": 1}'))
    )
    await live.ask("Forget where I live.", of=of)
    live.bench.models.choose = remembers
    await live.ask("Where in the world do I live?", of=of)
    assert "Rome" not in live.shown()


async def test_a_session_is_kept_as_long_as_the_team_says_from_each_question_on(live: Live) -> None:
    live.bench.models.choose = lambda call: says("Yes.")
    session = (await live.ask("One?", of=team())).session
    stub: Any = SessionServiceStub(live.sessions.channel)

    async def kept() -> timedelta | None:
        with scope(caller=ADA):
            found = await live.sessions.unary(stub.GetSession, pb.GetSessionRequest(name=session))
        return found.retention.ToTimedelta() if found.HasField("retention") else None

    assert await kept() is None
    await live.ask("Two?", of=team(session={"retentionDays": 30}), session=session)
    assert await kept() == timedelta(days=30)
    await live.ask("Three?", of=team(), session=session)
    assert await kept() == timedelta(days=30)
