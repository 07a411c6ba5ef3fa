"""A watched folder and originals in S3, through the whole service on a real Milvus Lite."""

import asyncio
import os
import uuid
from pathlib import Path

from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from servicekit.testing import serve_in_process
from tests.support.milvus import MilvusLite, milvus_lite, milvus_server  # noqa: F401
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient, running, settings
from tests.support.seaweed import BUCKET, KEY, SECRET, Seaweed, shared_seaweed


async def until_paths(client: RetrievalClient, kb: str, *paths: str) -> kb_pb.KnowledgeBase:
    """Once these documents, and no others, are READY."""
    listing = pb.ListDocumentsRequest(parent=f"knowledgeBases/{kb}")
    async with asyncio.timeout(40):
        while True:
            found = await client.rpc.unary(client.stub.ListDocuments, listing)
            ready = [d.path for d in found.documents if d.state == kb_pb.DOCUMENT_STATE_READY]
            if ready == sorted(paths) and len(found.documents) == len(paths):
                assert {d.source for d in found.documents} == {"notes"}
                request = pb.GetKnowledgeBaseRequest(name=f"knowledgeBases/{kb}")
                return await client.rpc.unary(client.stub.GetKnowledgeBase, request)
            await asyncio.sleep(0.1)  # nobody tells when a document is READY


async def originals(seaweed: Seaweed, folder: str, count: int) -> None:
    async with asyncio.timeout(20):
        while len(await asyncio.to_thread(seaweed.files, folder)) != count:  # noqa: ASYNC110  # another process
            await asyncio.sleep(0.1)


async def test_a_folder_is_followed_and_its_originals_are_in_s3(
    tmp_path: Path,
    milvus_server: MilvusLite,  # noqa: F811
) -> None:
    seaweed = shared_seaweed()
    kb, prefix = f"kb-{uuid.uuid4().hex[:12]}", uuid.uuid4().hex
    notes = tmp_path / "root" / "default" / "notes"
    notes.mkdir(parents=True)
    (notes / "foxes.md").write_text("The red fox hunts at night.")
    (notes / "cats.md").write_text("Cats sleep all day.")
    source = kb_pb.Source(
        name="notes", folder=kb_pb.FolderSource(path="notes"), mirror_deletes=True, interval_seconds=5
    )
    embedding = HashEmbeddingServicer()
    async with serve_in_process([embedding.service()]) as target:
        service = settings(
            tmp_path,
            milvus_uri=milvus_server.uri,
            embedding_target=target,
            originals=f"s3://{BUCKET}/{prefix}",
            s3_endpoint=seaweed.endpoint,
            s3_access_key_id=KEY,
            s3_secret_access_key=SECRET,
            scratch_dir=tmp_path,
            source_root=tmp_path / "root",
        )
        async with running(service) as client:
            with seaweed.silent():  # S3 is away when the first look comes
                await client.create(kb, sources=[source])
            shown = await until_paths(client, kb, "notes/cats.md", "notes/foxes.md")
            await originals(seaweed, f"{prefix}/default/", 2)
            (status,) = shown.source_statuses
            assert (status.name, status.files) == ("notes", 2)
            found = await client.search(kb, "foxes hunt")
            assert found.chunks[0].text == "The red fox hunts at night."
            (notes / "foxes.md").unlink()
            await until_paths(client, kb, "notes/cats.md")
            await originals(seaweed, f"{prefix}/default/", 1)
            assert not [name for name in os.listdir(tmp_path) if name.startswith("agentteams-original-")]
