"""Containers as a cluster starts them: not root, no rights, a root that is read-only."""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

_TIMEOUT_S = 120.0
STOP_S = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """What is to be started.

    Attributes:
        image: Its name with its tag.
        argv: Instead of the image's entry point and command.
        args: After the entry point.
        env: Besides the image's.
        files: Folders that are mounted read-only: where -> from where.
        writable: Folders that are mounted empty, for the container's user.
    """

    image: str
    argv: Sequence[str] = ()
    args: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Path] = field(default_factory=dict)
    writable: Sequence[str] = ()


class Started:
    """A container that runs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def terminate(self) -> None:
        """The image's stop signal to its first process, if it runs."""
        raise NotImplementedError

    def wait(self) -> int | None:
        """Its exit code; None: it did not end, and was killed."""
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_S)
            return None


class Engine(Protocol):
    """What starts containers."""

    def start(self, container: Container, log: Path) -> Started: ...

    def size(self, image: str) -> int:
        """In bytes, with its base."""
        ...

    def close(self) -> None: ...


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


def _spawn(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)


class _ByName(Started):
    """docker and podman pass signals on, but only their own command knows which one the image asks for."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, *, stop: Sequence[str]) -> None:
        super().__init__(process, log)
        self._stop = stop

    def terminate(self) -> None:
        if self.process.poll() is None:
            _run(*self._stop)


class Docker:
    """docker or podman."""

    def __init__(self, engine: str) -> None:
        self._engine = engine

    def start(self, container: Container, log: Path) -> Started:
        name = f"agentteams-{secrets.token_hex(6)}"
        command = [
            self._engine, "run", "--rm", f"--name={name}", "--network=host", "--read-only", "--cap-drop=ALL",
            "--security-opt=no-new-privileges", "--user=65532:65532", "--pull=never",
        ]  # fmt: skip
        command += [f"--env={name}={value}" for name, value in container.env.items()]
        command += [f"--volume={source}:{where}:ro" for where, source in container.files.items()]
        command += [f"--tmpfs={where}:uid=65532,gid=65532,mode=0770" for where in container.writable]
        if container.argv:
            command.append(f"--entrypoint={container.argv[0]}")
        command += [container.image, *container.argv[1:], *container.args]
        stop = [self._engine, "stop", f"--time={STOP_S:.0f}", name]
        return _ByName(_spawn(command, log), log, stop=stop)

    def size(self, image: str) -> int:
        return int(_run(self._engine, "image", "inspect", "--format={{.Size}}", image))

    def close(self) -> None:
        """Nothing is left: containers are removed when they end."""


class _InNamespaces(Started):
    """The first process of the container is the child of what made its namespaces."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, *, stop_signal: str) -> None:
        super().__init__(process, log)
        self._stop_signal = signal.Signals[stop_signal]

    def terminate(self) -> None:
        if self.process.poll() is not None:
            return
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), self._stop_signal)


class Buildah:
    """buildah cannot start with a read-only root: its file system, in namespaces of our own. Needs root."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise RuntimeError("ENGINE=buildah needs root to mount; use ENGINE=podman or docker")
        self._roots: dict[str, Path] = {}
        self._stack = ExitStack()

    def start(self, container: Container, log: Path) -> Started:
        config = self._config(container.image)
        root = self._root(container.image)
        steps = ["set -e", "mount --make-rprivate /", 'mount --bind "$0" "$0"']
        folders = {_real(where): source for where, source in container.files.items()}
        for where in [*folders, *map(_real, container.writable), "/proc", "/dev"]:
            (root / where.lstrip("/")).mkdir(parents=True, exist_ok=True)
        steps += [
            'mount -o remount,bind,ro "$0"',
            'mount -t proc proc "$0/proc"',
            'mount --rbind /dev "$0/dev"',
        ]
        for where, source in folders.items():
            steps += [f'mount --bind {source} "$0{where}"', f'mount -o remount,bind,ro "$0{where}"']
        for where in map(_real, container.writable):
            steps.append(f'mount -t tmpfs -o uid=65532,gid=65532,mode=0770 tmpfs "$0{where}"')
        steps.append('exec setpriv --no-new-privs chroot --userspec="$1" --groups= "$0" "${@:2}"')
        environment = dict(one.partition("=")[::2] for one in config["Env"]) | dict(container.env)
        argv = [*(container.argv or config["Entrypoint"]), *container.args]
        command = [
            "unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL", "bash", "-c", "\n".join(steps),
            str(root), config["User"],
            "/usr/bin/env", "-i", *(f"{name}={value}" for name, value in environment.items()),
            "/bin/sh", "-c", f"cd {config['WorkingDir']} && exec \"$@\"", "--", *argv,
        ]  # fmt: skip
        stop_signal = config.get("StopSignal", "SIGTERM")
        return _InNamespaces(_spawn(command, log), log, stop_signal=stop_signal)

    def size(self, image: str) -> int:
        return _used(self._root(image))

    def close(self) -> None:
        self._stack.close()

    def _config(self, image: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(_run("buildah", "inspect", "--type", "image", image))
        config: dict[str, Any] = found["OCIv1"]["config"]
        return config

    def _root(self, image: str) -> Path:
        if image not in self._roots:
            container = _run("buildah", "from", "--pull-never", image)
            self._stack.callback(_run, "buildah", "rm", container)
            self._roots[image] = Path(_run("buildah", "mount", container))
        return self._roots[image]


def _real(where: str) -> str:
    """/var/run is a link to /run, which from outside is the machine's own."""
    return where.removeprefix("/var") if where.startswith("/var/run/") else where


def _used(root: Path) -> int:
    return sum((Path(folder) / file).lstat().st_size for folder, _, files in os.walk(root) for file in files)


def open_engine(name: str) -> Engine:
    """By the name that the Makefile has."""
    return Buildah() if name == "buildah" else Docker(name)
