"""Kills everything at random while documents are ingested, replaced, moved and deleted.

    python -m tests.chaos.ingest_run --seed 1 --minutes 3 [--documents 1000] [--store postgres|sqlite]
        [--model-dir FOLDER]

Afterwards the chunks in Milvus must be exactly those of a clean ingest of what is left. Exits with 1 if not.
"""

import argparse
import asyncio
import contextlib
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from sqlalchemy import func, select

from retrieval.adapters.catalogue import SqlCatalogue
from retrieval.adapters.database import new_engine
from retrieval.adapters.milvus import MilvusStore
from retrieval.adapters.tables import documents
from retrieval.core.names import document_id
from servicekit.errors import NotFound, ServiceError
from tests.chaos.ingest_cluster import IngestCluster, ingest_cluster
from tests.support.real_texts import real_documents

Answer = TypeVar("Answer")
Chunk = tuple[str, str, int, str]  # id, path, position, text

DIRTY, CLEAN = "chaos", "clean"
CLIENTS = 4
# A service that was killed in the middle of a deletion holds the document for a minute.
SETTLE_S = 150.0


@dataclass(frozen=True, kw_only=True)
class IngestPlan:
    """What to do.

    Attributes:
        workers: Processes that index.
        faults: Most kills; None: as long as the ingest lasts.
        seconds: Most seconds of kills.
        every_s: Between two kills, on average.
    """

    documents: int
    seed: int = 1
    seconds: float = 60.0
    faults: int | None = None
    every_s: float = 3.0
    store: str = "sqlite"
    workers: int = 2
    model: Path | None = None
    embedding_model: str = "models/hash"


@dataclass(kw_only=True)
class IngestReport:
    """What was found."""

    kills: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    documents: int = 0
    chunks: int = 0
    missing: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    not_ready: list[str] = field(default_factory=list)
    strays_reconciled: int = 0
    requeued: int = 0
    ingest_s: float = 0.0
    settle_s: float = 0.0

    @property
    def broken(self) -> bool:
        """Whether a promise was."""
        return bool(self.missing or self.stray or self.not_ready)


class Chaos:
    """One run."""

    def __init__(self, plan: IngestPlan, cluster: IngestCluster) -> None:
        self._plan = plan
        self._cluster = cluster
        self._client = cluster.client
        self._random = random.Random(plan.seed)
        self._left: dict[str, bytes] = {}
        self._until = time.monotonic() + plan.seconds + SETTLE_S
        self.report = IngestReport()

    async def run(self) -> IngestReport:
        """Ingest under fire, settle, compare."""
        for knowledge_base in (DIRTY, CLEAN):
            await self._client.create(knowledge_base, embedding_model=self._plan.embedding_model)
        began = time.monotonic()
        traffic = asyncio.ensure_future(self._traffic())
        await self._faults(traffic)
        await traffic
        self.report.ingest_s = time.monotonic() - began
        began = time.monotonic()
        await self._settled(DIRTY)
        self.report.settle_s = time.monotonic() - began
        await self._clean()
        await self._compare()
        return self.report

    async def _faults(self, traffic: "asyncio.Future[None]") -> None:
        """Until all that was uploaded is indexed, or the time or the number of kills is used up."""
        give_up = time.monotonic() + self._plan.seconds
        names = self._random.sample(self._cluster.names, len(self._cluster.names))
        while time.monotonic() < give_up and self.report.kills.total() != self._plan.faults:
            await asyncio.sleep(self._random.uniform(0.3, 1.7) * self._plan.every_s)
            if traffic.done() and self._plan.faults is None and not await self._waiting(DIRTY):
                return
            # Each once before any a second time.
            name = names[self.report.kills.total() % len(names)]
            await self._cluster.kill(name)
            self.report.kills[name.partition("-")[0]] += 1
            await asyncio.sleep(self._random.uniform(0, 1))
            await self._cluster.start(name)

    async def _traffic(self) -> None:
        texts = list(real_documents(self._plan.documents, seed=self._plan.seed).items())
        spare = list(real_documents(self._plan.documents + 50, seed=self._plan.seed + 1).values())
        shares = [texts[n::CLIENTS] for n in range(CLIENTS)]
        seeds = [self._random.random() for _ in shares]
        async with asyncio.TaskGroup() as group:
            for share, seed in zip(shares, seeds, strict=True):
                group.create_task(self._client_of(share, spare, random.Random(seed)))

    async def _client_of(
        self, texts: list[tuple[str, bytes]], spare: list[bytes], chance: random.Random
    ) -> None:
        mine: list[str] = []
        for path, text in texts:
            await self._upload(path, text)
            mine.append(path)
            what, victim = chance.random(), chance.choice(mine)
            if what < 0.08:
                await self._upload(victim, chance.choice(spare))
            elif what < 0.14:
                mine.remove(victim)
                moved = f"moved/{victim}"
                if moved not in self._left and await self._move(victim, moved):
                    mine.append(moved)
            elif what < 0.20:
                mine.remove(victim)
                await self._delete(victim)

    async def _upload(self, path: str, text: bytes) -> None:
        await self._insist("upload", lambda: self._client.upload(DIRTY, path, text))
        self._left[path] = text

    async def _move(self, path: str, to: str) -> bool:
        request = pb.MoveDocumentRequest(name=_name(DIRTY, path), new_path=to)
        call = self._client.stub.MoveDocument
        try:
            await self._insist("move", lambda: self._client.rpc.unary(call, request))
        except NotFound:  # it was done, and the answer was lost
            await self._insist("read", lambda: self._client.document(_name(DIRTY, to)))
        self._left[to] = self._left.pop(path)
        return True

    async def _delete(self, path: str) -> None:
        request = pb.DeleteDocumentRequest(name=_name(DIRTY, path))
        call = self._client.stub.DeleteDocument
        with contextlib.suppress(NotFound):  # likewise
            await self._insist("delete", lambda: self._client.rpc.unary(call, request))
        del self._left[path]

    async def _insist(self, what: str, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """Again until it is answered, as a caller that must not lose anything would."""
        while True:
            try:
                answer = await call()
            except NotFound:
                raise
            except ServiceError:
                self.report.calls[f"{what} again"] += 1
                if time.monotonic() > self._until:
                    raise
                await asyncio.sleep(0.2)
            else:
                self.report.calls[what] += 1
                return answer

    async def _waiting(self, knowledge_base: str) -> int:
        request = pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{knowledge_base}")
        call = self._client.stub.GetKnowledgeBase
        found = await self._insist("read", lambda: self._client.rpc.unary(call, request))
        if knowledge_base == DIRTY:
            self.report.strays_reconciled = found.ingest.stray_chunks_removed
            self.report.requeued = found.ingest.documents_requeued
        return found.documents.pending + found.documents.indexing

    async def _settled(self, knowledge_base: str) -> None:
        """Nothing waits, and nothing is left to be deleted."""
        self._until = time.monotonic() + SETTLE_S + 0.5 * self._plan.documents
        engine = new_engine(self._cluster.database_url)
        hidden = select(func.count()).where(documents.c.delete_time_ms.is_not(None))
        try:
            while True:
                waiting = await self._waiting(knowledge_base)
                async with engine.connect() as connection:
                    deleting = await connection.scalar(hidden)
                if not waiting and not deleting:
                    return
                if time.monotonic() > self._until:
                    self.report.not_ready.append(f"{waiting} documents wait, {deleting} are being deleted")
                    return
                await asyncio.sleep(0.2)
        finally:
            await engine.dispose()

    async def _clean(self) -> None:
        """The same documents once more, with nothing killed."""
        paths = iter(sorted(self._left))

        async def some() -> None:
            for path in paths:
                await self._client.upload(CLEAN, path, self._left[path])

        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(some())
        await self._settled(CLEAN)

    async def _compare(self) -> None:
        engine = new_engine(self._cluster.database_url)
        store = MilvusStore(uri=self._cluster.milvus.uri)
        try:
            catalogue = SqlCatalogue(engine)
            found, right = [await chunks_of(catalogue, store, name) for name in (DIRTY, CLEAN)]
            rows = await catalogue.list_documents("default", DIRTY, state=None, after="", limit=100_000)
        finally:
            await store.close()
            await engine.dispose()
        report = self.report
        report.documents, report.chunks = len(self._left), sum(right.values())
        report.missing = [f"{path} {id_}" for id_, path, *_ in (right - found)]
        report.stray = [f"{path} {id_}" for id_, path, *_ in (found - right)]
        states = {row.path: row.state.name for row in rows}
        report.not_ready += [f"{path} {state}" for path, state in states.items() if state != "READY"]
        report.not_ready += [f"{path} is not there" for path in self._left.keys() - states.keys()]
        report.not_ready += [f"{path} should be gone" for path in states.keys() - self._left.keys()]


def _name(knowledge_base: str, path: str) -> str:
    return f"knowledgeBases/{knowledge_base}/documents/{document_id(path)}"


async def chunks_of(catalogue: SqlCatalogue, store: MilvusStore, knowledge_base: str) -> Counter[Chunk]:
    """All that Milvus has of it."""
    snapshot = await catalogue.snapshot("default", knowledge_base)
    assert snapshot is not None
    return Counter(
        [
            (chunk.record.id, chunk.record.title, chunk.record.ordinal, chunk.record.text)
            async for batch in store.iterate(snapshot.knowledge_base.place)
            for chunk in batch
        ]
    )


async def ingest_chaos(plan: IngestPlan, folder: Path) -> IngestReport:
    """Runs it all in the folder, which keeps the logs."""
    async with ingest_cluster(folder, store=plan.store, workers=plan.workers, model=plan.model) as cluster:
        return await Chaos(plan, cluster).run()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--every-s", type=float, default=4)
    parser.add_argument("--store", choices=["postgres", "sqlite"], default="postgres")
    parser.add_argument("--model-dir", type=Path, help="a real embedding model instead of hashed words")
    asked = parser.parse_args()
    plan = IngestPlan(
        documents=asked.documents,
        seed=asked.seed,
        seconds=asked.minutes * 60,
        every_s=asked.every_s,
        store=asked.store,
        model=asked.model_dir,
        embedding_model="models/builtin" if asked.model_dir else "models/hash",
    )
    folder = Path(tempfile.mkdtemp(prefix="chaos-ingest-"))
    report = asyncio.run(ingest_chaos(plan, folder))
    print("\n".join(_lines(plan, report)))  # noqa: T201
    if report.broken:
        print(f"The logs are in {folder}")  # noqa: T201
        sys.exit(1)


def _lines(plan: IngestPlan, report: IngestReport) -> Iterator[str]:
    yield f"seed {plan.seed}, catalogue in {plan.store}"
    for name, value in (
        ("kills", ", ".join(f"{count} {what}" for what, count in sorted(report.kills.items()))),
        ("calls", ", ".join(f"{count} {what}" for what, count in sorted(report.calls.items()))),
        ("documents left", report.documents),
        ("chunks of a clean ingest", report.chunks),
        ("missing chunks", len(report.missing)),
        ("stray chunks", len(report.stray)),
        ("documents in a wrong state", len(report.not_ready)),
        ("mended by the reconciler", f"{report.strays_reconciled} strays, {report.requeued} documents"),
        ("ingest under fire", f"{report.ingest_s:.0f} s"),
        ("then until all was right", f"{report.settle_s:.0f} s"),
    ):
        yield f"  {name:28} {value}"
    for line in (*report.missing[:5], *report.stray[:5], *report.not_ready[:5]):
        yield f"    {line}"


if __name__ == "__main__":
    main()
