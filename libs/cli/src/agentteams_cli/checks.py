"""What `agentteams doctor` looks at."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from agentteams_cli import readiness
from agentteams_cli.client import Client, connect
from agentteams_cli.errors import CliError, StackError
from agentteams_cli.models import from_environment
from agentteams_cli.ports import DEFAULT_PORTS, allocate
from agentteams_cli.state import RuntimeInfo, StateFolder
from localmodel import assets
from manifests import Catalogue
from servicekit.errors import ServiceError

Level = Literal["ok", "warning", "problem"]
LOW_DISK_BYTES = 2_000_000_000
PROBES = {
    "milvus": readiness.milvus,
    "gateway": readiness.http_ok("/readyz"),
    "chat": readiness.http_ok("/healthz"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding."""

    name: str
    level: Level
    message: str
    fix: str = ""


async def run_checks(state: StateFolder) -> AsyncIterator[Check]:
    """All findings, from what others need to what needs others."""
    yield await asyncio.to_thread(_models)
    yield _disk(state)
    try:
        runtime = state.read_runtime()
    except StackError as exc:
        yield Check(name="services", level="problem", message=exc.message, fix=exc.fix)
        return
    if runtime is None:
        if state.in_use():
            yield Check(
                name="services", level="problem", message="they are starting", fix="ask again in a moment"
            )
        else:
            yield Check(
                name="services",
                level="problem",
                message=f"none run on {state.root}",
                fix="start them with `agentteams up`",
            )
            yield await asyncio.to_thread(_ports)
    for check in await asyncio.to_thread(_manifests, state):
        yield check
    if runtime is not None:
        checks = await asyncio.gather(*(_service(state, runtime, name) for name in runtime.services))
        for check in checks:
            yield check
        if all(c.level == "ok" for c in checks):
            async with connect(state) as client:
                async for check in _content(client):
                    yield check


def _models() -> Check:
    remote = from_environment()
    if remote is not None:
        return Check(name="models", level="ok", message=remote.why)
    try:
        choice = assets.choose_chat_model()
        cache = assets.AssetSettings.from_environment().cache
    except assets.AssetError as exc:
        return Check(name="models", level="problem", message=str(exc), fix="or set OPENAI_API_KEY")
    has_embedding = any((cache / "embedding").glob("*/config.json"))
    has_chat = choice.model == assets.EXTRACTIVE or any((cache / "chat").glob("*.gguf"))
    missing = [n for n, there in (("embedding", has_embedding), ("chat", has_chat)) if not there]
    if missing:
        return Check(
            name="models",
            level="warning",
            message=f"not in the cache {cache} yet: {' and '.join(missing)}; chat will be {choice.why}",
            fix="`agentteams up` fetches them",
        )
    return Check(name="models", level="ok", message=f"in {cache}; chat is {choice.why}")


def _disk(state: StateFolder) -> Check:
    folder = next(p for p in (state.root, *state.root.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    message = f"{free / 1e9:.1f} GB free for {state.root}"
    if free < LOW_DISK_BYTES:
        return Check(name="disk", level="problem", message=message, fix="free some, or use another --state")
    return Check(name="disk", level="ok", message=message)


def _ports() -> Check:
    try:
        allocate(DEFAULT_PORTS)
    except CliError as exc:
        return Check(name="ports", level="problem", message=exc.message, fix=exc.fix)
    return Check(name="ports", level="ok", message="all that `agentteams up` needs are free")


def _manifests(state: StateFolder) -> list[Check]:
    if not state.manifests.is_dir():
        return []
    catalogue = Catalogue(state.manifests)
    catalogue.load()
    problems = [
        Check(
            name="manifests",
            level="problem",
            message=f"{p.path.name}:{p.line}: " + (f"{p.field}: " if p.field else "") + p.message,
            fix=p.fix,
        )
        for p in catalogue.problems
    ]
    count = len(list(state.manifests.glob("*.yaml")))
    return problems or [Check(name="manifests", level="ok", message=f"{count} files, all valid")]


async def _service(state: StateFolder, runtime: RuntimeInfo, name: str) -> Check:
    service = runtime.services[name]
    probe = PROBES.get(name, readiness.grpc_health)
    try:
        await probe(service.port)
    except readiness.NotReady as exc:
        log = state.logs / f"{name}.log"
        message = f"port {service.port}, process {service.pid}: {exc}"
        return Check(name=name, level="problem", message=message, fix=f"see {log}")
    detail = f", {runtime.chat}" if name == "chat" else ""
    message = f"answers on port {service.port}, process {service.pid}{detail}"
    return Check(name=name, level="ok", message=message)


async def _content(client: Client) -> AsyncIterator[Check]:
    try:
        for team in await client.teams():
            name = team.name.removeprefix("teams/")
            if team.ready:
                members = ", ".join(team.members)
                yield Check(name="team", level="ok", message=f"{name} ({members}), revision {team.revision}")
            else:
                yield Check(name="team", level="problem", message=f"{name} is not ready: {team.reason}")
        for base in await client.knowledge_bases():
            name = base.name.removeprefix("knowledgeBases/")
            counts = base.documents
            message = (
                f"{name} on {base.deployment}: {counts.ready} documents, {base.chunk_count} chunks, "
                f"{counts.pending + counts.indexing} being indexed, {counts.failed} failed"
            )
            fix = ""
            level: Level = "ok"
            if counts.failed:
                level, fix = "warning", f"`agentteams documents {name} --in-state failed` says why"
            elif not counts.ready and not counts.pending + counts.indexing:
                level, fix = "warning", f"add documents: agentteams ingest {name} PATH"
            yield Check(name="knowledge", level=level, message=message, fix=fix)
    except ServiceError as exc:
        yield Check(name="services", level="problem", message=exc.message, fix="see the logs")
