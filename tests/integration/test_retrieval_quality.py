"""Quality by schedule in the real service, on a real Milvus Lite."""

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from agentteams.retrieval.v1 import evaluation_pb2 as evaluation_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import quality_pb2 as pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as service_pb
from google.protobuf.field_mask_pb2 import FieldMask

from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, NotFound
from tests.support.retrieval import RetrievalClient
from tests.support.retrieval_fixtures import client, embedding, kb, milvus_server
from tests.support.stack import until

__all__ = ["client", "embedding", "kb", "milvus_server"]

GOOD, DEGRADED, UNKNOWN = pb.Quality.STATE_GOOD, pb.Quality.STATE_DEGRADED, pb.Quality.STATE_UNKNOWN
TEXTS = {"foxes.md": b"# Foxes\n\nThe red fox hunts at night.\n", "cats.md": b"# Cats\n\nCats sleep.\n"}
# So many that what is irrelevant does not come among the first by chance.
OTHERS = {f"{number}.md": f"# {number}\n\nThe fox hunts cats that sleep.\n".encode() for number in range(9)}
POLICY = pb.EvaluationPolicy(interval_seconds=5, thresholds=pb.QualityThresholds(mrr_at_10=0.9))


@pytest.fixture
def retrieval_settings() -> Mapping[str, Any]:
    return {"quality_poll_s": 0.2}


async def get(client: RetrievalClient, kb: str) -> kb_pb.KnowledgeBase:
    request = service_pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
    return await client.rpc.unary(client.stub.GetKnowledgeBase, request)


async def become(client: RetrievalClient, kb: str, state: int) -> pb.Quality:
    async def so() -> bool:
        return (await get(client, kb)).quality.state == state

    what = f"quality {pb.Quality.State.Name(state)}"  # type: ignore[arg-type]
    await until(so, within_s=60, what=what)
    return (await get(client, kb)).quality


async def set_golden_set(client: RetrievalClient, kb: str) -> None:
    golden = evaluation_pb.GoldenSet(name="animals")
    for path, text in (("foxes.md", "red fox hunts at night"), ("cats.md", "cats sleep")):
        golden.queries.add(id=path, query=text, relevant=[evaluation_pb.Judgment(path=path)])
    request = evaluation_pb.SetGoldenSetRequest(parent=f"knowledgeBases/{kb}", golden_set=golden)
    await client.rpc.unary(client.stub.SetGoldenSet, request)


async def test_documents_replaced_by_others_degrade_it_and_the_recovery_mends_it(
    client: RetrievalClient, kb: str
) -> None:
    made = await client.create(kb, evaluation=POLICY)
    assert made.evaluation == POLICY
    quality = (await get(client, kb)).quality
    assert (quality.state, quality.reason) == (UNKNOWN, pb.Quality.REASON_NO_GOLDEN_SET)
    assert made.quality == quality
    for path, data in TEXTS.items():
        await client.upload(kb, path, data)
    await set_golden_set(client, kb)
    good = await become(client, kb, GOOD)
    assert (good.golden_set, good.scores.queries, good.scores.mrr_at_10) == ("animals", 2, 1)
    assert good.next_time.seconds - good.scores.finish_time.seconds in (4, 5, 6)

    for path in TEXTS:
        await client.upload(kb, path, b"# Tax\n\nAn invoice has a number.\n")
    for path, data in OTHERS.items():
        await client.upload(kb, path, data)
    bad = await become(client, kb, DEGRADED)
    assert [(one.metric, one.threshold) for one in bad.shortfalls] == [("mrr_at_10", 0.9)]
    assert bad.shortfalls[0].value == bad.scores.mrr_at_10 < 0.9
    assert "MRR@10 is 0." in bad.message

    for path, data in TEXTS.items():
        await client.upload(kb, path, data)
    for path in OTHERS:
        await client.upload(kb, path, b"# Tax\n\nAn invoice has a number.\n")
    assert (await become(client, kb, GOOD)).shortfalls == []
    assert (await client.create(kb, evaluation=POLICY)).quality.state == GOOD  # the same again
    # The trend, newest first; each turn once.
    listed = await client.rpc.unary(
        client.stub.ListEvaluations, evaluation_pb.ListEvaluationsRequest(parent=f"knowledgeBases/{kb}")
    )
    scores = [one.mrr_at_10 for one in listed.evaluations]
    assert scores[0] == scores[-1] == 1
    assert min(scores) < 0.9
    times = [one.finish_time.ToMilliseconds() for one in listed.evaluations]
    assert all(later - earlier >= 5_000 for later, earlier in itertools.pairwise(times))

    update = service_pb.UpdateKnowledgeBaseRequest(
        knowledge_base=kb_pb.KnowledgeBase(name=f"knowledgeBases/{kb}"),
        update_mask=FieldMask(paths=["evaluation"]),
    )
    changed = await client.rpc.unary(client.stub.UpdateKnowledgeBase, update)
    assert not changed.HasField("evaluation")
    assert not (await get(client, kb)).HasField("quality")


async def test_bounds_and_tenants(client: RetrievalClient, kb: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.create(kb, evaluation=pb.EvaluationPolicy(interval_seconds=5))
    assert caught.value.violations[0].field == "knowledge_base.evaluation.thresholds"
    await client.create(kb, evaluation=POLICY)
    with scope(caller=Caller("other", "eve")), pytest.raises(NotFound):
        await get(client, kb)
    listed = await client.rpc.unary(client.stub.ListKnowledgeBases, service_pb.ListKnowledgeBasesRequest())
    (quality,) = [one.quality for one in listed.knowledge_bases if one.name == f"knowledgeBases/{kb}"]
    assert quality.state == UNKNOWN
