"""Applying manifests: from the user's files into the state folder, and what follows from them."""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import yaml

from agentteams_cli.client import Client
from agentteams_cli.errors import CliError
from agentteams_cli.golden import set_golden_set
from agentteams_cli.state import StateFolder
from agentteams_cli.team_golden import set_team_golden_set
from manifests import (
    KINDS,
    AgentTeam,
    KnowledgeBase,
    LoadedObject,
    Problem,
    Resource,
    check_references,
    load_file,
)
from servicekit.errors import NotFound, ServiceError

# Services see a changed folder within half a second; on a busy machine later.
EFFECT_TIMEOUT = timedelta(seconds=20)
POLL_S = 0.2
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of one object."""

    kind: str
    name: str
    namespace: str
    change: str
    """created, configured or unchanged."""
    problems: tuple[str, ...] = ()
    """Why it has no effect yet."""


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What the user's files hold."""

    objects: list[LoadedObject] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def manifest_files(paths: Sequence[Path]) -> list[Path]:
    """The files of the paths; of a folder those that are YAML.

    Raises:
        CliError: A path does not exist, or a folder has no manifests.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
            if not found:
                raise CliError(f"{path} holds no manifests", fix=f"files end with {' or '.join(SUFFIXES)}")
            files += found
        elif path.exists():
            files.append(path)
        else:
            raise CliError(f"{path} does not exist", fix="check the path")
    return list(dict.fromkeys(files))


def load_all(files: Iterable[Path]) -> Loaded:
    """Reads files; a name that was there before is a problem of the later one."""
    loaded, seen = Loaded(), dict[tuple[str, str, str], LoadedObject]()
    for file in files:
        content = load_file(file)
        loaded.problems += content.problems
        for found in content.objects:
            first = seen.setdefault(found.key, found)
            if first is found:
                loaded.objects.append(found)
                continue
            loaded.problems.append(
                Problem(
                    path=found.path,
                    line=found.line_of("metadata", "name"),
                    field="metadata.name",
                    message=f"{found.resource.kind} {found.resource.metadata.name} is in "
                    f"{first.path}:{first.line} already, which is the one that counts",
                    fix="rename or remove one of them",
                )
            )
    return loaded


def file_of(state: StateFolder, resource: Resource) -> Path:
    """Where an object is kept: one file each."""
    metadata = resource.metadata
    return state.manifests / f"{metadata.namespace}.{resource.kind.lower()}.{metadata.name}.yaml"


def store(state: StateFolder, loaded: Loaded) -> list[Applied]:
    """Writes valid objects into the state folder. References are checked against all that is there then."""
    state.create()
    changes: dict[tuple[str, str, str], str] = {}
    order = list(KINDS)
    for found in sorted(loaded.objects, key=lambda o: order.index(o.resource.kind)):
        path = file_of(state, found.resource)
        body = found.resource.model_dump(mode="json", by_alias=True, exclude_unset=True)
        header = {"apiVersion": found.resource.api_version, "kind": found.resource.kind}
        text = yaml.safe_dump(header | body, sort_keys=False, allow_unicode=True)
        before = path.read_text(encoding="utf-8") if path.exists() else None
        changes[found.key] = "created" if before is None else "configured"
        if before == text:
            changes[found.key] = "unchanged"
            continue
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    there = {o.key: o for o in load_all(stored_files(state)).objects}
    # The user's own files are named, where they are what is there.
    broken = check_references(there | {o.key: o for o in loaded.objects})
    loaded.problems += [p for key in changes for p in broken.get(key, [])]
    return [
        Applied(
            kind=kind,
            name=name,
            namespace=namespace,
            change=change,
            problems=tuple(
                f"{p.field}: {p.message}; {p.fix}" for p in broken.get((kind, namespace, name), [])
            ),
        )
        for (kind, namespace, name), change in changes.items()
    ]


def stored_files(state: StateFolder) -> list[Path]:
    """The files of the state folder."""
    if not state.manifests.is_dir():
        return []
    return sorted(p for p in state.manifests.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))


async def take_effect(client: Client, resources: Iterable[Resource], *, config_maps: Path) -> list[str]:
    """Creates knowledge bases and waits until the orchestrator has the teams. Returns what did not work.

    Args:
        config_maps: Folder of what stands for ConfigMaps.
    """
    problems: list[str] = []
    all_of_them = list(resources)
    for resource in all_of_them:
        if isinstance(resource, KnowledgeBase):
            problem = await _create(client, resource) or await set_golden_set(client, resource, config_maps)
            if problem:
                problems.append(f"KnowledgeBase {resource.metadata.name}: {problem}")
    for resource in all_of_them:
        if isinstance(resource, AgentTeam):
            problem = await _await_team(client, resource) or await set_team_golden_set(
                client, resource, config_maps
            )
            if problem:
                problems.append(f"AgentTeam {resource.metadata.name}: {problem}")
    return problems


async def _create(client: Client, manifest: KnowledgeBase) -> str:
    deadline = time.monotonic() + EFFECT_TIMEOUT.total_seconds()
    while True:
        try:
            await client.create_knowledge_base(manifest)
        except NotFound as exc:
            # The embedding service has not yet seen the new ModelConfig.
            if exc.reason != "MODEL_NOT_FOUND" or time.monotonic() > deadline:
                return exc.message
            await asyncio.sleep(POLL_S)
        except ServiceError as exc:
            return exc.message
        else:
            return ""


async def _await_team(client: Client, manifest: AgentTeam) -> str:
    deadline = time.monotonic() + EFFECT_TIMEOUT.total_seconds()
    while True:
        try:
            team = await client.team(manifest.metadata.name)
        except NotFound:
            seen = "the orchestrator has not seen it yet"
        except ServiceError as exc:
            return exc.message
        else:
            if team.revision == manifest.revision and team.ready:
                return ""
            seen = team.reason or "the orchestrator still has the version before"
        if time.monotonic() > deadline:
            return f"not ready: {seen}"
        await asyncio.sleep(POLL_S)
