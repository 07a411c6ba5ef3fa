"""What a search through the service costs next to the bare pymilvus calls of the same thing.

    python bench/search.py [--json FILE] [--milvus lite,standalone] [--rows 20000] [--seconds 3]

Milvus and the service are processes of their own; the callers are this one. The queries' vectors are
given, so no model is asked. Ours and the bare calls take turns within one run, so that other work on
the machine meets both alike, and both read text and metadata of what was found. The bare call of a
hybrid search is `hybrid_search`, which fuses in the server, with as many candidates as ours; where the
server has none there is only a dense search.
Standalone is 2.3.5, where it can be had. CPU is that of one search: the caller's and the service's, not
Milvus'; it tells the same on a busy machine, where each hop of ours waits for its turn.
"""

import argparse
import asyncio
import itertools
import json
import logging
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from pymilvus import AnnSearchRequest, AsyncMilvusClient, MilvusClient, RRFRanker

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: a file here is named as the package is

from agentteams_cli.ports import DEFAULT_PORTS  # noqa: E402
from agentteams_cli.services import plan  # noqa: E402
from agentteams_cli.stack import Endpoint, Stack, StackConfig  # noqa: E402
from agentteams_cli.state import StateFolder  # noqa: E402
from bench.turn import cpu_ms  # noqa: E402
from retrieval.adapters.milvus import MilvusStore  # noqa: E402
from retrieval.adapters.milvus_rows import HIT_FIELDS, METADATA, SPARSE, VECTOR  # noqa: E402
from retrieval.adapters.milvus_schema import SPARSE_SEARCH_PARAMS, dense_search_params  # noqa: E402
from retrieval.core.candidates import SPARE  # noqa: E402
from retrieval.core.model import ChunkRecord, Place, Vectors  # noqa: E402
from retrieval.core.words import query_words  # noqa: E402
from servicekit.client import RpcClient, open_channel  # noqa: E402
from servicekit.context import Caller, scope  # noqa: E402
from servicekit.identity import TokenIssuer, load_key  # noqa: E402
from servicekit.testing import serve_in_process  # noqa: E402
from tests.support.milvus import milvus_lite  # noqa: E402
from tests.support.milvus_binary import milvus_folder  # noqa: E402
from tests.support.milvus_server import MilvusStandalone  # noqa: E402
from tests.support.retrieval import MODEL, HashEmbeddingServicer  # noqa: E402

LIMIT_S = 600.0  # of everything: a benchmark that hangs is a failed one
DIMENSION, TOP_K, ROUNDS, BATCH = 384, 8, 3, 1_000
CALLERS = (1, 16, 64)
NAME = "bench"
_COMMON = 50  # words
Search = Callable[[str, Vectors], Awaitable[object]]
Rounds = dict[str, list[float]]  # a figure of each round, of ours and of the bare calls


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One way to search, by so many callers; medians of the rounds. Ratios are of ours to the bare calls."""

    milvus: str
    mode: str
    callers: int
    ours_p50_ms: float
    bare_p50_ms: float
    p50_ratio: float
    ours_per_s: float
    bare_per_s: float
    throughput_ratio: float
    ours_cpu_ms: float  # of one search, caller and service; Milvus aside
    bare_cpu_ms: float


class Corpus:
    """Texts of words as common as in a language, and vectors in some hundred clusters."""

    def __init__(self) -> None:
        self._chance = random.Random(1)
        self._noise = np.random.default_rng(1)
        self._centres = self._noise.standard_normal((200, DIMENSION)).astype(np.float32)
        self._vocabulary = [
            f"{a}{b}{c}" for a, b, c in itertools.product("bdfglmnprst", "aeiou", "bdfglmnprst")
        ]
        by_rank = [1 / rank for rank in range(1, len(self._vocabulary) + 1)]
        self._weights = list(itertools.accumulate(by_rank))
        self._rarer = by_rank[_COMMON:]

    def text(self, words: int) -> str:
        return " ".join(self._chance.choices(self._vocabulary, cum_weights=self._weights, k=words))

    def query(self) -> str:
        """Six words, none of the commonest: those are not looked for."""
        asked = self._chance.choices(self._vocabulary[_COMMON:], weights=self._rarer, k=6)
        return " ".join(asked)

    def vectors(self, count: int) -> Vectors:
        found = self._centres[self._noise.integers(len(self._centres), size=count)]
        found = found + 0.7 * self._noise.standard_normal(found.shape).astype(np.float32)
        normed: Vectors = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        return normed

    def records(self, first: int, count: int) -> list[ChunkRecord]:
        """Ten chunks a document."""
        return [
            ChunkRecord(
                id=f"d{n // 10}-{n % 10}",
                document=f"d{n // 10}",
                title=f"folder/d{n // 10}.md",
                version="v",
                ordinal=n % 10,
                text=self.text(80),
                location="",
            )
            for n in range(first, first + count)
        ]


@asynccontextmanager
async def service(folder: Path, milvus_uri: str) -> AsyncIterator[tuple[RpcClient, int]]:
    """The retrieval service as a process, and its id; the model that it asks for its dimension is here."""
    state = StateFolder(folder)
    state.create()
    key = load_key(state.identity_key)
    model = HashEmbeddingServicer()
    model.embedder.dimension = DIMENSION
    async with AsyncExitStack() as exits:
        target = await exits.enter_async_context(serve_in_process([model.service()], key=key))
        own = {
            "AGENTTEAMS_MILVUS_URI": milvus_uri,
            "AGENTTEAMS_MILVUS_TIMEOUT_S": "60",  # 64 callers of Lite wait for one another
            "AGENTTEAMS_EMBEDDING_TARGET": target,
            "AGENTTEAMS_INGEST": "false",  # the worker would rightly remove rows that no document has
        }
        config = StackConfig(
            state_dir=folder,
            chat="local",
            embedding=Endpoint(url="http://127.0.0.1:1/v1", model="none"),
            ports=dict.fromkeys(DEFAULT_PORTS, 0),
            log_level="warning",
        )
        stack = Stack(
            config,
            make_plan=lambda c, ports: [
                replace(spec, env={**spec.env, **own}) for spec in plan(c, ports) if spec.name == "retrieval"
            ],
        )
        await exits.enter_async_context(stack)
        channel = open_channel(f"127.0.0.1:{stack.services['retrieval'].port}")
        exits.push_async_callback(channel.close)
        with scope(caller=Caller("default", "bench")):
            issuer = TokenIssuer(key, service="bench")
            rpc = RpcClient(channel, issuer=issuer, default_timeout=timedelta(seconds=60))
            yield rpc, stack.services["retrieval"].pid


async def fill(uri: str, collection: str, rows: int, corpus: Corpus) -> str:
    """Rows for the knowledge base, past the pipeline; returns what the Milvus is."""
    store = MilvusStore(uri=uri, timeout_s=60)
    try:
        place = Place(collection=collection)
        for first in range(0, rows, BATCH):
            await store.upsert(place, corpus.records(first, BATCH), corpus.vectors(BATCH))
        await store.flush(place)
        await store.settle(place)
        return (await store.capabilities()).deployment
    finally:
        await store.close()


def ours(rpc: RpcClient, fingerprint: str, mode: kb_pb.SearchMode.ValueType) -> Search:
    """Over gRPC."""
    method = RetrievalServiceStub(rpc.channel).Search

    async def search(text: str, vector: Vectors) -> object:
        response = await rpc.unary(
            method,
            pb.SearchRequest(
                knowledge_base=f"knowledgeBases/{NAME}",
                query=text,
                query_vector=vector.tobytes(),
                model_fingerprint=fingerprint,
                top_k=TOP_K,
                mode=mode,
            ),
        )
        if response.outcome != pb.SEARCH_OUTCOME_OK or len(response.chunks) != TOP_K:
            raise RuntimeError(f"a search went wrong: {response}")
        return [(chunk.id, chunk.text, dict(chunk.metadata)) for chunk in response.chunks]

    return search


def bare(client: AsyncMilvusClient, collection: str, mode: kb_pb.SearchMode.ValueType) -> Search:
    """What somebody would write who has only pymilvus."""

    def read(answer: list[list[dict[str, Any]]]) -> object:
        return [(hit["id"], hit["entity"]["text"], hit["entity"][METADATA]) for hit in answer[0]]

    async def dense(text: str, vector: Vectors) -> object:
        answer = await client.search(
            collection,
            data=[vector],
            anns_field=VECTOR,
            limit=TOP_K,
            search_params=dense_search_params(TOP_K, {}),
            output_fields=HIT_FIELDS,
            timeout=60,
        )
        return read(answer)

    async def hybrid(text: str, vector: Vectors) -> object:
        many = SPARE * TOP_K
        words = " ".join(query_words(text))
        requests = [
            AnnSearchRequest([vector], VECTOR, dense_search_params(many, {}), many),
            AnnSearchRequest([words], SPARSE, SPARSE_SEARCH_PARAMS, many),
        ]
        answer = await client.hybrid_search(
            collection, requests, RRFRanker(60), limit=TOP_K, output_fields=HIT_FIELDS, timeout=60
        )
        return read(answer)

    return dense if mode == kb_pb.SEARCH_MODE_DENSE else hybrid


async def load(search: Search, corpus: Corpus, *, callers: int, seconds: float) -> list[float]:
    """Seconds of each search that ended in time, by callers that never rest."""
    queries = [(corpus.query(), vector) for vector in corpus.vectors(256)]
    turns, took = itertools.cycle(queries), list[float]()
    until = time.perf_counter() + seconds

    async def one() -> None:
        while (began := time.perf_counter()) < until:
            await search(*next(turns))
            took.append(time.perf_counter() - began)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(one())
    return took


async def measure(uri: str, folder: Path, *, rows: int, seconds: float) -> list[Figures]:
    """One Milvus."""
    corpus = Corpus()
    async with AsyncExitStack() as exits:
        rpc, pid = await exits.enter_async_context(service(folder, uri))
        wanted = kb_pb.KnowledgeBase(name=f"knowledgeBases/{NAME}", embedding_model=MODEL)
        kb = await rpc.unary(
            RetrievalServiceStub(rpc.channel).CreateKnowledgeBase,
            pb.CreateKnowledgeBaseRequest(knowledge_base=wanted),
        )
        (collection,) = await asyncio.to_thread(MilvusClient(uri, timeout=60).list_collections)
        milvus = await fill(uri, collection, rows, corpus)
        client = AsyncMilvusClient(uri, dedicated=True, timeout=60)
        exits.push_async_callback(client.close)
        modes = {"dense": kb_pb.SEARCH_MODE_DENSE}
        if milvus.startswith("Lite"):
            modes["hybrid"] = kb_pb.SEARCH_MODE_HYBRID
        figures = []
        for name, mode in modes.items():
            ways = {"ours": ours(rpc, kb.model_fingerprint, mode), "bare": bare(client, collection, mode)}
            for search in ways.values():
                await load(search, corpus, callers=4, seconds=1)
            for callers in CALLERS:
                p50: Rounds = {way: [] for way in ways}
                rate: Rounds = {way: [] for way in ways}
                cpu: Rounds = {way: [] for way in ways}
                for _ in range(ROUNDS):
                    for way, search in ways.items():
                        before = 1000 * time.process_time() + cpu_ms(pid)
                        took = await load(search, corpus, callers=callers, seconds=seconds)
                        used = 1000 * time.process_time() + cpu_ms(pid) - before
                        cpu[way].append(used / len(took))
                        p50[way].append(1000 * statistics.median(took))
                        rate[way].append(callers / statistics.fmean(took))
                figures.append(_figures(milvus, name, callers, p50=p50, rate=rate, cpu=cpu))
                print(row(figures[-1]), flush=True)
        return figures


def _figures(milvus: str, mode: str, callers: int, *, p50: Rounds, rate: Rounds, cpu: Rounds) -> Figures:
    def ratio(of: Rounds) -> float:
        """Round by round: both of a round met the same machine."""
        return statistics.median(a / b for a, b in zip(of["ours"], of["bare"], strict=True))

    return Figures(
        milvus=milvus,
        mode=mode,
        callers=callers,
        ours_p50_ms=statistics.median(p50["ours"]),
        bare_p50_ms=statistics.median(p50["bare"]),
        p50_ratio=ratio(p50),
        ours_per_s=statistics.median(rate["ours"]),
        bare_per_s=statistics.median(rate["bare"]),
        throughput_ratio=ratio(rate),
        ours_cpu_ms=statistics.median(cpu["ours"]),
        bare_cpu_ms=statistics.median(cpu["bare"]),
    )


def row(f: Figures) -> str:
    """One line of the table."""
    times = f"{f.ours_p50_ms:>11.1f}   {f.bare_p50_ms:>11.1f}   {f.p50_ratio:>5.2f}"
    rates = f"{f.ours_per_s:>6.0f}   {f.bare_per_s:>6.0f}   {f.throughput_ratio:>5.2f}"
    cpu = f"{f.ours_cpu_ms:>11.2f}   {f.bare_cpu_ms:>11.2f}"
    return f"{f.milvus:<17}  {f.mode:<6}   {f.callers:>7}   {times}   {rates}   {cpu}"


def run(arguments: argparse.Namespace) -> list[Figures]:
    """Every Milvus, one after the other."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    print(
        "milvus             mode     callers   ours p50 ms   bare p50 ms   ratio   ours/s   bare/s   ratio"
        "   ours CPU ms   bare CPU ms"
    )

    async def bounded(uri: str, folder: Path) -> list[Figures]:
        async with asyncio.timeout(LIMIT_S):
            return await measure(uri, folder, rows=arguments.rows, seconds=arguments.seconds)

    figures: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="agentteams-bench-") as scratch:
        folder = Path(scratch)
        if "lite" in arguments.milvus:
            with milvus_lite(folder / "lite") as lite:
                figures += asyncio.run(bounded(lite.uri, folder / "state-lite"))
        if "standalone" in arguments.milvus:
            with standalone(folder / "standalone") as uri:
                if uri:
                    figures += asyncio.run(bounded(uri, folder / "state-standalone"))
    return figures


@contextmanager
def standalone(folder: Path) -> Iterator[str]:
    """Its address, or nothing where it cannot be had."""
    try:
        binaries = milvus_folder()
    except pytest.skip.Exception as reason:
        print(f"Standalone 2.3.5: not measured: {reason}")
        yield ""
        return
    folder.mkdir()
    server = MilvusStandalone(binaries, folder)
    try:
        server.start()
        yield server.uri
    finally:
        server.kill()


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there, as one object")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round, of each way")
    parser.add_argument(
        "--milvus", default=["lite"], type=lambda text: text.split(","), help="lite, standalone or both"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.milvus) - {"lite", "standalone"}:
        parser.error(f"--milvus must be lite, standalone or both, not {', '.join(sorted(unknown))}")
    if arguments.rows < BATCH or arguments.rows % BATCH:
        parser.error(f"--rows must be a multiple of {BATCH}")
    figures = run(arguments)
    if arguments.json is not None:
        found = {"bench": "search", "rows": arguments.rows, "figures": [asdict(f) for f in figures]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
