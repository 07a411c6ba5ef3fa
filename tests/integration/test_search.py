"""Searches over gRPC on a real Milvus Lite, reranked by the embedding service at a rerank endpoint."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from prometheus_client import REGISTRY

from embedding.adapters.factory import RerankFactory
from embedding.core.models import Rerankers
from embedding.core.reranking import Reranking
from embedding.servicer import rerank_service
from manifests import Catalogue
from manifests.endpoints import SecretFiles
from orchestrator.adapters.knowledge_client import KnowledgeClient
from orchestrator.core.model import SearchQuery
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, NotFound
from servicekit.testing import serve_in_process
from tests.support.milvus import MilvusLite, milvus_lite, milvus_server  # noqa: F401
from tests.support.rerank_server import RerankServer
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient, running, settings

Code = pb.SearchReason.Code
RERANK = kb_pb.Rerank(model="models/rerank")
MODEL_CONFIG = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: rerank}}
spec: {{type: Rerank, provider: OpenAICompatible, model: r, endpoint: {{url: "{url}"}}}}
"""
TEXTS = {
    "hunt": "The red fox hunts at night. " * 3,
    "den": "A fox lives in a den below the roots. " * 3,
    "copy": "The red fox hunts at night. " * 3,
    "cat": "Cats sleep all day long. " * 3,
}


@dataclass
class Embedding:
    """The embedding service with both of its servers, and the endpoint behind it."""

    endpoint: RerankServer
    servicer: HashEmbeddingServicer = field(default_factory=HashEmbeddingServicer)
    target: str = ""


@asynccontextmanager
async def embedding_service(folder: Path, endpoint: RerankServer) -> AsyncIterator[Embedding]:
    (folder / "manifests").mkdir(parents=True, exist_ok=True)
    (folder / "manifests" / "models.yaml").write_text(MODEL_CONFIG.format(url=endpoint.url))
    catalogue = Catalogue(folder / "manifests")
    catalogue.load()
    assert catalogue.problems == []
    models = Rerankers(
        builtin=None,
        configs=catalogue,
        secrets=SecretFiles(folder),
        open_embedder=RerankFactory(threads=1, max_queued_texts=300),
    )
    served = Embedding(endpoint=endpoint)
    try:
        async with serve_in_process(
            [served.servicer.service(), rerank_service(Reranking(models=models))]
        ) as target:
            served.target = target
            yield served
    finally:
        await models.aclose()


@pytest.fixture
async def embedding(tmp_path: Path) -> AsyncIterator[Embedding]:
    async with RerankServer("cohere") as endpoint, embedding_service(tmp_path, endpoint) as served:
        yield served


@pytest.fixture
async def client(
    tmp_path: Path,
    milvus_server: MilvusLite,  # noqa: F811
    embedding: Embedding,
) -> AsyncIterator[RetrievalClient]:
    async with running(
        settings(tmp_path, milvus_uri=milvus_server.uri, embedding_target=embedding.target)
    ) as client:
        yield client


@pytest.fixture
async def kb(client: RetrievalClient) -> str:
    id_ = f"kb-{uuid.uuid4().hex[:12]}"
    await fill(client, id_)
    return id_


async def fill(client: RetrievalClient, id_: str) -> None:
    """A document for each text, and a long one whose third part is about owls."""
    await client.create(id_, chunking=kb_pb.Chunking(max_tokens=32, overlap_tokens=1))
    for name, text in TEXTS.items():
        await client.upload(id_, f"{name}.txt", text.encode())
    trees = ["oak", "ash", "owl", "elm", "yew"]
    parts = [f"Part {n} is about the {tree} in the wood." for n, tree in enumerate(trees)]
    long = "\n\n".join(f"# {n}\n\n{part} {'More of it follows here. ' * 2}" for n, part in enumerate(parts))
    await client.upload(id_, "long.md", long.encode())
    async with asyncio.timeout(30):
        while True:
            state = await client.rpc.unary(
                client.stub.GetKnowledgeBase, pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{id_}")
            )
            if state.documents.ready == len(TEXTS) + 1:
                return
            await asyncio.sleep(0.05)


def codes(response: pb.SearchResponse) -> list[int]:
    return [reason.code for reason in response.reasons]


def titles(response: pb.SearchResponse) -> list[str]:
    return [chunk.document_title for chunk in response.chunks]


async def test_rerank(client: RetrievalClient, kb: str, embedding: Embedding) -> None:
    plain = await client.search(kb, "fox den roots", top_k=2)
    assert plain.outcome == pb.SEARCH_OUTCOME_OK
    reranked = await client.search(kb, "where is the den of a fox", top_k=2, rerank=RERANK)
    assert (reranked.outcome, codes(reranked)) == (pb.SEARCH_OUTCOME_OK, [])
    assert titles(reranked)[0] == "den.txt"
    asked = embedding.endpoint.asked[-1]
    assert asked["query"] == "where is the den of a fox"
    assert 2 < len(asked["documents"]) <= 8
    assert reranked.chunks[0].score == pytest.approx(4 / 7)  # the endpoint's
    assert [stage.stage for stage in reranked.stages] == ["embedding", "vector_search", "rerank"]

    def given_up() -> float:
        name = "agentteams_retrieval_search_reasons_total"
        return REGISTRY.get_sample_value(name, {"reason": "RERANK_UNAVAILABLE"}) or 0

    before = given_up()
    embedding.endpoint.answers = [(503, {}, {"message": "overloaded"})] * 20
    away = await client.search(kb, "fox den roots", top_k=2, rerank=RERANK)
    assert (away.outcome, codes(away)) == (pb.SEARCH_OUTCOME_DEGRADED, [Code.CODE_RERANK_UNAVAILABLE])
    assert titles(away) == titles(plain)
    assert given_up() == before + 1
    with pytest.raises(NotFound) as caught:
        await client.search(kb, "fox", rerank=kb_pb.Rerank(model="models/nowhere"))
    assert caught.value.reason == "MODEL_NOT_FOUND"


async def test_similarity_diversity_and_documents(client: RetrievalClient, kb: str) -> None:
    loose = await client.search(kb, "red fox hunts at night", top_k=8)
    best = loose.chunks[0]
    assert best.similarity > 0.8
    assert len(loose.chunks) > 3
    strict = await client.search(kb, "red fox hunts at night", top_k=8, min_similarity=0.8)
    assert titles(strict) == ["copy.txt", "hunt.txt"]  # equal scores: by id, and twice the same
    assert titles(strict) == titles(await client.search(kb, "red fox hunts at night", min_similarity=0.8))
    diverse = await client.search(kb, "red fox hunts at night", top_k=2, relevance_weight=0.3)
    assert len(set(titles(diverse)) & {"copy.txt", "hunt.txt"}) == 1
    every = await client.search(kb, "part wood", top_k=4)
    assert titles(every).count("long.md") == 4
    one_each = await client.search(kb, "part wood", top_k=4, max_per_document=1)
    assert sorted(titles(one_each)) == sorted(set(titles(one_each)))
    assert len(one_each.chunks) == 4


async def test_neighbours(client: RetrievalClient, kb: str) -> None:
    found = await client.search(kb, "owl", top_k=1, neighbours=1, mode=kb_pb.SEARCH_MODE_SPARSE)
    hit = found.chunks[0]
    assert "owl" in hit.text
    assert [n.ordinal - hit.ordinal for n in hit.neighbours] == [-1, 1]
    assert ("ash" in hit.neighbours[0].text, "elm" in hit.neighbours[1].text) == (True, True)


async def test_an_agent_sees_what_its_team_asks_for(client: RetrievalClient, kb: str) -> None:
    knowledge = KnowledgeClient(client.rpc)
    query = SearchQuery(
        knowledge_base=kb,
        text="owl",
        top_k=2,
        mode="Hybrid",
        filter='$path == "long.md" or $path startswith "cat"',
        max_per_document=1,
        neighbours=1,
    )
    result = await knowledge.search(query)
    assert (result.outcome, len(result.chunks)) == ("OK", 2)
    owl = next(chunk for chunk in result.chunks if chunk.title == "long.md")
    assert owl.text.index("ash") < owl.text.index("owl") < owl.text.index("elm")
    assert owl.similarity is not None
    assert all(chunk.title in ("long.md", "cat.txt") for chunk in result.chunks)


async def test_several_queries_and_weights(client: RetrievalClient, kb: str, embedding: Embedding) -> None:
    embedding.servicer.calls.clear()
    found = await client.search(
        kb,
        "cats sleep",
        top_k=4,
        more_queries=["owl", "yew"],
        ranker=kb_pb.Ranker(weighted=kb_pb.Weighted(dense_weight=0.4)),
    )
    assert found.outcome == pb.SEARCH_OUTCOME_OK
    text = " ".join(chunk.text for chunk in found.chunks)
    assert all(word in text for word in ("Cats", "owl", "yew"))
    assert [list(call.texts) for call in embedding.servicer.calls] == [["cats sleep", "owl", "yew"]]


BOUNDS: list[tuple[str, dict[str, Any]]] = [
    ("top_k", {"top_k": 101}),
    ("more_queries", {"more_queries": ["x"] * 8}),
    ("more_queries[1]", {"more_queries": ["x", " "]}),
    ("min_similarity", {"min_similarity": float("nan")}),
    ("relevance_weight", {"relevance_weight": 1.5}),
    ("max_per_document", {"max_per_document": -1}),
    ("neighbours", {"neighbours": 6}),
    ("rerank.model", {"rerank": kb_pb.Rerank(model="rerank")}),
    ("rerank.candidates", {"rerank": kb_pb.Rerank(model="models/r", candidates=257)}),
    ("rerank_off", {"rerank": RERANK, "rerank_off": True}),
    ("ranker.weighted.dense_weight", {"ranker": kb_pb.Ranker(weighted=kb_pb.Weighted(dense_weight=-1))}),
    (
        "ranker.reciprocal_rank.k",
        {"ranker": kb_pb.Ranker(reciprocal_rank=kb_pb.ReciprocalRank(k=1001))},
    ),
    ("filter.has", {"filter": filter_pb.Filter(has="colour")}),
    ("filter", {"filter": filter_pb.Filter()}),
]


async def test_bounds(client: RetrievalClient, kb: str) -> None:
    for name, fields in BOUNDS:
        with pytest.raises(InvalidArgument) as caught:
            await client.search(kb, "fox", **fields)
        assert [violation.field for violation in caught.value.violations] == [name]


async def test_an_outage_in_the_middle_is_never_an_empty_result(tmp_path: Path) -> None:
    ended: list[pb.SearchResponse] = []
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(RerankServer("cohere"))
        server = stack.enter_context(milvus_lite(tmp_path / "milvus"))
        own = await stack.enter_async_context(AsyncExitStack())
        embedding = await own.enter_async_context(embedding_service(tmp_path, endpoint))
        client = await stack.enter_async_context(
            running(settings(tmp_path, milvus_uri=server.uri, embedding_target=embedding.target))
        )
        await fill(client, "kb")

        async def ask(**fields: Any) -> pb.SearchResponse:
            with scope(caller=Caller("default", "test"), timeout=timedelta(seconds=2)):
                response = await client.search("kb", "red fox hunts", top_k=2, rerank=RERANK, **fields)
            ended.append(response)
            return response

        async def asking(count: int) -> None:
            for _ in range(count):
                await ask()

        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(asking(2))
            await ask()
            await asyncio.to_thread(server.kill)
        down = await ask()
        assert (down.outcome, codes(down)) == (pb.SEARCH_OUTCOME_FAILED, [Code.CODE_STORE_UNAVAILABLE])
        await asyncio.to_thread(server.start)
        assert (await ask()).outcome == pb.SEARCH_OUTCOME_OK

        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(asking(2))
            await ask()
            await own.aclose()
        without = await ask()
        assert without.outcome == pb.SEARCH_OUTCOME_DEGRADED
        assert set(codes(without)) <= {
            Code.CODE_EMBEDDING_UNAVAILABLE,
            Code.CODE_DEADLINE,
            Code.CODE_RERANK_UNAVAILABLE,
        }
        assert "fox" in without.chunks[0].text
    for response in ended:
        if response.outcome == pb.SEARCH_OUTCOME_FAILED:
            assert response.reasons
        else:
            assert response.chunks, response
            assert (response.outcome == pb.SEARCH_OUTCOME_OK) == (not response.reasons)
