"""Kills the roles of Milvus Distributed, one after the other, under searches and an ingest.

    python -m tests.chaos.role_run [ROLE ...] [--documents 100]

Each role is killed with `kill -9` and started again by a supervisor, as a cluster's would. Every search must
be right or say why it is not, searches must come back by themselves, and the chunks in Milvus must be exactly
those of a clean ingest. Prints a row a role; exits with 1 if a promise was broken.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.milvus import MilvusStore
from servicekit.errors import ServiceError
from tests.chaos.ingest_cluster import IngestCluster, ingest_cluster
from tests.chaos.ingest_run import chunks_of
from tests.support.milvus_binary import milvus_folder, parts_folder
from tests.support.milvus_cluster import ROLES, MilvusCluster
from tests.support.milvus_server import MilvusStandalone
from tests.support.real_texts import real_documents

Answer = TypeVar("Answer")

STANDALONE = "standalone"

DOWN_S = 4.0
"""Between a kill and the start of the role."""

BACK_WITHIN_S = 90.0
"""After a role is up, every search is right again."""

SEARCH_TIMEOUT_S = 5.0
_GRACE_S = 1.0  # of a busy machine, after a search's deadline
_QUIET_S = 5.0  # of right answers only, before searches count as back
_INGESTED_WITHIN_S = 240.0
_SEARCHERS = 2
_UPLOADERS = 4
_STEADY, _CLEAN = "steady", "clean"
_QUERIES = 12
_TOP_K = 8


class Roles(Protocol):
    """A Milvus, and those of its processes that can be killed."""

    @property
    def uri(self) -> str:
        """For clients."""
        ...

    def kill_role(self, role: str) -> None:
        """kill -9."""
        ...

    def start_role(self, role: str) -> None:
        """After a kill, at the same port."""
        ...

    def healthy(self, role: str) -> bool:
        """Whether the role says so."""
        ...

    def dead_roles(self) -> list[str]:
        """Those that have ended, by whatever cause."""
        ...


class OneRole:
    """Milvus Standalone, which is all roles in one."""

    def __init__(self, server: MilvusStandalone) -> None:
        self._server = server

    @property
    def uri(self) -> str:
        """For clients."""
        return self._server.uri

    def kill_role(self, role: str) -> None:
        """kill -9."""
        self._server.kill()

    def start_role(self, role: str) -> None:
        """Returns when it is healthy."""
        self._server.start()

    def healthy(self, role: str) -> bool:
        """Whether it runs: it is healthy from its start on."""
        return self._server.alive

    def dead_roles(self) -> list[str]:
        """Itself, or nobody."""
        return [] if self._server.alive else [STANDALONE]


@dataclass(kw_only=True)
class RoleReport:
    """What one kill did.

    Attributes:
        refused: Searches that said why they had no answer, by that reason.
        wrong: Searches that did not say so, and had not the right chunks.
        late: Searches that kept their caller longer than its deadline.
        down_s: From the kill until the role was healthy again.
        first_s: From the kill to the first search that was refused; None: none was.
        back_s: From when the role was healthy to the last search that was refused or wrong; 0: none was.
        died: Other roles that ended, and were started again.
    """

    role: str
    right: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    down_s: float = 0.0
    first_s: float | None = None
    last_s: float = 0.0
    back_s: float = 0.0
    ingest_s: float = 0.0
    documents: int = 0
    chunks: int = 0
    missing: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)
    died: Counter[str] = field(default_factory=Counter)

    @property
    def broken(self) -> list[str]:
        """Promises that were."""
        found = [*self.wrong, *self.late, *self.missing, *self.stray, *self.not_ready]
        if self.back_s > BACK_WITHIN_S:
            found.append(f"searches came back only {self.back_s:.0f} s after the role")
        return found


class RoleChaos:
    """The retrieval service and a worker on a Milvus whose roles are killed.

    Args:
        documents: Of each ingest.
    """

    def __init__(self, milvus: Roles, services: IngestCluster, *, documents: int) -> None:
        self._milvus = milvus
        self._services = services
        self._client = services.client
        self._texts = real_documents(documents, seed=3)
        self._steady = real_documents(30, seed=4)
        self._queries: dict[str, list[str]] = {}
        self._clean: Counter[tuple[str, str, int, str]] = Counter()
        self._wanted_dead: set[str] = set()

    async def prepare(self) -> None:
        """What is searched meanwhile, and what an ingest must end in.

        Two thirds of what is searched are sealed, in two segments that the query nodes share; the rest grows.
        """
        await self._client.create(_STEADY)
        texts = list(self._steady.items())
        third = len(texts) // 3
        for start in range(0, len(texts), third):
            await self._upload(_STEADY, dict(texts[start : start + third]))
            await self._ready(_STEADY, start + third)
            if start < 2 * third:
                await self._seal(_STEADY)
        for text in list(self._steady.values())[:: max(1, len(self._steady) // _QUERIES)]:
            query = " ".join(text.decode().split()[20:40])
            found = await self._search(query)
            assert found.outcome == pb.SEARCH_OUTCOME_OK
            assert len(found.chunks) == _TOP_K
            self._queries[query] = [chunk.id for chunk in found.chunks]
        await self._client.create(_CLEAN)
        await self._upload(_CLEAN, self._texts)
        await self._ready(_CLEAN, len(self._texts))
        self._clean = await self._chunks(_CLEAN)

    async def strike(self, role: str) -> RoleReport:
        """Ingest, kill, start, wait until all is well, compare."""
        report = RoleReport(role=role)
        knowledge_base = f"beside-{role}"
        await _insist(lambda: self._client.create(knowledge_base))
        began = time.monotonic()
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            watch = _Watch(report)
            for number in range(_SEARCHERS):
                group.create_task(self._searching(number, watch, stop))
            supervisor = group.create_task(self._supervise(report, role))
            ingest = group.create_task(self._upload(knowledge_base, self._texts))
            await self._ready(knowledge_base, len(self._texts) // 5)
            watch.killed = time.monotonic()
            await asyncio.to_thread(self._milvus.kill_role, role)
            await asyncio.sleep(DOWN_S)
            await self._up(role)
            watch.back = time.monotonic()
            report.down_s = watch.back - watch.killed
            await ingest
            try:
                await self._ready(knowledge_base, len(self._texts))
            except TimeoutError:
                report.not_ready.append(f"not all documents are READY after {_INGESTED_WITHIN_S:.0f} s")
            report.ingest_s = time.monotonic() - began
            await watch.quiet()
            stop.set()
            supervisor.cancel()
        if not report.not_ready:
            await self._compare(knowledge_base, report)
        return report

    async def _searching(self, number: int, watch: "_Watch", stop: asyncio.Event) -> None:
        for query in cycle(list(self._queries)[number:] + list(self._queries)[:number]):
            if stop.is_set():
                return
            began = time.monotonic()
            try:
                found = await self._search(query)
            except ServiceError as error:
                watch.refused(error.reason or type(error).__name__)
            else:
                ids = [chunk.id for chunk in found.chunks]
                right = self._queries[query]
                reasons = [pb.SearchReason.Code.Name(reason.code) for reason in found.reasons]
                if reasons and found.outcome in (pb.SEARCH_OUTCOME_FAILED, pb.SEARCH_OUTCOME_DEGRADED):
                    outcome = pb.SearchOutcome.Name(found.outcome).removeprefix("SEARCH_OUTCOME_")
                    watch.refused(f"{outcome} {', '.join(sorted(set(reasons)))}")
                elif found.outcome == pb.SEARCH_OUTCOME_OK and ids == right:
                    watch.right()
                else:
                    outcome = pb.SearchOutcome.Name(found.outcome)
                    same = len(set(ids) & set(right))
                    watch.wrong(f"{outcome} with {same} of {len(right)} chunks in {len(ids)}")
            took = time.monotonic() - began
            if took > SEARCH_TIMEOUT_S + _GRACE_S:
                watch.late(f"a search took {took:.1f} s")
            await asyncio.sleep(0.05)  # as fast as a few users, not as the machine can

    async def _search(self, query: str) -> pb.SearchResponse:
        request = pb.SearchRequest(
            knowledge_base=f"knowledgeBases/{_STEADY}",
            query=query,
            top_k=_TOP_K,
            mode=kb_pb.SEARCH_MODE_DENSE,
        )
        timeout = timedelta(seconds=SEARCH_TIMEOUT_S)
        return await self._client.rpc.unary(self._client.stub.Search, request, timeout=timeout)

    async def _supervise(self, report: RoleReport, role: str) -> None:
        """Others that end with it are started again too."""
        while True:
            for dead in self._milvus.dead_roles():
                if dead != role:
                    report.died[dead] += 1
                    await asyncio.to_thread(self._milvus.start_role, dead)
            await asyncio.sleep(1)  # as a supervisor looks

    async def _up(self, role: str) -> None:
        """Its former registration may end it once or twice."""
        async with asyncio.timeout(90):
            while True:
                if role in self._milvus.dead_roles():
                    await asyncio.to_thread(self._milvus.start_role, role)
                if await asyncio.to_thread(self._milvus.healthy, role):
                    return
                await asyncio.sleep(0.2)  # polling another process; nothing here tells us

    async def _upload(self, knowledge_base: str, texts: dict[str, bytes]) -> None:
        left = iter(texts.items())

        async def some() -> None:
            for path, text in left:
                await _insist(partial(self._client.upload, knowledge_base, path, text))

        async with asyncio.timeout(_INGESTED_WITHIN_S), asyncio.TaskGroup() as group:
            for _ in range(_UPLOADERS):
                group.create_task(some())

    async def _ready(self, knowledge_base: str, count: int) -> None:
        request = pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{knowledge_base}")
        async with asyncio.timeout(_INGESTED_WITHIN_S):
            while True:
                found = await self._client.rpc.unary(self._client.stub.GetKnowledgeBase, request)
                if found.documents.ready >= count:
                    return
                await asyncio.sleep(0.2)  # likewise

    async def _seal(self, knowledge_base: str) -> None:
        async with self._stored() as (catalogue, store):
            snapshot = await catalogue.snapshot("default", knowledge_base)
            assert snapshot is not None
            await store.flush(snapshot.knowledge_base.place)

    async def _compare(self, knowledge_base: str, report: RoleReport) -> None:
        found = await self._chunks(knowledge_base)
        report.documents, report.chunks = len(self._texts), sum(self._clean.values())
        report.missing = [f"missing: {path} {id_}" for id_, path, *_ in (self._clean - found)]
        report.stray = [f"stray: {path} {id_}" for id_, path, *_ in (found - self._clean)]

    async def _chunks(self, knowledge_base: str) -> Counter[tuple[str, str, int, str]]:
        async with self._stored() as (catalogue, store):
            return await _insist(lambda: chunks_of(catalogue, store, knowledge_base))

    @asynccontextmanager
    async def _stored(self) -> AsyncIterator[tuple[SqlCatalogue, MilvusStore]]:
        engine = new_engine(self._services.database_url)
        store = MilvusStore(uri=self._milvus.uri)
        try:
            yield SqlCatalogue(engine), store
        finally:
            await store.close()
            await engine.dispose()


async def _insist(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Again until it is answered, as a caller that must not lose anything would."""
    give_up = time.monotonic() + _INGESTED_WITHIN_S
    while True:
        try:
            return await call()
        except ServiceError:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.2)


class _Watch:
    """What searches said, and when."""

    def __init__(self, report: RoleReport) -> None:
        self._report = report
        self.killed: float | None = None
        self.back: float | None = None
        self._trouble = time.monotonic()

    def right(self) -> None:
        self._report.right += 1

    def refused(self, reason: str) -> None:
        self._report.refused[reason] += 1
        self._troubled()

    def wrong(self, what: str) -> None:
        since = (
            "before the kill" if self.killed is None else f"{time.monotonic() - self.killed:.1f} s after it"
        )
        self._report.wrong.append(f"wrong: {what}, {since}")
        self._troubled()

    def late(self, what: str) -> None:
        self._report.late.append(f"late: {what}")

    def _troubled(self) -> None:
        self._trouble = now = time.monotonic()
        if self.killed is not None:
            if self._report.first_s is None:
                self._report.first_s = now - self.killed
            self._report.last_s = now - self.killed
        if self.back is not None:
            self._report.back_s = now - self.back

    async def quiet(self) -> None:
        """Until searches have been right for a while, or should have been long ago."""
        assert self.back is not None
        give_up = self.back + 2 * BACK_WITHIN_S
        while (now := time.monotonic()) < give_up:
            if now - max(self._trouble, self.back) > _QUIET_S:
                return
            await asyncio.sleep(0.2)


@asynccontextmanager
async def role_chaos(folder: Path, milvus: Roles, *, documents: int) -> AsyncIterator[RoleChaos]:
    """Starts the services on a Milvus that runs, and prepares."""
    async with ingest_cluster(folder, workers=1, milvus_uri=milvus.uri) as services:
        chaos = RoleChaos(milvus, services, documents=documents)
        await chaos.prepare()
        yield chaos


def table(reports: Sequence[RoleReport]) -> Iterator[str]:
    """A row a role."""
    columns = ("killed", "up again", "searches", "the last with a reason", "wrong", "ingest beside it")
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for one in reports:
        reasons = "".join(f", {count} {reason}" for reason, count in one.refused.most_common())
        last = ""
        if one.first_s is not None:
            last = f"{one.last_s:.1f} s after the kill (the first {one.first_s:.1f})"
        died = "".join(f", {role} ended too" for role in one.died)
        cells = (
            one.role,
            f"{one.down_s:.0f} s{died}",
            f"{one.right} right{reasons}",
            last,
            str(len(one.wrong)),
            f"{one.ingest_s:.0f} s, {one.chunks} chunks, {len(one.missing)} missing, {len(one.stray)} stray",
        )
        yield f"| {' | '.join(cells)} |"


async def _run(roles: Sequence[str], documents: int) -> list[RoleReport]:
    folder = Path(tempfile.mkdtemp(prefix="chaos-roles-"))
    print(f"The logs are in {folder}", file=sys.stderr)  # noqa: T201
    (folder / "milvus").mkdir()
    reports: list[RoleReport] = []
    server: MilvusCluster | MilvusStandalone
    if roles == [STANDALONE]:
        server = MilvusStandalone(milvus_folder(), folder / "milvus")
    else:
        server = MilvusCluster(milvus_folder(), parts_folder(), folder / "milvus")
    try:
        await asyncio.to_thread(server.start)
        milvus = OneRole(server) if isinstance(server, MilvusStandalone) else server
        async with role_chaos(folder, milvus, documents=documents) as chaos:
            for role in roles or ROLES:
                reports.append(await chaos.strike(role))
                print("\n".join(table(reports[-1:])), file=sys.stderr)  # noqa: T201
    finally:
        await asyncio.to_thread(server.kill)
    return reports


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "roles",
        nargs="*",
        help="such as querynode; none: all of Distributed, one after the other; or standalone",
    )
    parser.add_argument("--documents", type=int, default=100)
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    reports = asyncio.run(_run(asked.roles, asked.documents))
    print("\n".join(table(reports)))  # noqa: T201
    broken = [f"{one.role}: {what}" for one in reports for what in one.broken]
    print("\n".join(broken[:20]))  # noqa: T201
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
