"""A knowledge base that another namespace may search: the API server, the operator and retrieval together."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from servicekit.errors import NotFound, ServiceError
from servicekit.testing import TEST_KEY, rpc_as, serve_in_process
from tests.integration.test_operator_knowledge import apply, knowledge, kubectl, model
from tests.integration.test_operator_teams import team
from tests.support.kube import Cluster
from tests.support.milvus import MilvusLite, milvus_lite, milvus_server  # noqa: F401
from tests.support.operator_process import WAIT_S, await_condition, fake_endpoint, running_operator
from tests.support.operator_process import model as chat
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient, running, settings

pytestmark = pytest.mark.slow
SELECTOR = {"from": "Selector", "selector": {"matchLabels": {"rag": "yes"}}}


@pytest.fixture
async def embedding() -> AsyncIterator[str]:
    async with serve_in_process([HashEmbeddingServicer().service()]) as target:
        yield target


async def found(retrieval: RetrievalClient, owner: str, tenant: str) -> bool:
    """Searches with the key that pods of that tenant have, which speaks for it alone."""
    async with rpc_as(retrieval.target, tenant=tenant, key=TEST_KEY.of_tenant(tenant)) as rpc:
        try:
            answer = await RetrievalClient(rpc).search("docs", "fox", owner_tenant=owner)
        except NotFound:
            return False
    return len(answer.chunks) == 1


async def until(wanted: bool, retrieval: RetrievalClient, owner: str, tenant: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while await found(retrieval, owner, tenant) is not wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.2)


async def test_the_owner_allows_by_labels_and_takes_it_back(
    cluster: Cluster,
    tmp_path: Path,
    milvus_server: MilvusLite,  # noqa: F811
    embedding: str,
) -> None:
    made = settings(tmp_path, milvus_uri=milvus_server.uri, embedding_target=embedding)
    with cluster.namespace("owner") as owner, cluster.namespace("user") as user, fake_endpoint() as endpoint:
        async with running(made, tenant=owner) as retrieval:
            with running_operator(
                cluster, tmp_path, namespaces=[owner, user], key=TEST_KEY.to_file(),
                retrieval_target=retrieval.target, lease_namespace=owner, lease_s="6",
            ) as operator:  # fmt: skip
                await apply(cluster, owner, model(), knowledge(allowedNamespaces=SELECTOR))
                await asyncio.to_thread(await_condition, cluster, owner, "kb/docs", "Ready", "Ready")
                await retrieval.upload("docs", "a.md", b"# Foxes\n\nThe red fox hunts at night.\n")
                use = {"name": "docs", "knowledgeBaseRef": {"name": "docs", "namespace": owner}}
                await apply(cluster, user, chat(endpoint), team(knowledge=[use]))

                async def told(reason: str) -> dict[str, Any]:
                    return await asyncio.to_thread(
                        await_condition, cluster, user, "at/t", "ResolvedRefs", reason
                    )

                status = json.dumps((await told("RefNotPermitted"))["status"])
                assert f'does not allow namespace \\"{user}\\"' in status
                assert not await found(retrieval, owner, user)
                await kubectl(cluster, "label", "namespace", user, "rag=yes")
                await told("AllFound")
                await until(True, retrieval, owner, user)
                # Of another's only the revision can be read, and nothing can be changed or listed.
                async with rpc_as(retrieval.target, tenant=user, key=TEST_KEY.of_tenant(user)) as rpc:
                    client = RetrievalClient(rpc)
                    request = pb.GetKnowledgeBaseRequest(name="knowledgeBases/docs", owner_tenant=owner)
                    seen = await rpc.unary(client.stub.GetKnowledgeBase, request)
                    assert (seen.name, seen.embedding_model) == ("knowledgeBases/docs", "")
                    assert seen.revision > 0
                    with pytest.raises(NotFound):
                        await client.upload("docs", "b.md", b"mine now")
                # The key of one tenant cannot say that it is another.
                async with rpc_as(retrieval.target, tenant=owner, key=TEST_KEY.of_tenant(user)) as rpc:
                    with pytest.raises(ServiceError):
                        await RetrievalClient(rpc).search("docs", "fox")
                await kubectl(cluster, "label", "namespace", user, "rag-")
                await told("RefNotPermitted")
                await until(False, retrieval, owner, user)
                assert "Traceback" not in operator.log
