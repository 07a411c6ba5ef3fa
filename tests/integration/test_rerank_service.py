"""Rerank over gRPC, its models from manifests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from agentteams.embedding.v1 import rerank_service_pb2 as pb
from agentteams.embedding.v1 import rerank_service_pb2_grpc as pb_grpc
from prometheus_client import REGISTRY

from embedding.adapters.factory import RerankFactory
from embedding.core.models import Rerankers
from embedding.core.ports import LocalSource
from embedding.core.reranking import Reranking
from embedding.servicer import rerank_service
from manifests import Catalogue
from manifests.endpoints import SecretFiles
from servicekit.client import RpcClient
from servicekit.errors import InvalidArgument, NotFound
from servicekit.testing import rpc_as, serve_in_process
from tests.support.rerank_server import RerankServer
from tests.support.tiny_embedding import write_tiny_reranker

MANIFEST = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: remote}}
spec:
  type: Rerank
  provider: OpenAICompatible
  model: r
  endpoint: {{url: "{url}"}}
  credentialsSecretKeyRef: {{name: models, key: api-key}}
---
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: embed}}
spec: {{type: Embedding, provider: BuiltIn}}
"""
PASSAGES = ["bread and cheese", "a tower of iron", "long " * 100]


@pytest.fixture
async def rpc(tmp_path: Path) -> AsyncIterator[RpcClient]:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "secrets" / "models").mkdir(parents=True)
    (tmp_path / "secrets" / "models" / "api-key").write_text("right\n")
    async with RerankServer("cohere", api_key="right") as server:
        (tmp_path / "manifests" / "models.yaml").write_text(MANIFEST.format(url=server.url))
        catalogue = Catalogue(tmp_path / "manifests")
        catalogue.load()
        assert catalogue.problems == []
        models = Rerankers(
            builtin=LocalSource(folder=write_tiny_reranker(tmp_path / "model")),
            configs=catalogue,
            secrets=SecretFiles(tmp_path / "secrets"),
            open_embedder=RerankFactory(threads=1, max_queued_texts=300),
        )
        async with (
            serve_in_process([rerank_service(Reranking(models=models))]) as target,
            rpc_as(target) as client,
        ):
            yield client
        await models.aclose()


async def rerank(rpc: RpcClient, model: str, query: str, *passages: str) -> pb.RerankResponse:
    request = pb.RerankRequest(model=model, query=query, passages=passages)
    stub = pb_grpc.RerankServiceStub(rpc.channel)
    return await rpc.unary(stub.Rerank, request, timeout=timedelta(seconds=20))


async def test_scores_over_the_wire(rpc: RpcClient) -> None:
    remote = await rerank(rpc, "models/remote", "iron tower", *PASSAGES)
    assert list(remote.scores) == [0, 1, 0]
    assert list(remote.truncated_indexes) == []
    local = await rerank(rpc, "models/builtin", "iron tower", *PASSAGES)
    assert len(set(local.scores)) == 3
    assert list(local.truncated_indexes) == [2]


async def test_calls_are_timed(rpc: RpcClient) -> None:
    def timed() -> float:
        return REGISTRY.get_sample_value("agentteams_embedding_rerank_seconds_count") or 0

    before = timed()
    await rerank(rpc, "models/builtin", "iron tower", *PASSAGES)
    assert timed() == before + 1


async def test_what_is_wrong_is_named(rpc: RpcClient) -> None:
    for field, model, query, passages in (
        ("model", "builtin", "q", ["p"]),
        ("query", "models/builtin", " ", ["p"]),
        ("passages", "models/builtin", "q", []),
        ("passages[1]", "models/builtin", "q", ["p", "\n"]),
        ("passages", "models/builtin", "q", ["p"] * 257),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await rerank(rpc, model, query, *passages)
        assert [v.field for v in caught.value.violations] == [field]
    with pytest.raises(NotFound, match="type Embedding; name a ModelConfig of type Rerank"):
        await rerank(rpc, "models/embed", "q", "p")
