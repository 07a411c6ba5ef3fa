"""One child process: start, watch, restart, stop."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from agentteams_cli import child
from agentteams_cli.errors import StackError
from agentteams_cli.readiness import NotReady
from agentteams_cli.services import ServiceSpec

PROBE_INTERVAL_S = 0.1
STOP_GRACE_S = 10.0
RESTARTS_PER_MINUTE = 5
FIRST_BACK_OFF_S = 0.2
MAX_BACK_OFF_S = 5.0
LOG_ROTATE_BYTES = 10 * 1024 * 1024
TAIL_LINES = 12

Report = Callable[[str, str, str], None]
"""Called with service, state and detail. States: starting, ready, died, stopped."""


class ServiceProcess:
    """A service and the process that it is at the moment."""

    def __init__(self, spec: ServiceSpec, *, log_file: Path, working_dir: Path, report: Report) -> None:
        self.spec = spec
        self.log_file = log_file
        self.pid = 0
        """0 while it does not run."""
        self.restarts = 0
        self._working_dir = working_dir
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._deaths: deque[float] = deque(maxlen=RESTARTS_PER_MINUTE + 1)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def port(self) -> int:
        return self.spec.port.port

    @property
    def metrics_port(self) -> int:
        """0 where it has none."""
        return self.spec.port.metrics

    async def start(self) -> None:
        """Starts the process; does not wait until it is ready."""
        self._report(self.name, "starting", f"port {self.port}")
        try:
            self._process = await self._spawn()
        except OSError as exc:
            raise StackError(f"{self.name} cannot be started: {exc}") from exc
        self.pid = self._process.pid

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self._open_log() as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", child.__file__, str(os.getpid())),
                *self.spec.command,
                env=dict(self.spec.env),
                cwd=self._working_dir,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                # Ctrl-C is for us: we stop the children, in order. Not a session of their own: Linux shares
                # the CPU out among sessions first, and what a service does at low priority would count fully.
                process_group=0,
            )

    async def wait_ready(self, deadline: float) -> None:
        """Waits until the service answers, at most until `deadline` on the loop's clock.

        Raises:
            StackError: The process ended, or the time is over; shows the end of its log.
        """
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        while True:  # once at least, however long the start took
            process = self._process
            if process is None or process.returncode is not None:
                code = "" if process is None else f": {exit_reason(process.returncode)}"
                raise self._failure(f"{self.name} ended before it was ready{code}")
            try:
                await self.spec.probe(self.port)
            except NotReady as exc:
                if loop.time() >= deadline:
                    raise self._failure(f"{self.name} is not ready in time: {exc}") from exc
                await asyncio.sleep(PROBE_INTERVAL_S)
            else:
                self._report(self.name, "ready", f"{time.monotonic() - started:.1f} s")
                return

    async def supervise(self, *, ready_timeout_s: float, changed: Callable[[], None]) -> None:
        """Starts the process again whenever it ends. Runs until cancelled.

        Raises:
            StackError: It ended too often within a minute.
        """
        loop = asyncio.get_running_loop()
        while True:
            if self._process is not None:
                code = await self._process.wait()
                self.pid = 0
                self._report(self.name, "died", exit_reason(code))
            self._deaths.append(loop.time())
            recent = sum(1 for at in self._deaths if loop.time() - at < 60)
            if recent > RESTARTS_PER_MINUTE:
                raise self._failure(f"{self.name} ended {recent} times within a minute")
            await asyncio.sleep(min(MAX_BACK_OFF_S, FIRST_BACK_OFF_S * 2 ** (recent - 1)))
            self.restarts += 1
            await self.start()
            changed()
            try:
                await self.wait_ready(loop.time() + ready_timeout_s)
            except StackError as exc:
                # An end is counted above; a process that lives but is not ready may yet become so.
                self._report(self.name, "not ready", exc.message)

    async def stop(self) -> None:
        """SIGTERM; after ten seconds SIGKILL to it and all that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_S):
                    await process.wait()
        # The group outlives its leader if that left a child behind.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        self.pid = 0
        self._report(self.name, "stopped", "")

    def log_tail(self) -> str:
        """The last lines of the log."""
        try:
            with self.log_file.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 16 * 1024))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(line[:400] for line in lines[-TAIL_LINES:])

    def _failure(self, message: str) -> StackError:
        return StackError(message, fix=f"the whole log is {self.log_file}", detail=self.log_tail())

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[int]:
        with contextlib.suppress(FileNotFoundError):
            if self.log_file.stat().st_size > LOG_ROTATE_BYTES:
                self.log_file.replace(self.log_file.with_suffix(".log.1"))
        descriptor = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def exit_reason(code: int | None) -> str:
    """What an exit code means, for people."""
    if code is not None and code < 0:
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
    return f"exit code {code}"
