"""The state folder: everything that `agentteams up` keeps on this machine.

.agentteams/
  manifests/        what was applied, one file an object
  secrets/          <name>/<key> files for credentialsSecretKeyRef
  configmaps/       <name>/<key> files for configMapKeyRef
  sources/default/  folders that knowledge bases of the namespace default may watch
  milvus/ db/ blobs/  vectors, conversations and catalogue, original documents
  logs/<service>.log
  identity.key      signs tokens between the services; 0600
  lock              held by the `up` that runs
  stack.json        ports and process ids of what runs
"""

import fcntl
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from agentteams_cli.errors import StackError

IDENTITY_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """Where one service is."""

    port: int
    metrics_port: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeInfo:
    """What runs now, as `stack.json` says."""

    pid: int
    services: Mapping[str, RunningService]
    chat: str
    """Which chat model BuiltIn is, for people."""

    def target(self, service: str) -> str:
        """`host:port` of a service."""
        return f"127.0.0.1:{self.services[service].port}"


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The paths within a state folder."""

    root: Path

    @property
    def manifests(self) -> Path:
        return self.root / "manifests"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def config_maps(self) -> Path:
        return self.root / "configmaps"

    @property
    def python_tools(self) -> Path:
        """Modules that teams may name as tools."""
        return self.root / "python"

    @property
    def sources(self) -> Path:
        """A folder for each namespace, below which a source's folder may be."""
        return self.root / "sources"

    @property
    def milvus(self) -> Path:
        return self.root / "milvus"

    @property
    def databases(self) -> Path:
        return self.root / "db"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def identity_key(self) -> Path:
        return self.root / "identity.key"

    @property
    def runtime_file(self) -> Path:
        return self.root / "stack.json"

    @property
    def lock_file(self) -> Path:
        return self.root / "lock"

    def create(self) -> None:
        """Makes the folder, its folders and the identity key.

        Raises:
            StackError: It cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            folders = (self.manifests, self.milvus, self.databases, self.blobs, self.logs, self.cache)
            for folder in (
                *folders,
                self.config_maps,
                self.python_tools,
                self.sources,
                self.sources / "default",
            ):
                folder.mkdir(exist_ok=True)
            self.secrets.mkdir(exist_ok=True, mode=0o700)
            ignore = self.root / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
            self._create_key()
        except OSError as exc:
            raise StackError(
                f"the state folder {self.root} cannot be written: {exc.strerror}",
                fix="choose another with --state or AGENTTEAMS_STATE",
            ) from exc

    def _create_key(self) -> None:
        if self.identity_key.exists():
            return
        # Through a link, so that the key is never there half written.
        temporary = self.root / f".identity.{os.getpid()}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_hex(IDENTITY_KEY_BYTES))
            os.link(temporary, self.identity_key)
        except FileExistsError:
            pass  # another process was first, and its key is as good
        finally:
            temporary.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for one stack.

        Raises:
            StackError: Another process has it; says which.
        """
        with self.lock_file.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as exc:
                file.seek(0)
                owner = file.read().strip() or "another process"
                raise StackError(
                    f"{self.root} is in use by {owner}",
                    fix="stop that one first, or use another folder with --state",
                ) from exc
            file.truncate(0)
            file.write(f"process {os.getpid()}")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)

    def in_use(self) -> bool:
        """Whether a stack runs on this folder."""
        try:
            with self.lock_file.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no folder, no stack
            return False
        return False

    def write_runtime(self, info: RuntimeInfo) -> None:
        """Replaces `stack.json`."""
        temporary = self.runtime_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(info), indent=2) + "\n")
        temporary.replace(self.runtime_file)

    def read_runtime(self) -> RuntimeInfo | None:
        """What runs on this folder; None if nothing does, whatever an old file says."""
        if not self.in_use():
            return None
        try:
            data = json.loads(self.runtime_file.read_text())
            services = {name: RunningService(**fields) for name, fields in data["services"].items()}
            return RuntimeInfo(pid=data["pid"], services=services, chat=data["chat"])
        except FileNotFoundError:
            return None  # still starting
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise StackError(
                f"{self.runtime_file} cannot be read: {exc}", fix="restart `agentteams up`"
            ) from exc
