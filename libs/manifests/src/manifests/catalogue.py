"""The manifests of a folder, kept up to date."""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from watchfiles import awatch

from manifests.loader import FileContent, LoadedObject, load_file
from manifests.objects import Objects, combine
from manifests.problems import Problem

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


class Catalogue(Objects):
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
        super().__init__(python_tools=python_tools)
        self._folder = folder
        self._force_polling = force_polling
        self._files: Mapping[Path, _File] = {}
        self._complaints: tuple[Problem, ...] = ()

    @property
    def folder(self) -> Path:
        return self._folder

    def load(self) -> bool:
        """Reads what has changed in the folder. True if anything had."""
        before = self._files
        complaints: tuple[Problem, ...]
        try:
            paths = sorted(
                p
                for p in self._folder.iterdir()
                if p.suffix in (".yaml", ".yml") and not p.name.startswith(".")
            )
        except OSError as exc:
            # Not the same as an empty folder: what was good keeps serving.
            files, complaints = before, (_unreadable(self._folder, exc),)
        else:
            files = {path: self._read(path, before) for path in paths[:MAX_FILES]}
            complaints = tuple(_too_many(path) for path in paths[MAX_FILES:])
        if files == before and complaints == self._complaints:
            return False
        self._files, self._complaints = files, complaints
        self._state = combine(
            itertools.chain.from_iterable(file.objects for file in files.values()),
            [*complaints, *itertools.chain.from_iterable(file.problems for file in files.values())],
        )
        return True

    def _read(self, path: Path, before: Mapping[Path, _File]) -> _File:
        signature = _signature(path)
        known = before.get(path)
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
