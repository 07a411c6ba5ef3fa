"""The custom resources of a cluster, followed by watches: what a folder of manifests is in local mode.

A team is served as the ControllerRevision that its `status.currentRevision` names (docs/operator.md,
Revisions): the operator's one write changes over, and a spec that is not ready changes nothing here.
ModelConfigs and KnowledgeBases are taken as they are.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from manifests.base import API_VERSION
from manifests.endpoints import shared_models
from manifests.loader import FileContent, Key, LoadedObject, load_data
from manifests.objects import Objects, combine
from manifests.problems import Problem
from manifests.sharing import EVERYONE

REVISION = "ControllerRevision"
ALL_KINDS = ("AgentTeam", "KnowledgeBase", "ModelConfig", REVISION)
# Many objects are applied at a time: 50 ms of changes are taken together.
DEBOUNCE_S = 0.05
_FIRST_DELAY_S, _MAX_DELAY_S = 0.5, 30.0
UNREVISED = ("allowedNamespaces", "evaluation", "runtime", "suspend")
"""What is no part of a revision: who may ask a team, how its runs are measured, and its pods."""

log = structlog.get_logger()

Raw = Mapping[str, Any]
"""An object as the API server sends it."""


class Gone(Exception):
    """The version is too old to be watched from: list again."""


class FeedError(Exception):
    """The API server does not answer, or refuses; the text says why."""


class Feed(Protocol):
    """Lists and watches objects of some namespaces."""

    async def list(self, kind: str) -> tuple[Sequence[Raw], str]:
        """All objects of a kind, and the version to watch from. Raises FeedError."""
        ...

    def watch(self, kind: str, version: str) -> AsyncIterator[tuple[str, Raw]]:
        """ADDED, MODIFIED or DELETED, with the object; ends now and then. Raises Gone, FeedError."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parsed:
    """What an object was parsed to, and from what."""

    source: object
    good: LoadedObject | None
    problems: tuple[Problem, ...]


class ClusterCatalogue(Objects):
    """The objects of some namespaces; reading is as of a `Catalogue`.

    Args:
        feed: Where they come from.
        kinds: Which are followed.
        secrets_dir: Where the operator's Secret with models of other namespaces is mounted, if it is. When
            what is in it changes, the operator makes other pods.
    """

    def __init__(
        self, feed: Feed, *, kinds: Sequence[str] = ALL_KINDS, secrets_dir: Path | None = None
    ) -> None:
        super().__init__(python_tools=False)
        self._feed = feed
        self._secrets_dir = secrets_dir
        self._raw: dict[str, dict[tuple[str, str], Raw]] = {kind: {} for kind in kinds}
        self._parsed: dict[Key, _Parsed] = {}
        self._unready: Mapping[tuple[str, str], str] = {}
        self._allowed: Mapping[Key, tuple[str, ...]] = {}
        self._listed: set[str] = set()
        self._changed = asyncio.Event()
        self._synced = asyncio.Event()

    async def synced(self) -> None:
        """Returns when everything has been listed once: until then nothing is known to be missing."""
        await self._synced.wait()

    def team_problems(self, namespace: str, name: str) -> list[str]:
        """As Objects; also of a team that is there but has no revision to serve."""
        why = self._unready.get((namespace, name))
        return [why] if why else super().team_problems(namespace, name)

    def allowed_tenants(self, namespace: str, name: str) -> tuple[str, ...]:
        """As Objects; the operator finds them, since labels of Namespaces are not read here."""
        return self._allowed.get(("AgentTeam", namespace, name), ())

    def model_tenants(self, namespace: str, name: str) -> tuple[str, ...]:
        """As Objects; see allowed_tenants."""
        return self._allowed.get(("ModelConfig", namespace, name), ())

    async def watch(self) -> None:
        """Follows the cluster for ever; run it as a task."""
        async with asyncio.TaskGroup() as group:
            for kind in self._raw:
                group.create_task(self._follow(kind))
            group.create_task(self._refresh())

    async def _follow(self, kind: str) -> None:
        version, delay_s = "", _FIRST_DELAY_S
        while True:
            try:
                if not version:
                    version = await self._list(kind)
                async for event, raw in self._feed.watch(kind, version):
                    version = raw["metadata"]["resourceVersion"]
                    self._take(kind, event, raw)
                delay_s = _FIRST_DELAY_S
            except Gone:
                version = ""
            except FeedError as error:
                # What is known goes on being served; nothing is missing because nobody answers.
                log.warning("manifests_not_followed", kind=kind, error=str(error))
                await asyncio.sleep(delay_s * random.uniform(0.8, 1.2))
                delay_s, version = min(_MAX_DELAY_S, delay_s * 2), ""

    async def _list(self, kind: str) -> str:
        found, version = await self._feed.list(kind)
        self._raw[kind] = {_name(raw): raw for raw in found}
        self._listed.add(kind)
        self._changed.set()
        return version

    def _take(self, kind: str, event: str, raw: Raw) -> None:
        if event == "DELETED":
            self._raw[kind].pop(_name(raw), None)
        else:
            self._raw[kind][_name(raw)] = raw
        self._changed.set()

    async def _refresh(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(DEBOUNCE_S)
            self._changed.clear()
            everything = {kind: dict(found) for kind, found in self._raw.items()}
            complete = len(self._listed) == len(self._raw)
            await asyncio.to_thread(self._build, everything)
            if complete and not self._synced.is_set():
                log.info("manifests_loaded", objects=len(self._state.objects), problems=len(self.problems))
                self._synced.set()

    def _build(self, everything: Mapping[str, Mapping[tuple[str, str], Raw]]) -> None:
        revisions = everything.get(REVISION, {})
        parsed: dict[Key, _Parsed] = {}
        unready: dict[tuple[str, str], str] = {}
        for kind, found in everything.items():
            if kind == REVISION:
                continue
            for (namespace, name), raw in found.items():
                key = (kind, namespace, name)
                before = self._parsed.get(key)
                if kind == "AgentTeam":
                    spec, why = _served(raw, revisions)
                    if spec is None and (before is None or before.good is None):
                        unready[namespace, name] = why
                        continue
                    # A revision that has not arrived yet: what served before goes on.
                    source: object = before.source if spec is None and before is not None else spec
                else:
                    source = raw.get("spec")
                parsed[key] = _parse(key, source, before)
        for (namespace, name), spec in shared_models(self._secrets_dir).items():
            key = ("ModelConfig", namespace, name)
            parsed.setdefault(key, _parse(key, spec, self._parsed.get(key)))
        self._parsed = parsed
        self._unready = unready
        self._allowed = {
            (kind, *name): _allowed(raw)
            for kind in ("AgentTeam", "ModelConfig")
            for name, raw in everything.get(kind, {}).items()
        }
        self._state = combine(
            (one.good for one in parsed.values() if one.good is not None),
            (problem for one in parsed.values() for problem in one.problems),
            local=False,
        )


def _name(raw: Raw) -> tuple[str, str]:
    metadata = raw["metadata"]
    return str(metadata["namespace"]), str(metadata["name"])


def _allowed(raw: Raw) -> tuple[str, ...]:
    """By the spec where that is enough, so that what is taken back is gone at once; else by the operator."""
    match (raw["spec"].get("allowedNamespaces") or {}).get("from", "Same"):
        case "All":
            return (EVERYONE,)
        case "Selector":
            told = (raw.get("status") or {}).get("allowedTenants") or ()
            return tuple(str(one) for one in told if one != EVERYONE)
        case _:
            return ()


def _served(raw: Raw, revisions: Mapping[tuple[str, str], Raw]) -> tuple[dict[str, Any] | None, str]:
    """The spec to serve, or why there is none."""
    namespace, name = _name(raw)
    current = (raw.get("status") or {}).get("currentRevision")
    if not current:
        return None, "no revision of it is ready yet: its conditions say what is missing (kubectl describe)"
    revision = revisions.get((namespace, f"{name}-{current}"))
    if revision is None:
        return None, f"revision {current} is not there yet"
    now = {field: raw["spec"][field] for field in UNREVISED if field in raw["spec"]}
    return {**revision["data"], **now}, ""


def _parse(key: Key, spec: object, before: _Parsed | None) -> _Parsed:
    """Valid, or the last good one with what is wrong now."""
    if before is not None and before.source == spec:
        return before
    kind, namespace, name = key
    content: FileContent = load_data(
        {
            "apiVersion": API_VERSION,
            "kind": kind,
            "metadata": {"namespace": namespace, "name": name},
            "spec": spec,
        },
        Path(f"{kind}/{namespace}/{name}"),
    )
    good = content.objects[0] if content.objects else None
    if good is None and before is not None:
        good = before.good
    for problem in content.problems:
        log.warning("manifest_problem", object=problem.object, field=problem.field, problem=problem.message)
    return _Parsed(source=spec, good=good, problems=tuple(content.problems))
