"""Golden sets and evaluations as their callers see them, on a real Milvus Lite."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.retrieval.v1 import evaluation_pb2 as pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb

from agentteams_cli.golden import read_golden_set
from embedding.adapters.factory import Factory
from embedding.core.embedding import Embedding
from embedding.core.models import Models
from embedding.core.ports import LocalSource
from embedding.servicer import service
from manifests.endpoints import SecretFiles
from servicekit.context import Caller as Tenant
from servicekit.context import scope
from servicekit.errors import FailedPrecondition, InvalidArgument, NotFound
from servicekit.testing import serve_in_process
from tests.support.milvus import MilvusLite
from tests.support.retrieval import RetrievalClient, running, settings
from tests.support.retrieval_fixtures import Served, client, embedding, kb, milvus_server, retrieval_settings
from tests.support.stack import cached_embedding_model

__all__ = ["client", "embedding", "kb", "milvus_server", "retrieval_settings"]

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "examples" / "evaluation" / "golden.yaml"
DENSE, SPARSE, HYBRID = kb_pb.SEARCH_MODE_DENSE, kb_pb.SEARCH_MODE_SPARSE, kb_pb.SEARCH_MODE_HYBRID
TEXTS = {
    "foxes.md": b"# Foxes\n\nThe red fox hunts at night.",
    "cats.md": b"# Cats\n\nCats sleep all day.",
    "rain.md": b"# Rain\n\nIt rains in spring.",
}


class Caller:
    """Short forms of the calls about golden sets."""

    def __init__(self, client: RetrievalClient, kb: str) -> None:
        self.client = client
        self.name = f"knowledgeBases/{kb}"
        self.kb = kb

    async def ingest(self, files: dict[str, bytes], *, within_s: float = 30) -> None:
        for path, data in files.items():
            await self.client.upload(self.kb, path, data)
        async with asyncio.timeout(within_s):
            ready = 0
            while ready < len(files):
                await asyncio.sleep(0.05)  # another task's work; nothing here tells us
                ready = (await self.client.search(self.kb, "x", mode=SPARSE)).ready_documents

    async def set(self, *queries: pb.GoldenQuery) -> pb.GoldenSet:
        request = pb.SetGoldenSetRequest(parent=self.name, golden_set=pb.GoldenSet(queries=queries))
        return await self.client.rpc.unary(self.client.stub.SetGoldenSet, request)

    async def get(self) -> pb.GoldenSet:
        return await self.client.rpc.unary(
            self.client.stub.GetGoldenSet, pb.GetGoldenSetRequest(parent=self.name)
        )

    async def evaluate(self, *modes: int) -> list[pb.EvaluateKnowledgeBaseResponse]:
        request = pb.EvaluateKnowledgeBaseRequest(name=self.name, modes=modes)  # type: ignore[arg-type]
        stream = self.client.rpc.server_stream(
            self.client.stub.EvaluateKnowledgeBase, request, timeout=timedelta(seconds=60)
        )
        return [response async for response in stream]

    async def listed(self, **fields: Any) -> pb.ListEvaluationsResponse:
        return await self.client.rpc.unary(
            self.client.stub.ListEvaluations, pb.ListEvaluationsRequest(parent=self.name, **fields)
        )


def query(id_: str, text: str, *paths: str) -> pb.GoldenQuery:
    return pb.GoldenQuery(id=id_, query=text, relevant=[pb.Judgment(path=path) for path in paths])


@pytest.fixture
async def caller(client: RetrievalClient, kb: str) -> Caller:
    await client.create(kb)
    return Caller(client, kb)


async def test_a_golden_set_is_evaluated_and_its_scores_are_kept(caller: Caller) -> None:
    await caller.ingest(TEXTS)
    with pytest.raises(NotFound) as none:
        await caller.get()
    assert none.value.reason == "GOLDEN_SET_NOT_FOUND"
    stored = await caller.set(
        query("1", "where do foxes hunt", "foxes.md"), query("2", "cats", "cats.md", "gone.md")
    )
    assert await caller.get() == stored
    first, *_, last = await caller.evaluate(SPARSE, DENSE)
    assert (first.done, first.total, list(first.missing_paths)) == (0, 4, ["gone.md"])
    assert (last.done, last.total, list(last.missing_paths)) == (4, 4, ["gone.md"])
    sparse, dense = last.evaluations
    assert (sparse.mode, dense.mode, sparse.queries, sparse.degraded) == (SPARSE, DENSE, 2, 0)
    assert (sparse.mrr_at_10, sparse.recall_at_10, sparse.missing_documents) == (1, 0.75, 1)
    assert sparse.golden_set_sha256 == stored.sha256
    own = (await caller.evaluate())[-1].evaluations
    assert [one.mode for one in own] == [HYBRID]

    page = await caller.listed(page_size=2)
    rest = await caller.listed(page_size=2, page_token=page.next_page_token)
    assert [one.mode for one in (*page.evaluations, *rest.evaluations)] == [HYBRID, SPARSE, DENSE]
    assert rest.next_page_token == ""
    assert rest.evaluations[0].ndcg_at_10 == pytest.approx(dense.ndcg_at_10)

    assert (await caller.set()).queries == []
    with pytest.raises(NotFound):
        await caller.evaluate()


async def test_an_evaluation_that_cannot_look_stores_nothing(caller: Caller, embedding: Served) -> None:
    await caller.set(query("1", "foxes", "foxes.md"))
    with pytest.raises(FailedPrecondition, match=r"foxes\.md") as nothing:
        await caller.evaluate()
    assert nothing.value.reason == "DOCUMENT_NOT_FOUND"
    await caller.ingest(TEXTS)
    embedding[0].go_down()
    degraded = (await caller.evaluate())[-1].evaluations[0]
    assert (degraded.degraded, degraded.mrr_at_10) == (1, 1)
    embedding[0].come_back()
    assert len((await caller.listed()).evaluations) == 1


async def test_golden_sets_of_other_tenants_are_not_seen(caller: Caller) -> None:
    await caller.set(query("1", "foxes", "foxes.md"))
    with scope(caller=Tenant("other", "eve")):
        for call in (caller.get(), caller.set(), caller.evaluate(), caller.listed()):
            with pytest.raises(NotFound) as missing:
                await call
            assert missing.value.reason == "KNOWLEDGE_BASE_NOT_FOUND"
    assert len((await caller.get()).queries) == 1


@pytest.mark.parametrize(
    ("queries", "field"),
    [
        ([query("", "q", "a.md")], "golden_set.queries[0].id"),
        ([query("x" * 65, "q", "a.md")], "golden_set.queries[0].id"),
        ([query("1", "q", "a.md"), query("1", "q", "a.md")], "golden_set.queries[1].id"),
        ([query("1", " ", "a.md")], "golden_set.queries[0].query"),
        ([query("1", "q")], "golden_set.queries[0].relevant"),
        ([query("1", "q", "../a.md")], "golden_set.queries[0].relevant[0].path"),
        ([query("1", "q", "a.md", "a.md")], "golden_set.queries[0].relevant[1].path"),
        (
            [pb.GoldenQuery(id="1", query="q", relevant=[pb.Judgment(path="a", grade=11)])],
            "golden_set.queries[0].relevant[0].grade",
        ),
        ([query(str(n), "q", "a.md") for n in range(10_001)], "golden_set.queries"),
    ],
)
async def test_golden_sets_that_are_refused(
    caller: Caller, queries: Sequence[pb.GoldenQuery], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await caller.set(*queries)
    assert caught.value.violations[0].field == field


async def test_modes_that_are_refused(caller: Caller) -> None:
    for modes, field in (((0,), "modes[0]"), ((1, 9), "modes[1]"), ((1, 2, 3, 1), "modes")):
        with pytest.raises(InvalidArgument) as caught:
            await caller.evaluate(*modes)
        assert caught.value.violations[0].field == field


@pytest.mark.alone  # the model takes both cores
async def test_the_projects_own_documents_are_found(
    tmp_path: Path,
    milvus_server: MilvusLite,
    kb: str,
) -> None:
    folder = cached_embedding_model()
    if folder is None:
        pytest.skip(
            "NOT RUN with the built-in embedding model: it is not on this machine; `make run` fetches it"
        )
    golden = read_golden_set(GOLDEN)
    paths = sorted({judgment.path for one in golden.queries for judgment in one.relevant})
    async with AsyncExitStack() as stack:
        models = Models(
            builtin=LocalSource(folder=folder),
            configs=None,
            secrets=SecretFiles(None),
            open_embedder=Factory(threads=2, max_queued_texts=2048),
        )
        stack.push_async_callback(models.aclose)
        target = await stack.enter_async_context(serve_in_process([service(Embedding(models=models))]))
        chosen = settings(
            tmp_path,
            milvus_uri=milvus_server.uri,
            embedding_target=target,
            tokenizer_file=folder / "tokenizer.json",
        )
        client = await stack.enter_async_context(running(chosen))
        caller = Caller(client, kb)
        await client.create(kb, embedding_model="models/builtin")
        await caller.ingest({path: (ROOT / path).read_bytes() for path in paths}, within_s=60)
        await caller.set(*golden.queries)
        last = (await caller.evaluate(DENSE, SPARSE, HYBRID))[-1]
    assert list(last.missing_paths) == []
    hybrid = last.evaluations[2]
    shown = {kb_pb.SearchMode.Name(one.mode): round(one.ndcg_at_10, 3) for one in last.evaluations}
    assert hybrid.ndcg_at_10 > 0.8, shown
    assert hybrid.recall_at_10 > 0.95, shown
