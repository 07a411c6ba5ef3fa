"""Processes of servers that tests start: ended with the test run, whatever ends it."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# Killed with us, even if we are killed.
_TIED = ["setpriv", "--pdeathsig", "KILL"]


class NotStarted(Exception):
    """The server ended, or did not answer in time; says how its log ends."""


class ServerProcess:
    """One program with its log file; can be frozen, killed and started again."""

    def __init__(
        self, command: Sequence[str | Path], *, log: Path, cwd: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self._command = [str(part) for part in command]
        self._log = log
        self._cwd = cwd
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns at once."""
        self._cwd.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_TIED, *self._command],
                stdout=log,
                stderr=log,
                cwd=self._cwd,
                env=self._env,
            )

    @property
    def alive(self) -> bool:
        """It was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def wait(self, answers: Callable[[], bool], *, timeout_s: float) -> None:
        """Until it answers.

        Raises:
            NotStarted: It does not.
        """
        give_up = time.monotonic() + timeout_s
        while not answers():
            assert self._process is not None
            code = self._process.poll()
            if code is not None or time.monotonic() > give_up:
                what = "does not answer" if code is None else f"exited with {code}"
                self.kill()
                ending = self._log.read_text(errors="replace")[-2000:]
                raise NotStarted(f"{Path(self._command[0]).name} {what}; its log ends so:\n{ending}")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a crash would end it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It keeps its connections and says nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Goes on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def healthy(port: int) -> bool:
    """Whether a role of Milvus says so at its port of metrics."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2) as answer:
            return b"OK" in answer.read()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
