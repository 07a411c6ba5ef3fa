"""How fast documents are indexed, where the time goes, and what searches beside it notice.

    python bench/ingest.py [--json FILE] [--documents 200] [--seconds 15] [--rounds 3] [--model-dir FOLDER]
                           [--milvus lite] [--rate 10]

Milvus (Lite, or Standalone 2.3.5 where it can be had), the embedding service, the
retrieval service and one worker run as processes. First some documents are indexed
with nobody searching: the rates, and the shares of the steps as the worker measures
them. Then searches go on at a fixed rate while phases with and without a bulk ingest
take turns, so that other work on the machine meets both alike; every query is another
one. "apart": the worker is a process of its own; "together": it is in the service, as
on a laptop. Without --model-dir the built-in model is used if it is on this machine,
else words are hashed, which costs nothing: the shares are those of everything else.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: a file in it is named as a package is

from agentteams.retrieval.v1 import retrieval_service_pb2 as pb  # noqa: E402

from bench.search import standalone  # noqa: E402
from servicekit.errors import DeadlineExceeded  # noqa: E402
from tests.chaos.ingest_cluster import IngestCluster, Process, ingest_cluster  # noqa: E402
from tests.support.real_texts import real_documents  # noqa: E402
from tests.support.stack import cached_embedding_model  # noqa: E402

LIMIT_S = 1500.0
UPLOADS_AT_ONCE = 4
STAGES = ("parse", "embed", "insert", "flush", "catalogue")


@dataclass(frozen=True, kw_only=True)
class Ingest:
    """Nobody searching."""

    documents_per_s: float
    chunks_per_s: float
    shares: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Searches beside a bulk ingest; ratios of it to none, over the searches of all rounds."""

    way: str
    searches: int
    p50_ratio: float
    p99_ratio: float
    p50_idle_ms: float
    p99_idle_ms: float
    busy_documents_per_s: float


class Bench:
    """One run."""

    def __init__(self, cluster: IngestCluster, model: str, *, rate: float) -> None:
        self._cluster = cluster
        self._client = cluster.client
        self._model = model
        self._rate = rate
        self.late = 0
        self._texts = iter(real_documents(3000, seed=2).items())
        asked = [text.decode(errors="replace").split() for text in real_documents(400, seed=3).values()]
        self._queries = (
            " ".join(words[place : place + 7]) for place in itertools.count(20, 3) for words in asked
        )

    async def ingest(self, documents: int) -> Ingest:
        """Uploads first, so that only indexing is measured."""
        await self._client.create("bench", embedding_model=self._model)
        await self._upload(documents)
        worker = self._cluster.workers[0]
        before = self._stages(worker)
        chunks_before = await self._chunks()
        await self._start(worker)
        began = time.monotonic()
        while await self._pending():  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.1)
        wall = time.monotonic() - began
        stages = {name: seconds - before[name] for name, seconds in self._stages(worker).items()}
        chunks = await self._chunks() - chunks_before
        await worker.stop()
        total = sum(stages.values())
        return Ingest(
            documents_per_s=documents / wall,
            chunks_per_s=chunks / wall,
            shares={name: seconds / total for name, seconds in stages.items()},
        )

    async def beside(self, way: str, *, seconds: float, rounds: int) -> Beside:
        """Idle and busy phases in turn."""
        idle: list[float] = []
        busy: list[float] = []
        rates = []
        for _ in range(rounds):
            idle += await self._searching(seconds)
            before = await self._ready()
            await self._begin(way)
            await self._upload(30)
            # What starts with a process is not the ingest's: parsers, connections.
            while await self._ready() == before:  # noqa: ASYNC110  # another process
                await asyncio.sleep(0.1)
            async with asyncio.TaskGroup() as group:
                feeding = group.create_task(self._feed())
                began, before = time.monotonic(), await self._ready()
                busy += await self._searching(seconds)
                rates.append((await self._ready() - before) / (time.monotonic() - began))
                if not await self._pending():
                    raise RuntimeError("the ingest ended before the searches: upload more")
                feeding.cancel()
            await self._end(way)
        return Beside(
            way=way,
            searches=len(busy),
            p50_ratio=_p(busy, 50) / _p(idle, 50),
            p99_ratio=_p(busy, 99) / _p(idle, 99),
            p50_idle_ms=1000 * _p(idle, 50),
            p99_idle_ms=1000 * _p(idle, 99),
            busy_documents_per_s=statistics.median(rates),
        )

    async def _begin(self, way: str) -> None:
        if way == "apart":
            await self._start(self._cluster.workers[0])
        else:
            await self._restart_service(ingest="true")

    async def _end(self, way: str) -> None:
        if way == "apart":
            await self._cluster.workers[0].stop()
        else:
            await self._restart_service(ingest="false")

    async def _restart_service(self, *, ingest: str) -> None:
        service = self._cluster.service
        await service.stop()
        service.env["AGENTTEAMS_INGEST"] = ingest
        await self._start(service)

    async def _start(self, process: Process) -> None:
        process.start()
        await process.ready()

    async def _searching(self, seconds: float) -> list[float]:
        """Latencies of searches that begin at fixed times, whether or not the one before has ended."""
        took: list[float] = []

        async def one() -> None:
            began = time.monotonic()
            try:
                found = await self._client.search("bench", next(self._queries) or "what is this")
            except DeadlineExceeded:
                self.late += 1
            else:
                late = [r for r in found.reasons if r.code == pb.SearchReason.CODE_DEADLINE]
                self.late += bool(late)
                assert late or found.outcome != pb.SEARCH_OUTCOME_FAILED, found.reasons
            took.append(time.monotonic() - began)

        for _ in range(10):  # connections and caches are warm
            await one()
        took.clear()
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(round(seconds * self._rate)):
                await asyncio.sleep(max(0.0, began + number / self._rate - time.monotonic()))
                group.create_task(one())
        return took

    async def _feed(self) -> None:
        """Keeps the queue filled while it runs."""
        while True:
            if await self._pending() < 30:
                await self._upload(30)
            await asyncio.sleep(0.2)

    async def _upload(self, documents: int) -> None:
        texts = iter(list(itertools.islice(self._texts, documents)))

        async def some() -> None:
            for path, text in texts:
                with contextlib.suppress(DeadlineExceeded):  # on a machine that is busy with other things
                    await self._client.upload("bench", path, text)

        async with asyncio.TaskGroup() as group:
            for _ in range(UPLOADS_AT_ONCE):
                group.create_task(some())

    async def _counts(self) -> tuple[int, int, int]:
        request = pb.GetKnowledgeBaseRequest(name="knowledgeBases/bench")
        found = await self._client.rpc.unary(self._client.stub.GetKnowledgeBase, request)
        return found.documents.pending + found.documents.indexing, found.documents.ready, found.chunk_count

    async def _pending(self) -> int:
        return (await self._counts())[0]

    async def _ready(self) -> int:
        return (await self._counts())[1]

    async def _chunks(self) -> int:
        return (await self._counts())[2]

    def _stages(self, worker: Process) -> dict[str, float]:
        if worker.process is None:
            return dict.fromkeys(STAGES, 0.0)
        with urllib.request.urlopen(f"http://127.0.0.1:{worker.metrics_port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        found = re.findall(
            r'^agentteams_retrieval_ingest_stage_seconds_sum\{stage="(\w+)"\} (\S+)$', text, re.M
        )
        return dict.fromkeys(STAGES, 0.0) | {name: float(value) for name, value in found}


def _p(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


async def bench(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Everything, in the folder; prints what it has."""
    model = arguments.model_dir or cached_embedding_model()
    async with AsyncExitStack() as stack:
        uri = ""
        if arguments.milvus == "standalone":
            uri = stack.enter_context(standalone(folder / "standalone"))
            if not uri:
                return {}
        cluster = await stack.enter_async_context(
            ingest_cluster(folder, workers=1, model=model, milvus_uri=uri)
        )
        await cluster.workers[0].stop()
        run = Bench(cluster, "models/builtin" if model else "models/hash", rate=arguments.rate)
        ingest = await run.ingest(arguments.documents)
        print(f"{ingest.documents_per_s:.1f} documents/s, {ingest.chunks_per_s:.1f} chunks/s\n")
        print("| " + " | ".join(STAGES) + " |\n|" + "---|" * len(STAGES))
        print("| " + " | ".join(f"{ingest.shares[name]:.0%}" for name in STAGES) + " |\n")
        print(
            "| worker | searches | p50 beside a bulk ingest | p99 | p50 idle ms | p99 idle ms | documents/s |"
        )
        print("|---|---|---|---|---|---|---|", flush=True)
        ways = []
        for name in ("apart", "together"):
            way = await run.beside(name, seconds=arguments.seconds, rounds=arguments.rounds)
            ways.append(asdict(way))
            print(
                f"| {way.way} | {way.searches} | {way.p50_ratio:.2f} times | {way.p99_ratio:.2f} times "
                f"| {way.p50_idle_ms:.1f} | {way.p99_idle_ms:.1f} | {way.busy_documents_per_s:.1f} |",
                flush=True,
            )
        print(f"\n{run.late} searches had no answer within 10 s")
        return {"ingest": asdict(ingest), "beside": ways}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--documents", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--milvus", default="lite", choices=["lite", "standalone"])
    parser.add_argument("--rate", type=float, default=10, help="searches a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-ingest-") as folder:
        figures = asyncio.run(asyncio.wait_for(bench(arguments, Path(folder)), LIMIT_S))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
