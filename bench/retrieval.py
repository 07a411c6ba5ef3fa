"""Whether searches find what they should: BEIR SciFact, next to what others have published.

    python bench/retrieval.py [--json FILE] [--data FOLDER] [--state FOLDER]
                              [--rerank-dir FOLDER | --rerank-chat 30]

5,183 abstracts are uploaded as one Markdown file each (title, text), go through the whole pipeline
(parser, chunks, the built-in int8 model, Milvus Lite) and are searched by the 300 test queries over
gRPC. A document ranks by its best chunk. `hybrid` is reciprocal rank fusion with k = 60, `weighted` the
same lists with half the weight each, `reranked` the best 100 of `hybrid` once more by the cross-encoder
of --rerank-dir. --rerank-chat reranks the best 10 of so many of the queries (evenly chosen) with the local
1.5B chat model, which takes seconds a passage, and prints `hybrid` for the same queries beside it.

The data are not part of the project (their licence forbids commercial use): the folder is --data,
else $BENCH_DATA, else ../shared/data. --state keeps the index, so that the next run only searches.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: this file is named as the package is

from agentteams_cli.ports import DEFAULT_PORTS  # noqa: E402
from agentteams_cli.services import plan  # noqa: E402
from agentteams_cli.stack import Stack, StackConfig  # noqa: E402
from bench.chat_reranker import chat_reranker  # noqa: E402
from retrieval.core.scores import ndcg, recall, reciprocal_rank  # noqa: E402
from servicekit.client import RpcClient, open_channel  # noqa: E402
from servicekit.context import Caller, scope  # noqa: E402
from servicekit.identity import TokenIssuer, load_key  # noqa: E402
from tests.support.stack import cached_embedding_model  # noqa: E402

LIMIT_S = 1800.0  # of everything: a benchmark that hangs is a failed one
NEEDED = ("milvus", "embedding", "retrieval")
NAME = "knowledgeBases/scifact"
UPLOADS, SEARCHES = 8, 2  # at a time
BLOCK = 256  # documents
DEPTH = 100
_WEIGHTED = kb_pb.Ranker(weighted=kb_pb.Weighted(dense_weight=0.5))
_PATIENT_S = 900.0  # a search, with a chat model that reranks
_RERANK = kb_pb.Rerank(model="models/builtin", candidates=DEPTH)
_CHAT_RERANK = kb_pb.Rerank(model="models/chat-rerank", candidates=10)
WAYS: Mapping[str, Mapping[str, object]] = {
    "dense": {"mode": kb_pb.SEARCH_MODE_DENSE},
    "sparse": {"mode": kb_pb.SEARCH_MODE_SPARSE},
    "hybrid": {"mode": kb_pb.SEARCH_MODE_HYBRID},
    "weighted": {"mode": kb_pb.SEARCH_MODE_HYBRID, "ranker": _WEIGHTED},
    "reranked": {"mode": kb_pb.SEARCH_MODE_HYBRID, "rerank": _RERANK},
}
# Of --rerank-chat; the best 10 only, reranked or not.
SAMPLED: Mapping[str, Mapping[str, object]] = {
    "hybrid, sampled": {"mode": kb_pb.SEARCH_MODE_HYBRID, "top_k": 10},
    "reranked, sampled": {"mode": kb_pb.SEARCH_MODE_HYBRID, "top_k": 10, "rerank": _CHAT_RERANK},
}
MEASURES = ("nDCG@10", "recall@100", "MRR@10")
# nDCG@10: all-MiniLM-L6-v2 of MTEB, BM25 of Anserini (flat; multifield 0.6647). Nobody publishes the
# fusion of the two; 0.71 is reciprocal rank fusion of both over whole abstracts, made apart from our code.
PUBLISHED = {"dense": 0.645, "sparse": 0.679, "hybrid": 0.711}
TARGETS = {"dense": 0.640, "sparse": 0.665, "hybrid": 0.705}


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Documents as (id, title, text), queries by id, and the grades of each query's documents."""

    documents: Sequence[tuple[str, str, str]]
    queries: Mapping[str, str]
    judgments: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One way to search; means over the queries."""

    mode: str
    ndcg_at_10: float
    recall_at_100: float
    mrr_at_10: float
    search_p50_ms: float
    degraded: int


def read(folder: Path) -> DataSet:
    """The data set. Raises: SystemExit if it is not there."""
    file = folder / "scifact.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(
            f"bench/retrieval.py: not measured: {file} is not there. It is BEIR's SciFact as one object: "
            "{docs: [[id, title, text]], queries: {id: text}, qrels: {query: {document: grade}}}. "
            "Name its folder with --data or BENCH_DATA."
        )
    return DataSet(
        documents=[(id_, title, text) for id_, title, text in found["docs"]],
        queries=found["queries"],
        judgments=found["qrels"],
    )


@asynccontextmanager
async def services(
    state: Path, model: Path, rerank: Path | None, manifest: str = ""
) -> AsyncIterator[RpcClient]:
    """Milvus Lite, embedding and retrieval as processes; yields a client of retrieval."""
    (state / "manifests").mkdir(parents=True, exist_ok=True)
    (state / "manifests" / "rerank.yaml").write_text(manifest)
    config = StackConfig(
        state_dir=state,
        chat="local",
        embedding=model,
        ports=dict.fromkeys(DEFAULT_PORTS, 0),
        extra_env={
            "AGENTTEAMS_MILVUS_TIMEOUT_S": "60",  # on a busy machine; a search that fails ends the run
            "AGENTTEAMS_RERANK_TIMEOUT_S": str(_PATIENT_S),
            **({"AGENTTEAMS_BUILTIN_RERANK_DIR": str(rerank)} if rerank else {}),
        },
    )
    stack = Stack(config, make_plan=lambda c, ports: [s for s in plan(c, ports) if s.name in NEEDED])
    async with stack:
        channel = open_channel(f"127.0.0.1:{stack.services['retrieval'].port}")
        try:
            issuer = TokenIssuer(load_key(stack.state.identity_key), service="bench")
            with scope(caller=Caller("default", "bench")):
                yield RpcClient(channel, issuer=issuer, default_timeout=timedelta(seconds=_PATIENT_S))
        finally:
            await channel.close()


async def ingest(rpc: RpcClient, data: DataSet, chunking: kb_pb.Chunking) -> tuple[float, int]:
    """Uploads what is not there and waits until all is indexed; seconds and chunks."""
    stub = RetrievalServiceStub(rpc.channel)
    wanted = kb_pb.KnowledgeBase(name=NAME, embedding_model="models/builtin", chunking=chunking)
    await rpc.unary(stub.CreateKnowledgeBase, pb.CreateKnowledgeBaseRequest(knowledge_base=wanted))
    began = time.monotonic()

    async def upload(id_: str, title: str, text: str) -> None:
        async def parts() -> AsyncIterator[pb.UploadDocumentRequest]:
            yield pb.UploadDocumentRequest(header=pb.UploadHeader(parent=NAME, path=f"{id_}.md"))
            yield pb.UploadDocumentRequest(content=f"# {title}\n\n{text}\n".encode())

        await rpc.client_stream(stub.UploadDocument, parts())

    kb = kb_pb.KnowledgeBase()
    for end in range(BLOCK, len(data.documents) + BLOCK, BLOCK):
        block = data.documents[end - BLOCK : end]
        await spread((upload(*document) for document in block), UPLOADS)
        last = end >= len(data.documents)
        # A long queue is a measurement of its own; here the next block waits until this one is nearly done.
        while kb.documents.ready < (len(data.documents) if last else end - BLOCK // 4):
            await asyncio.sleep(0.2)  # polling another process; nothing here tells us
            kb = await rpc.unary(stub.GetKnowledgeBase, pb.GetKnowledgeBaseRequest(name=NAME))
            if kb.documents.failed:
                raise RuntimeError(f"{kb.documents.failed} documents failed")
    return time.monotonic() - began, kb.chunk_count


async def measure(
    rpc: RpcClient, data: DataSet, mode: str, fields: Mapping[str, object], *, at_a_time: int = SEARCHES
) -> Figures:
    """Searches every query in one way."""
    stub = RetrievalServiceStub(rpc.channel)
    ranked: dict[str, list[str]] = {}
    took: list[float] = []
    degraded = 0

    async def search(id_: str, text: str) -> None:
        nonlocal degraded
        how: dict[str, Any] = {"top_k": DEPTH, "max_per_document": 1, **fields}  # a document's best chunk
        request = pb.SearchRequest(knowledge_base=NAME, query=text, **how)
        began = time.perf_counter()
        response = await rpc.unary(stub.Search, request)
        took.append(time.perf_counter() - began)
        if response.outcome == pb.SEARCH_OUTCOME_FAILED:
            raise RuntimeError(f"a search failed: {response.reasons[0].message}")
        if response.outcome == pb.SEARCH_OUTCOME_DEGRADED:
            degraded += 1
            print(f"degraded: {response.reasons[0].message}", file=sys.stderr)
        ranked[id_] = [chunk.document_title.removesuffix(".md") for chunk in response.chunks]

    await spread((search(id_, text) for id_, text in data.queries.items()), at_a_time)
    judged = [(ranked[id_], data.judgments[id_]) for id_ in data.queries]
    return Figures(
        mode=mode,
        ndcg_at_10=statistics.fmean(ndcg(found, grades, depth=10) for found, grades in judged),
        recall_at_100=statistics.fmean(recall(found, grades, depth=100) for found, grades in judged),
        mrr_at_10=statistics.fmean(reciprocal_rank(found, grades, depth=10) for found, grades in judged),
        search_p50_ms=1000 * statistics.median(took),
        degraded=degraded,
    )


async def spread(calls: Iterable[Coroutine[object, object, None]], at_a_time: int) -> None:
    """Awaits all, so many at a time."""
    waiting = iter(calls)

    async def one_by_one() -> None:
        for call in waiting:
            await call

    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(one_by_one())


async def run(arguments: argparse.Namespace, data: DataSet, model: Path) -> dict[str, Any]:
    """Starts everything, measures, stops everything."""
    chunking = kb_pb.Chunking(max_tokens=arguments.max_tokens, overlap_tokens=arguments.overlap_tokens)
    folder: Path = arguments.state
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(asyncio.timeout(LIMIT_S))
        manifest = await stack.enter_async_context(chat_reranker()) if arguments.rerank_chat else ""
        rpc = await stack.enter_async_context(services(folder, model, arguments.rerank_dir, manifest))
        seconds, chunks = await ingest(rpc, data, chunking)
        print(f"{len(data.documents)} documents, {chunks} chunks, indexed in {seconds:.0f} s\n", flush=True)
        few = replace(data, queries=dict(list(data.queries.items())[:4]))
        await measure(rpc, few, "warm-up", {"mode": kb_pb.SEARCH_MODE_HYBRID})
        print(
            "mode                " + "".join(f"{m:>12}" for m in MEASURES) + "   published   target   p50 ms"
        )
        figures: list[Figures] = []
        for mode in arguments.modes:
            if mode == "reranked" and arguments.rerank_dir is None:
                print("reranked            not measured: name a cross-encoder's folder with --rerank-dir")
                continue
            figures.append(await measure(rpc, data, mode, WAYS[mode]))
            print(row(figures[-1]), flush=True)
        if arguments.rerank_chat:
            ids = list(data.queries)[:: max(1, len(data.queries) // arguments.rerank_chat)]
            some = replace(data, queries={id_: data.queries[id_] for id_ in ids[: arguments.rerank_chat]})
            for mode, fields in SAMPLED.items():
                figures.append(await measure(rpc, some, mode, fields, at_a_time=1))
                print(row(figures[-1]), flush=True)
    return {
        "bench": "retrieval",
        "documents": len(data.documents),
        "chunks": chunks,
        "ingest_s": seconds,
        "figures": [asdict(f) for f in figures],
    }


def row(f: Figures) -> str:
    """One line of the table."""
    scores = "".join(f"{value:>12.4f}" for value in (f.ndcg_at_10, f.recall_at_100, f.mrr_at_10))
    published = f"{PUBLISHED[f.mode]:.3f}" if f.mode in PUBLISHED else "-"
    target = f"{TARGETS[f.mode]:.3f}" if f.mode in TARGETS else "-"
    note = f"   {f.degraded} degraded" if f.degraded else ""
    return f"{f.mode:<20}{scores}   {published:>9}   {target:>6}   {f.search_p50_ms:>6.1f}{note}"


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the figures there, as one object")
    parser.add_argument("--data", type=Path, default=os.environ.get("BENCH_DATA", ROOT / "../shared/data"))
    parser.add_argument("--state", type=Path, help="keep the index in this folder, and use what it has")
    parser.add_argument("--model-dir", type=Path, help="folder of the embedding model; default: the built-in")
    parser.add_argument(
        "--rerank-dir", type=lambda text: Path(text).absolute(), help="folder of an ONNX cross-encoder"
    )
    parser.add_argument("--rerank-chat", type=int, default=0, help="queries to rerank with the chat model")
    parser.add_argument("--modes", default=list(WAYS), type=lambda text: [m for m in text.split(",") if m])
    parser.add_argument("--max-tokens", type=int, default=0, help="of a chunk; 0: the default")
    parser.add_argument("--overlap-tokens", type=int, default=0, help="of two chunks; 0: the default")
    arguments = parser.parse_args()
    if unknown := set(arguments.modes) - WAYS.keys():
        parser.error(f"--modes must be of {', '.join(WAYS)}, not {', '.join(sorted(unknown))}")
    model = arguments.model_dir or cached_embedding_model()
    if model is None:
        sys.exit("bench/retrieval.py: not measured: the built-in model is not here; `make run` fetches it")
    data = read(Path(arguments.data))
    with tempfile.TemporaryDirectory(prefix="agentteams-bench-") as folder:
        arguments.state = arguments.state or Path(folder)
        found = asyncio.run(run(arguments, data, model))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
