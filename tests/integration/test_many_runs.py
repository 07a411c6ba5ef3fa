"""A thousand questions at once to a team that may answer fifty: what is refused, and that nothing is more."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from agentteams.session.v1 import run_pb2

from servicekit.clock import SystemClock
from servicekit.errors import ResourceExhausted
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import TEST_KEY, serve_in_process
from session.adapters.store import SqlSessionStore
from session.servicer import SessionServicer, session_service
from tests.integration.test_orchestrators import MANIFESTS, as_ada
from tests.support.model_server import ModelServer, Reply
from tests.support.replicas import Fleet, Replica
from tests.support.sessions import Databases, databases, migrated_file

pytestmark = pytest.mark.alone

__all__ = ["as_ada", "databases", "migrated_file"]

LIMIT = 50
ASKED = 1000
_ACTIVE = sa.text("SELECT count(*) FROM runs WHERE state = 2")


@pytest.fixture
async def fleet(databases: Databases, tmp_path: Path) -> AsyncIterator[Fleet]:
    """Two orchestrators over one session service; the team is `solo`."""
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    limited = MANIFESTS.replace("members:", f"limits: {{maxConcurrentRuns: {LIMIT}}}\n  members:")
    models = limited.replace("provider: BuiltIn", "provider: BuiltIn, limits: {maxConcurrent: 100}")
    (manifests / "all.yaml").write_text(models)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer(scenario="answer"))
        store = SqlSessionStore(database=databases.plain, clock=SystemClock(), new_id=new_id)
        servicer = SessionServicer(store=store, tokens=PageTokens(TEST_KEY))
        session = await stack.enter_async_context(serve_in_process([session_service(servicer)]))
        fleet = Fleet(stack=stack, session=session, model=model, manifests=manifests)
        for _ in range(2):
            await fleet.begin()
        yield fleet


async def ask(replica: Replica, question: str) -> run_pb2.Run | ResourceExhausted:
    try:
        return await replica.start(question)
    except ResourceExhausted as refused:
        return refused


async def end_of(replica: Replica, run: run_pb2.Run) -> str:
    last = None
    async for item in replica.follow(run):
        last = item
    assert last is not None
    return run_pb2.RunState.Name(last.event.run_finished.state)


async def active(databases: Databases) -> int:
    return int(await databases.admin.read(lambda connection: connection.execute(_ACTIVE).scalar_one()))


async def test_fifty_of_a_thousand_are_answered_and_the_others_told_when_to_come_again(
    fleet: Fleet, databases: Databases
) -> None:
    release = asyncio.Event()
    fleet.model.script(lambda _: Reply("Yes.", gate=release))
    began = time.monotonic()
    replicas = fleet.replicas
    answers = await asyncio.gather(*(ask(replicas[n % 2], f"Question {n}?") for n in range(ASKED)))
    started = [(n, answer) for n, answer in enumerate(answers) if isinstance(answer, run_pb2.Run)]
    refused = [answer for answer in answers if isinstance(answer, ResourceExhausted)]
    assert len(started) == LIMIT == await active(databases)
    assert len(refused) == ASKED - LIMIT
    for error in refused:
        assert (error.reason, error.retry_after) == ("TOO_MANY_RUNS", timedelta(seconds=2))
        assert f"limits.maxConcurrentRuns: {LIMIT}" in error.message
    await fleet.model.received(LIMIT)
    assert len(fleet.model.requests) == LIMIT  # nothing was spent on the others
    release.set()
    ends = await asyncio.gather(*(end_of(replicas[n % 2], run) for n, run in started))
    assert Counter(ends) == {"RUN_STATE_SUCCEEDED": LIMIT}
    assert time.monotonic() - began < 30


async def test_those_who_come_again_are_all_answered_and_never_more_at_a_time(
    fleet: Fleet, databases: Databases
) -> None:
    fleet.model.first_chunk_delay_s = 0.5
    most = 0
    over = asyncio.Event()

    async def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, await active(databases))
            await asyncio.sleep(0.02)

    async def insist(number: int) -> str:
        replica = fleet.replicas[number % 2]
        while True:
            answer = await ask(replica, f"Question {number}?")
            if isinstance(answer, run_pb2.Run):
                return await end_of(replica, answer)
            await asyncio.sleep(0.1)  # it was told 2 s: the test is in more of a hurry than a client

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(watch())
        ends = await asyncio.gather(*(insist(number) for number in range(3 * LIMIT)))
        over.set()
    assert Counter(ends) == {"RUN_STATE_SUCCEEDED": 3 * LIMIT}
    assert LIMIT / 2 < most <= LIMIT
