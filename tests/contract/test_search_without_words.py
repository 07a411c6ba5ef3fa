"""Searches on a Milvus without keyword search: less than was asked for, and said so."""

import asyncio
import uuid
from pathlib import Path

from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from servicekit.testing import serve_in_process
from tests.support.milvus_server import MilvusStandalone
from tests.support.retrieval import HashEmbeddingServicer, running, settings

TEXTS = {
    "hunt": "The red fox hunts at night.",
    "copy": "The red fox hunts at night.",
    "den": "A fox lives in a den below the roots.",
    "cat": "Cats sleep all day long.",
}


async def test_a_server_without_keyword_search(tmp_path: Path, milvus_standalone: MilvusStandalone) -> None:
    embedding = HashEmbeddingServicer()
    kb = f"kb-{uuid.uuid4().hex[:12]}"
    async with (
        serve_in_process([embedding.service()]) as target,
        running(settings(tmp_path, milvus_uri=milvus_standalone.uri, embedding_target=target)) as client,
    ):
        await client.create(kb)
        for name, text in TEXTS.items():
            await client.upload(kb, f"{name}.txt", text.encode())
        get = pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
        async with asyncio.timeout(60):
            while True:
                state = await client.rpc.unary(client.stub.GetKnowledgeBase, get)
                if state.documents.ready == len(TEXTS):
                    break
                await asyncio.sleep(0.1)
        for mode in (kb_pb.SEARCH_MODE_HYBRID, kb_pb.SEARCH_MODE_SPARSE):
            found = await client.search(kb, "red fox hunts", mode=mode, top_k=3)
            assert found.outcome == pb.SEARCH_OUTCOME_DEGRADED
            assert [reason.code for reason in found.reasons] == [pb.SearchReason.CODE_SPARSE_UNSUPPORTED]
            assert "only vectors were compared" in found.reasons[0].message
            assert [chunk.document_title for chunk in found.chunks][:2] == ["copy.txt", "hunt.txt"]
        every = await client.search(
            kb,
            "red fox hunts",
            mode=kb_pb.SEARCH_MODE_DENSE,
            top_k=2,
            more_queries=["sleep"],
            min_similarity=0.1,
            relevance_weight=0.3,
            max_per_document=1,
            neighbours=1,
            filter=filter_pb.Filter(
                none_of=filter_pb.Filter(
                    compare=filter_pb.Comparison(
                        field="$path",
                        operator=filter_pb.Comparison.OPERATOR_EQUAL,
                        value=filter_pb.Value(string_value="copy.txt"),
                    )
                )
            ),
        )
        assert every.outcome == pb.SEARCH_OUTCOME_OK, every.reasons
        assert [chunk.document_title for chunk in every.chunks] == ["hunt.txt", "cat.txt"]
        embedding.go_down()
        failed = await client.search(kb, "red fox hunts")
        assert (failed.outcome, list(failed.chunks)) == (pb.SEARCH_OUTCOME_FAILED, [])
        assert [reason.code for reason in failed.reasons] == [
            pb.SearchReason.CODE_SPARSE_UNSUPPORTED,
            pb.SearchReason.CODE_EMBEDDING_UNAVAILABLE,
        ]
