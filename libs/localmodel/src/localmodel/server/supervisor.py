"""Keeps the runtime's child process alive and says where it listens."""

import asyncio
import contextlib
import json
import os
import secrets
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import structlog

from localmodel.server.errors import runtime_unavailable
from localmodel.server.runtime_process import KEY_VARIABLE

log = structlog.get_logger()

STARTUP_TIMEOUT = timedelta(minutes=5)
STOP_TIMEOUT = timedelta(seconds=5)
FIRST_BACKOFF = timedelta(seconds=0.5)
MAX_BACKOFF = timedelta(seconds=30)
STDERR_LINES_KEPT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a ready runtime listens, and its key."""

    url: str
    key: str


def runtime_command(path: Path, threads: int) -> Callable[[], Sequence[str]]:
    """Returns what builds the command line of the real runtime."""
    module = "localmodel.server.runtime_process"
    return lambda: (
        sys.executable,
        "-m",
        module,
        str(path),
        "--threads",
        str(threads),
        "--parent",
        str(os.getpid()),
    )


class Supervisor:
    """Starts the runtime, restarts it with back-off when it dies, stops it at the end."""

    def __init__(
        self,
        *,
        command: Callable[[], Sequence[str]],
        startup_timeout: timedelta = STARTUP_TIMEOUT,
        first_backoff: timedelta = FIRST_BACKOFF,
    ) -> None:
        self._command = command
        self._startup_timeout = startup_timeout
        self._first_backoff = first_backoff
        self._address: Address | None = None
        self._problem = "the model is still being loaded"
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self.pid: int | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Supervisor":
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_exc: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def address(self) -> Address:
        """Returns the runtime's address.

        Raises:
            ApiError: 503, the runtime is not ready; the message says what is known.
        """
        if self._address is None:
            raise runtime_unavailable(f"the model runtime is not ready: {self._problem}")
        return self._address

    async def wait_ready(self, timeout: timedelta) -> Address:
        """Returns the address as soon as the runtime is ready; raises ApiError after `timeout`."""
        try:
            async with asyncio.timeout(timeout.total_seconds()):
                while self._address is None:
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self.address()

    async def wait_ended(self, timeout: timedelta) -> None:
        """Returns when a runtime process has ended since the last one was started.

        Raises:
            TimeoutError: none did in that time.
        """
        async with asyncio.timeout(timeout.total_seconds()):
            await self._ended.wait()

    async def _run(self) -> None:
        backoff = self._first_backoff
        while True:
            was_ready = await self._run_once()
            backoff = self._first_backoff if was_ready else min(backoff * 2, MAX_BACKOFF)
            log.warning("runtime_restart", problem=self._problem, backoff_s=backoff.total_seconds())
            await asyncio.sleep(backoff.total_seconds())

    async def _run_once(self) -> bool:
        """Runs one child until it ends; says whether it ever became ready."""
        key = secrets.token_urlsafe(24)
        # Threads that spin while they wait took nine tenths of the machine from everybody else.
        quiet = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0", KEY_VARIABLE: key}
        try:
            child = await asyncio.create_subprocess_exec(
                *self._command(),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **quiet},
            )
        except OSError as exc:
            self._problem = f"its process cannot be started: {exc}"
            return False
        self.pid = child.pid
        self._ended.clear()
        tail: deque[str] = deque(maxlen=STDERR_LINES_KEPT)
        readers = [asyncio.create_task(_drain(child.stderr, tail))]
        ready = False
        try:
            url = await self._read_url(child)
            if url is not None:
                ready = True
                readers.append(asyncio.create_task(_drain(child.stdout, None)))
                self._set(Address(url=url, key=key))
                log.info("runtime_ready", pid=child.pid)
            else:
                await _let_end(child)
            code = await child.wait()
            await asyncio.gather(*readers)
            self._problem = f"its process ended with code {code}; last words: {_last(tail)}"
        finally:
            self._set(None)
            await _stop(child)
            self._ended.set()
            for reader in readers:
                reader.cancel()
        return ready

    async def _read_url(self, child: asyncio.subprocess.Process) -> str | None:
        assert child.stdout is not None
        try:
            async with asyncio.timeout(self._startup_timeout.total_seconds()):
                async for line in child.stdout:
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        return str(json.loads(line)["url"])
        except TimeoutError:
            log.error("runtime_start_timeout", timeout_s=self._startup_timeout.total_seconds())
        return None

    def _set(self, address: Address | None) -> None:
        self._address = address
        self._changed.set()
        self._changed = asyncio.Event()


async def _drain(stream: asyncio.StreamReader | None, into: deque[str] | None) -> None:
    assert stream is not None
    while chunk := await stream.read(4096):
        if into is not None:
            into.extend(line for line in chunk.decode(errors="replace").splitlines() if line.strip())


def _last(tail: deque[str]) -> str:
    return tail[-1][-300:] if tail else "none"


async def _stop(child: asyncio.subprocess.Process) -> None:
    if child.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        child.terminate()
    await _let_end(child)


async def _let_end(child: asyncio.subprocess.Process) -> None:
    """Waits a little for the end before it kills: a signal to a dying child loses its exit code."""
    try:
        async with asyncio.timeout(STOP_TIMEOUT.total_seconds()):
            await child.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
