"""The session service as a process that gets killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from grpc_health.v1 import health_pb2, health_pb2_grpc

from servicekit.errors import ServiceError
from servicekit.testing import TEST_KEY, rpc_as
from tests.support.ports import free_address
from tests.support.session_service import acting, answer, append, begin

_READY_S = 30


class Process:
    """`python -m session` on a database file."""

    def __init__(self, folder: Path) -> None:
        self.target = free_address()
        key = folder / "identity.key"
        key.write_bytes(TEST_KEY.to_file())
        self._environment = {
            **os.environ,
            "AGENTTEAMS_PORT": self.target.rpartition(":")[2],
            "AGENTTEAMS_IDENTITY_KEY_FILE": str(key),
            "AGENTTEAMS_SESSION_DATABASE_URL": f"sqlite:///{folder / 'session.db'}",
        }
        self._log = folder / "session.log"
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, *arguments: str) -> tuple[int, str]:
        """Runs to the end; returns exit code and output."""
        process = await self._spawn(*arguments)
        await asyncio.wait_for(process.wait(), _READY_S)
        return process.returncode or 0, self._log.read_text()

    async def start(self) -> None:
        """Starts the server and waits until it is healthy."""
        self._process = await self._spawn()
        async with asyncio.timeout(_READY_S), grpc.aio.insecure_channel(self.target) as channel:
            await channel.channel_ready()
            stub: Any = health_pb2_grpc.HealthStub(channel)
            updates = stub.Watch(health_pb2.HealthCheckRequest())
            async for update in updates:
                if update.status == health_pb2.HealthCheckResponse.SERVING:
                    break
            updates.cancel()

    async def end(self, number: signal.Signals) -> int:
        """Sends a signal; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(number)
        await asyncio.wait_for(self._process.wait(), _READY_S)
        return self._process.returncode or 0

    async def close(self) -> None:
        """Ends what is left."""
        if self._process is not None and self._process.returncode is None:
            await self.end(signal.SIGKILL)
        print(self._log.read_text())  # noqa: T201  # shown by pytest if the test fails

    async def _spawn(self, *arguments: str) -> asyncio.subprocess.Process:
        command = (sys.executable, "-m", "session", *arguments)
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *command, env=self._environment, stdout=log, stderr=log
            )


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[Process]:
    made = Process(tmp_path)
    yield made
    await made.close()


async def test_a_server_refuses_a_schema_that_is_behind(process: Process) -> None:
    code, output = await process.run()
    assert code == 1
    assert "python -m session migrate" in output
    code, output = await process.run("migrate")
    assert (code, "schema_migrated" in output) == (0, True)
    await process.start()
    assert await process.end(signal.SIGTERM) == 0


async def test_kill_9_in_the_middle_of_appends_loses_nothing_acknowledged(process: Process) -> None:
    assert (await process.run("migrate"))[0] == 0
    await process.start()
    acknowledged: dict[str, int] = {}
    sent: dict[str, int] = {}
    enough = asyncio.Event()

    async with rpc_as(process.target) as rpc:
        stub = SessionServiceStub(rpc.channel)

        async def write(number: int) -> None:
            with acting(f"user-{number}"):
                begun = await rpc.unary(stub.BeginRun, begin(str(number)))
                run = begun.run.name
                acknowledged[run] = 1
                # No retries past the kill: the first error ends the writer.
                for sequence in range(2, 100_000):
                    sent[run] = sequence
                    request = append(run, answer(sequence, f"{sequence}"))
                    appended = await rpc.unary(stub.AppendRunEvents, request, timeout=timedelta(seconds=3))
                    acknowledged[run] = appended.last_sequence
                    if sequence == 30:
                        enough.set()

        writers = [asyncio.create_task(write(number)) for number in range(8)]
        await asyncio.wait_for(enough.wait(), _READY_S)
        assert await process.end(signal.SIGKILL) == -signal.SIGKILL
        results = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(result, ServiceError) for result in results), results
        assert len(acknowledged) == 8

    await process.start()
    async with rpc_as(process.target) as rpc:
        # gRPC shares connections between channels: this one, too, still waits to reconnect.
        await asyncio.wait_for(rpc.channel.channel_ready(), _READY_S)
        stub = SessionServiceStub(rpc.channel)
        for number in range(8):
            with acting(f"user-{number}"):
                (run,) = (await rpc.unary(stub.ListRuns, pb.ListRunsRequest())).runs
                # What was acknowledged is there; at most the one append in flight besides.
                assert acknowledged[run.name] <= run.last_sequence <= sent[run.name]
                stored: list[int] = []
                while len(stored) < run.last_sequence:
                    page = await rpc.unary(
                        stub.ListRunEvents,
                        pb.ListRunEventsRequest(run=run.name, after_sequence=len(stored), page_size=500),
                    )
                    assert page.events
                    stored += [one.sequence for one in page.events]
                assert stored == list(range(1, run.last_sequence + 1))
                session = await rpc.unary(stub.GetSession, pb.GetSessionRequest(name=run.session))
                # Event and message are one transaction: question + one message for each answer.
                assert session.message_count == run.last_sequence
                # And the log goes on where it was.
                await rpc.unary(
                    stub.AppendRunEvents, append(run.name, answer(run.last_sequence + 1, "after"))
                )
    assert await process.end(signal.SIGTERM) == 0
