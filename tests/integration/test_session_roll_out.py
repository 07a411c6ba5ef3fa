"""During a roll-out the code before runs on, beside the new one, on the new schema."""

import asyncio
import random
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb

from servicekit.identity import IdentityKey
from servicekit.testing import TEST_KEY, rpc_as
from tests.support.postgres import shared_postgres
from tests.support.previous import code_before, migrations
from tests.support.session_processes import environment, migrated, serving
from tests.support.session_service import Client, acting, answer, append, begin, event, finished, tool_call

ROLE = "agentteams_rolling"
TURNS = 5  # of each user


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a roll-out to a migration's code needs besides migrating first (docs/adr/0007-roll-out.md).

    Attributes:
        env: Of both.
        bypass_rls: The role passes row level security.
        queues: Whether the code before knew of runs that wait; else it refuses the question.
    """

    env: Mapping[str, str]
    bypass_rls: bool = False
    queues: bool = True


# A migration that is not named here needs nothing.
STEPS = {
    "0003_row_security.py": Step(
        env={"AGENTTEAMS_SESSION_OFFLOAD_BYTES": "0"}, bypass_rls=True, queues=False
    ),
    "0005_blobs.py": Step(env={"AGENTTEAMS_SESSION_OFFLOAD_BYTES": "0"}),
}
# The first one after the last release: who upgrades from it runs the code before that one. Move it when
# there is a release, and take away steps that nobody takes any more.
SINCE_RELEASE = "0005_blobs.py"
TRIED = sorted({*STEPS, SINCE_RELEASE, migrations()[-1]})


@pytest.mark.parametrize("migration", TRIED)
async def test_the_code_before_a_migration_works_beside_this_one(migration: str, tmp_path: Path) -> None:
    commit, old_path = code_before(migration, tmp_path / "before")
    step = STEPS.get(migration, Step(env={}))
    postgres = shared_postgres()
    database = await postgres.create()
    async with AsyncExitStack() as exits:
        exits.push_async_callback(postgres.drop, database)
        await migrated(environment(tmp_path, postgres.url(database)))
        admin = await asyncpg.connect(
            host="127.0.0.1", port=postgres.port, user="postgres", database=database
        )
        exits.push_async_callback(admin.close)
        await _grant(admin, bypass=step.bypass_rls)
        plain = environment(tmp_path, postgres.url(database, user=ROLE), step.env)
        old = plain | {"PYTHONPATH": old_path}
        processes = [
            await exits.enter_async_context(serving(name, tmp_path, env))
            for name, env in ((f"before ({commit})", old), ("this", plain))
        ]
        # Code before docs/adr/0011 signs and verifies with the installation's key itself, as a key that is
        # said to be the tenant's own does.
        identity = (tmp_path / "before/libs/servicekit/src/servicekit/identity.py").read_text()
        former = TEST_KEY if "of_tenant" in identity else IdentityKey(TEST_KEY.secret, tenant="acme")
        clients = [
            Client(
                await exits.enter_async_context(rpc_as(process.target, tenant="acme", user="ada", key=key))
            )
            for process, key in zip(processes, (former, TEST_KEY), strict=True)
        ]
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(4):
                draw = random.Random(f"{migration}-{number}")
                group.create_task(_talk(f"user-{number}", clients, draw, queues=step.queues))
        for process in processes:
            assert "internal error" not in process.log.read_text().lower()
            assert "Traceback" not in process.log.read_text()


async def _grant(admin: "asyncpg.Connection[asyncpg.Record]", *, bypass: bool) -> None:
    if not await admin.fetchval("SELECT count(*) FROM pg_roles WHERE rolname = $1", ROLE):
        await admin.execute(f"CREATE ROLE {ROLE} LOGIN")
    await admin.execute(f"ALTER ROLE {ROLE} {'BYPASSRLS' if bypass else 'NOBYPASSRLS'}")
    await admin.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}")


async def _talk(user: str, clients: list[Client], draw: random.Random, *, queues: bool) -> None:
    """Conversations of one user; whichever service comes next does the next step. Nothing may fail."""

    def any_of() -> Client:
        return draw.choice(clients)

    with acting(user):
        session, answered = "", 0
        for turn in range(TURNS):
            request = begin(f"question {turn}", session, history_messages=200)
            begun = await any_of().BeginRun(request)
            session, run = begun.run.session, begun.run.name
            assert len(begun.history) == 2 * answered
            assert (await any_of().BeginRun(request)).run.name == run
            waits = None
            if queues and turn % 3 == 0:
                waits = await any_of().BeginRun(begin(f"second {turn}", session))
            for sequence in (2, 3):
                sent = append(run, tool_call(sequence), token=begun.fencing_token)
                assert (await any_of().AppendRunEvents(sent)).last_sequence == sequence
                assert (await any_of().AppendRunEvents(sent)).last_sequence == sequence
            renewed = await any_of().RenewRunLeases(_renewal(run))
            assert not renewed.lost_runs
            await _follow(run, clients, 3)
            call = run_pb2.ModelCallFinished(step="#1", model="m", text="x" * 100_000)
            end = finished(6, run_pb2.RUN_STATE_SUCCEEDED)
            ended = await any_of().AppendRunEvents(
                append(run, event(4, model_call_finished=call), answer(5, "y" * 100_000), end)
            )
            answered += 1
            if waits is not None:
                assert ended.next_run.run.name == waits.run.name
                token = ended.next_run.fencing_token
                stop = [answer(2), finished(3, run_pb2.RUN_STATE_SUCCEEDED)]
                await any_of().AppendRunEvents(append(waits.run.name, *stop, token=token))
                answered += 1
            await _follow(run, clients, 6)
        await _same_everywhere(clients, session, 2 * answered)
        await any_of().DeleteSession(pb.DeleteSessionRequest(name=session))
        for client in clients:
            assert not (await client.ListSessions(pb.ListSessionsRequest())).sessions


def _renewal(run: str) -> pb.RenewRunLeasesRequest:
    request = pb.RenewRunLeasesRequest(lease_owner="orchestrator-1", runs=[run])
    request.lease_duration.FromSeconds(30)
    return request


async def _follow(run: str, clients: list[Client], last: int) -> None:
    logs = [await client.ListRunEvents(pb.ListRunEventsRequest(run=run)) for client in clients]
    assert [e.sequence for e in logs[0].events] == list(range(1, last + 1))
    assert logs[0].events == logs[1].events


async def _same_everywhere(clients: list[Client], session: str, count: int) -> None:
    pages = [await c.ListMessages(pb.ListMessagesRequest(parent=session, page_size=200)) for c in clients]
    assert [m.sequence for m in pages[0].messages] == list(range(1, count + 1))
    assert pages[0].messages == pages[1].messages
    assert all(m.content for m in pages[0].messages)
    sessions = [await c.GetSession(pb.GetSessionRequest(name=session)) for c in clients]
    assert sessions[0] == sessions[1]
    runs = [await c.ListRuns(pb.ListRunsRequest(session=session)) for c in clients]
    assert [run.name for run in runs[0].runs] == [run.name for run in runs[1].runs]
    made = await clients[0].CreateSession(
        pb.CreateSessionRequest(
            session=session_pb2.Session(team="teams/helpdesk", display_name="mine"),
            request_id=str(uuid.uuid4()),
        )
    )
    assert (await clients[1].GetSession(pb.GetSessionRequest(name=made.name))).display_name == "mine"
    await clients[1].DeleteSession(pb.DeleteSessionRequest(name=made.name))
