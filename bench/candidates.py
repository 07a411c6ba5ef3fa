"""How many candidates of each list a hybrid search needs: SciFact, lists of other lengths fused.

    python bench/candidates.py [--state FOLDER] [--data FOLDER] [--top-k 8] [--depth 100]

The index is that of `python bench/retrieval.py --state FOLDER`; what is missing is indexed first. Each
query's lists by meaning and by words are fetched once over gRPC, cut at multiples of top_k, and fused by
the service's own code. Scores are of the first top_k chunks, a document ranks by its best chunk.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # not this folder: a file here is named as the package is

from bench.retrieval import LIMIT_S, NAME, SEARCHES, DataSet, ingest, read, services, spread  # noqa: E402
from retrieval.core.fusion import Ranking, fuse  # noqa: E402
from retrieval.core.scores import ndcg, recall  # noqa: E402
from retrieval.core.search_options import Ranker, ReciprocalRank, Weighted  # noqa: E402
from servicekit.client import RpcClient  # noqa: E402
from servicekit.errors import NotFound  # noqa: E402
from tests.support.stack import cached_embedding_model  # noqa: E402

MULTIPLES = (1, 2, 3, 4, 6, 8, 12)
RANKERS: Mapping[str, Ranker] = {"rrf": ReciprocalRank(), "weighted:0.5": Weighted(dense_weight=0.5)}

Lists = Sequence[Ranking]


async def indexed(rpc: RpcClient, data: DataSet) -> bool:
    """Whether the index is whole already."""
    stub = RetrievalServiceStub(rpc.channel)
    try:
        kb = await rpc.unary(stub.GetKnowledgeBase, pb.GetKnowledgeBaseRequest(name=NAME))
    except NotFound:
        return False
    return kb.documents.ready == len(data.documents)


async def lists_of(rpc: RpcClient, data: DataSet, depth: int) -> tuple[dict[str, Lists], dict[str, str]]:
    """By query, and the document of each chunk."""
    stub = RetrievalServiceStub(rpc.channel)
    found: dict[str, Lists] = {}
    documents: dict[str, str] = {}

    async def both(id_: str, text: str) -> None:
        rankings = []
        for mode, by_words in ((kb_pb.SEARCH_MODE_DENSE, False), (kb_pb.SEARCH_MODE_SPARSE, True)):
            request = pb.SearchRequest(knowledge_base=NAME, query=text, top_k=depth, mode=mode)
            chunks = (await rpc.unary(stub.Search, request)).chunks
            documents.update((chunk.id, chunk.document_title.removesuffix(".md")) for chunk in chunks)
            rankings.append(Ranking([(chunk.id, chunk.score) for chunk in chunks], by_words))
        found[id_] = rankings

    await spread((both(id_, text) for id_, text in data.queries.items()), SEARCHES)
    return found, documents


def report(data: DataSet, found: Mapping[str, Lists], documents: Mapping[str, str], top_k: int) -> None:
    """The table."""
    print(f"ranker         candidates   nDCG@{top_k}   recall@{top_k}   same chunks as with all")
    for name, ranker in RANKERS.items():
        whole = {id_: {c for c, _ in fuse(lists, ranker)[:top_k]} for id_, lists in found.items()}
        for multiple in MULTIPLES:
            gains, recalls, same = [], [], []
            for id_, lists in found.items():
                short = [Ranking(one.scored[: multiple * top_k], one.by_words) for one in lists]
                chunks = [chunk for chunk, _ in fuse(short, ranker)[:top_k]]
                ranked = list(dict.fromkeys(documents[chunk] for chunk in chunks))
                gains.append(ndcg(ranked, data.judgments[id_], depth=top_k))
                recalls.append(recall(ranked, data.judgments[id_], depth=top_k))
                same.append(len(whole[id_].intersection(chunks)) / top_k)
            means = [statistics.fmean(values) for values in (gains, recalls, same)]
            print(f"{name:<15}{multiple:>4} x {top_k:<5}{means[0]:>7.3f}{means[1]:>11.3f}{means[2]:>26.3f}")


async def run(arguments: argparse.Namespace, data: DataSet, model: Path) -> None:
    """Starts everything, measures, stops everything."""
    async with asyncio.timeout(LIMIT_S), services(arguments.state, model, None) as rpc:
        if not await indexed(rpc, data):
            await ingest(rpc, data, kb_pb.Chunking())
        found, documents = await lists_of(rpc, data, arguments.depth)
    report(data, found, documents, arguments.top_k)


def main() -> None:
    """Reads the arguments, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=os.environ.get("BENCH_DATA", ROOT / "../shared/data"))
    parser.add_argument("--state", type=Path, help="keep the index in this folder, and use what it has")
    parser.add_argument("--top-k", type=int, default=8)
    parser.add_argument("--depth", type=int, default=100, help="of each list, at most 100")
    arguments = parser.parse_args()
    model = cached_embedding_model()
    if model is None:
        sys.exit("bench/candidates.py: not measured: the built-in model is not here; `make run` fetches it")
    data = read(Path(arguments.data))
    with tempfile.TemporaryDirectory(prefix="agentteams-bench-") as folder:
        arguments.state = arguments.state or Path(folder)
        asyncio.run(run(arguments, data, model))


if __name__ == "__main__":
    main()
