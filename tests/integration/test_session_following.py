"""Waiting for events of a run over the wire, and between processes."""

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from servicekit.testing import rpc_as
from tests.integration.test_session_user_data import Client, client, wrong_field
from tests.support.postgres import shared_postgres
from tests.support.session_processes import environment, migrated, serving
from tests.support.session_service import Client as ServiceClient
from tests.support.session_service import append, begin, tool_call
from tests.support.sessions import databases, migrated_file

__all__ = ["client", "databases", "migrated_file"]

_SOON_S = 8
_LONG = timedelta(seconds=35)


def waits(run: str, *, after: int = 1, wait: timedelta = timedelta(seconds=30)) -> Any:
    request = pb.ListRunEventsRequest(run=run, after_sequence=after)
    request.wait.FromTimedelta(wait)
    return request


async def test_a_wait_is_checked_and_shorter_than_the_callers_deadline(client: Client) -> None:
    run = (await client.BeginRun(begin())).run.name
    for wrong in (timedelta(seconds=31), timedelta(seconds=-1)):
        assert await wrong_field(client.ListRunEvents(waits(run, wait=wrong))) == "wait"
    list_events = client._stubs[0].ListRunEvents
    answer = await client.rpc.unary(list_events, waits(run), timeout=timedelta(seconds=0.8))
    assert list(answer.events) == []


async def test_an_event_of_one_process_is_heard_in_another_and_a_stop_ends_the_wait(tmp_path: Path) -> None:
    postgres = shared_postgres()
    database = await postgres.create()
    env = environment(tmp_path, postgres.url(database), {"AGENTTEAMS_DRAIN_DELAY_S": "0"})
    await migrated(env)
    async with (
        serving("writes", tmp_path, env) as writes,
        serving("follows", tmp_path, env) as follows,
        rpc_as(writes.target, tenant="acme", user="ada") as writing,
        rpc_as(follows.target, tenant="acme", user="ada") as following,
        asyncio.timeout(3 * _SOON_S),
    ):
        admin = await asyncpg.connect(
            host="127.0.0.1", port=postgres.port, user="postgres", database=database
        )
        writer, stub = ServiceClient(writing), SessionServiceStub(following.channel)
        run = (await writer.BeginRun(begin())).run.name

        def follow(after: int) -> "asyncio.Task[pb.ListRunEventsResponse]":
            request = waits(run, after=after)
            return asyncio.create_task(following.unary(stub.ListRunEvents, request, timeout=_LONG))

        for sequence in (2, 3):
            waiting = follow(sequence - 1)
            await _marked(admin)
            await writer.AppendRunEvents(append(run, tool_call(sequence)))
            assert [event.sequence for event in (await waiting).events] == [sequence]
            await admin.execute("UPDATE runs SET followed_until_us = NULL")
        waiting = follow(3)
        await _marked(admin)
        os.kill(follows.pid, signal.SIGTERM)
        async with asyncio.timeout(_SOON_S):
            assert list((await waiting).events) == []
        await admin.close()
    await postgres.drop(database)


async def _marked(admin: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Somebody waits now; whoever comes next marks anew."""
    async with asyncio.timeout(_SOON_S):
        while not await admin.fetchval("SELECT count(followed_until_us) FROM runs"):  # noqa: ASYNC110  # of others
            await asyncio.sleep(0.02)
