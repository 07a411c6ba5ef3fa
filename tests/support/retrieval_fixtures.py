"""What tests of the retrieval service begin with: a stand-in embedding service, the service, a name.

A test module imports `client`, `embedding`, `kb` and `milvus_server`; a `retrieval_settings` of its own makes
the service another one.
"""

import uuid
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from servicekit.testing import serve_in_process
from tests.support.milvus import MilvusLite, milvus_server
from tests.support.retrieval import HashEmbeddingServicer, RetrievalClient, running, settings

__all__ = ["Served", "client", "embedding", "kb", "milvus_server", "retrieval_settings"]

Served = tuple[HashEmbeddingServicer, str]
"""The embedding service, and where it is served."""


@pytest.fixture
async def embedding() -> AsyncIterator[Served]:
    servicer = HashEmbeddingServicer()
    async with serve_in_process([servicer.service()]) as target:
        yield servicer, target


@pytest.fixture
def retrieval_settings() -> Mapping[str, Any]:
    """What is not as usual."""
    return {}


@pytest.fixture
async def client(
    tmp_path: Path,
    milvus_server: MilvusLite,
    embedding: Served,
    retrieval_settings: Mapping[str, Any],
) -> AsyncIterator[RetrievalClient]:
    """Of a service whose data are the test's alone, but for Milvus."""
    chosen = settings(
        tmp_path, milvus_uri=milvus_server.uri, embedding_target=embedding[1], **retrieval_settings
    )
    async with running(chosen) as client:
        yield client


@pytest.fixture
def kb() -> str:
    """A name that no other test has."""
    return f"kb-{uuid.uuid4().hex[:12]}"
