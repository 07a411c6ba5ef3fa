"""The manifests of a folder, kept up to date."""

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import structlog
from watchfiles import awatch

from manifests.fallbacks import reachable_models
from manifests.knowledge import KnowledgeBase
from manifests.loader import FileContent, Key, LoadedObject, duplicate, load_file
from manifests.model import ModelConfig
from manifests.nesting import nested_teams
from manifests.problems import Problem
from manifests.references import check_references
from manifests.team import AgentTeam

MAX_FILES = 1000

# Editors and `apply` write several files in a row: 200 ms without a change ends a burst.
DEBOUNCE_MS = 200
# Looked through even without an event: one can be lost (a full inotify queue, a replaced mount, two changes
# within the second that polling compares).
RESYNC_MS = 2_000
# While the folder itself is missing.
MISSING_FOLDER_S = 1.0

log = structlog.get_logger()

Signature = tuple[int, int, int]
"""Inode, size and time of change of a file: equal means unchanged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    signature: Signature | None
    objects: tuple[LoadedObject, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """All that the catalogue knows. Replaced as a whole, so that no reader ever sees half of a change."""

    files: Mapping[Path, _File] = field(default_factory=dict)
    complaints: tuple[Problem, ...] = ()
    objects: Mapping[Key, LoadedObject] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()
    reference_problems: Mapping[Key, list[Problem]] = field(default_factory=dict)


class Catalogue:
    """Reads `*.yaml` and `*.yml` of one folder (not of folders below it).

    An object whose document becomes invalid keeps its last good version, and the problem is reported; it goes
    when its document goes. Reading is safe from any thread; `load` is called by one at a time.
    """

    def __init__(self, folder: Path, *, force_polling: bool | None = None, python_tools: bool = True) -> None:
        """Knows no manifest before `load`.

        Args:
            folder: Where the manifests are.
            force_polling: True where there are no file events; None: WATCHFILES_FORCE_POLLING decides.
            python_tools: Whether teams may have tools that are Python modules.
        """
        self._folder = folder
        self._python_tools = python_tools
        self._force_polling = force_polling
        self._state = _State()

    @property
    def folder(self) -> Path:
        return self._folder

    @property
    def problems(self) -> list[Problem]:
        """Everything that is wrong now, by file and line."""
        return list(self._state.problems)

    def team(self, namespace: str, name: str) -> AgentTeam | None:
        found = self._get("AgentTeam", namespace, name)
        return found if isinstance(found, AgentTeam) else None

    def model(self, namespace: str, name: str) -> ModelConfig | None:
        found = self._get("ModelConfig", namespace, name)
        return found if isinstance(found, ModelConfig) else None

    def knowledge_base(self, namespace: str, name: str) -> KnowledgeBase | None:
        found = self._get("KnowledgeBase", namespace, name)
        return found if isinstance(found, KnowledgeBase) else None

    def teams(self, namespace: str) -> list[AgentTeam]:
        """The teams of a namespace by name, ready or not."""
        return [r for r in self._all(namespace) if isinstance(r, AgentTeam)]

    def models(self, namespace: str) -> list[ModelConfig]:
        """The models of a namespace by name."""
        return [r for r in self._all(namespace) if isinstance(r, ModelConfig)]

    def knowledge_bases(self, namespace: str) -> list[KnowledgeBase]:
        """The knowledge bases of a namespace by name."""
        return [r for r in self._all(namespace) if isinstance(r, KnowledgeBase)]

    def team_problems(self, namespace: str, name: str) -> list[str]:
        """Why a team cannot answer, each with its fix; empty when it can (or is not there).

        An invalid newer version is not among them: the last good one goes on answering.
        """
        state = self._state
        team = state.objects.get(("AgentTeam", namespace, name))
        if team is None or not isinstance(team.resource, AgentTeam):
            return []
        keys: list[Key] = [team.key]
        keys += [("AgentTeam", namespace, nested) for nested in nested_teams(team.resource, state.objects)]
        for key in list(keys):
            loaded = state.objects.get(key)
            if loaded is not None and isinstance(loaded.resource, AgentTeam):
                uses = loaded.resource.spec.knowledge
                keys += [("KnowledgeBase", namespace, use.knowledge_base_ref.name) for use in uses]
        keys += [("ModelConfig", namespace, name) for name in reachable_models(team.resource, state.objects)]
        texts = [] if self._python_tools else list(_python_problems(team.resource))
        for key in dict.fromkeys(keys):
            for problem in state.reference_problems.get(key, []):
                where = problem.field if key == team.key else f"{problem.object} {problem.field}"
                texts.append(f"{where}: {problem.message}; {problem.fix}")
        return texts

    def _get(self, kind: str, namespace: str, name: str) -> AgentTeam | KnowledgeBase | ModelConfig | None:
        found = self._state.objects.get((kind, namespace, name))
        return found.resource if found else None

    def _all(self, namespace: str) -> list[AgentTeam | KnowledgeBase | ModelConfig]:
        objects = self._state.objects
        return [objects[key].resource for key in sorted(objects) if key[1] == namespace]

    def load(self) -> bool:
        """Reads what has changed in the folder. True if anything had."""
        before = self._state
        complaints: tuple[Problem, ...]
        try:
            paths = sorted(
                p
                for p in self._folder.iterdir()
                if p.suffix in (".yaml", ".yml") and not p.name.startswith(".")
            )
        except OSError as exc:
            # Not the same as an empty folder: what was good keeps serving.
            files, complaints = before.files, (_unreadable(self._folder, exc),)
        else:
            files = {path: self._read(path, before) for path in paths[:MAX_FILES]}
            complaints = tuple(_too_many(path) for path in paths[MAX_FILES:])
        if files == before.files and complaints == before.complaints:
            return False
        self._state = _combine(files, complaints)
        return True

    def _read(self, path: Path, before: _State) -> _File:
        signature = _signature(path)
        known = before.files.get(path)
        if known is not None and signature is not None and known.signature == signature:
            return known
        content = load_file(path)
        kept = () if known is None else _last_good(content, known)
        return _File(
            signature=signature,
            objects=(*content.objects, *kept),
            problems=tuple(content.problems),
        )

    async def watch(self) -> None:
        """Follows the folder for ever; run it as a task. Begins with a look of its own."""
        await asyncio.to_thread(self.load)
        self._report()
        while True:
            if not await asyncio.to_thread(self._folder.is_dir):
                await asyncio.sleep(MISSING_FOLDER_S)
                continue
            await self._reload()
            try:
                await self._follow()
            except FileNotFoundError:
                continue  # the folder went between the two lines above

    async def _follow(self) -> None:
        changes = awatch(
            self._folder,
            watch_filter=None,  # a ConfigMap's change is a change of the link ..data
            debounce=DEBOUNCE_MS,
            rust_timeout=RESYNC_MS,
            yield_on_timeout=True,
            force_polling=self._force_polling,
            recursive=False,
        )
        async for _ in changes:
            await self._reload()
            if not await asyncio.to_thread(self._folder.is_dir):
                return

    async def _reload(self) -> None:
        if await asyncio.to_thread(self.load):
            self._report()

    def _report(self) -> None:
        state = self._state
        log.info("manifests_loaded", objects=len(state.objects), problems=len(state.problems))
        for problem in state.problems:
            log.warning(
                "manifest_problem",
                path=str(problem.path),
                line=problem.line,
                field=problem.field,
                problem=problem.message,
                fix=problem.fix,
            )


def _python_problems(team: AgentTeam) -> Iterator[str]:
    for index, source in enumerate(team.spec.tools):
        if source.python is not None:
            yield (
                f"spec.tools[{index}].python: module {source.python.module} is not imported here, because "
                "what it does this process would do; serve it as an MCP server, or run the team in local mode"
            )


def _signature(path: Path) -> Signature | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return (stat.st_ino, stat.st_size, stat.st_mtime_ns)


def _last_good(content: FileContent, known: _File) -> tuple[LoadedObject, ...]:
    """The objects of a file's version before that its new version breaks, but does not remove."""
    present = {o.key for o in content.objects}
    return tuple(
        o
        for o in known.objects
        if o.key not in present and (content.unidentified or o.key in content.invalid)
    )


def _unreadable(folder: Path, exc: OSError) -> Problem:
    return Problem(
        path=folder,
        line=1,
        field="",
        message=f"the folder of manifests cannot be read: {exc.strerror}",
        fix="create it, or correct the setting",
    )


def _too_many(path: Path) -> Problem:
    return Problem(
        path=path,
        line=1,
        field="",
        message=f"not read: the folder has more than {MAX_FILES} files",
        fix="put several objects into one file, separated by ---",
    )


def _combine(files: Mapping[Path, _File], complaints: tuple[Problem, ...]) -> _State:
    objects: dict[Key, LoadedObject] = {}
    problems = list(complaints)
    for file in files.values():
        problems.extend(file.problems)
        for loaded in file.objects:
            first = objects.setdefault(loaded.key, loaded)
            if first is not loaded:
                problems.append(duplicate(loaded, first))
    references = check_references(objects)
    problems.extend(itertools.chain.from_iterable(references.values()))
    problems.sort(key=lambda p: (str(p.path), p.line, p.field))
    return _State(
        files=MappingProxyType(dict(files)),
        complaints=complaints,
        objects=MappingProxyType(objects),
        problems=tuple(problems),
        reference_problems=MappingProxyType(references),
    )
