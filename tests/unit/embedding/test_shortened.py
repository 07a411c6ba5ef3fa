"""Vectors with fewer elements than the model's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from embedding.adapters.factory import Factory
from embedding.core.models import Models
from embedding.core.ports import LocalSource, RemoteSource, TextKind
from servicekit.errors import FailedPrecondition
from tests.support.embedding_fakes import FakeConfigs, FakeOpen, FakeSecrets
from tests.support.tiny_embedding import DIMENSION, write_tiny_model

CONFIGS = FakeConfigs(
    {
        ("t", f"cut-{n}"): {"type": "Embedding", "provider": "BuiltIn", "embedding": {"dimensions": n}}
        for n in (8, 9, DIMENSION)
    }
)


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    builtin = LocalSource(folder=write_tiny_model(tmp_path / "m", shorter=(16, 8, 999)))
    factory = Factory(threads=1, max_queued_texts=100)
    opened = Models(builtin=builtin, configs=CONFIGS, secrets=FakeSecrets(), open_embedder=factory)
    yield opened
    await opened.aclose()


async def test_the_first_elements_at_length_one(models: Models) -> None:
    async with models.lease("t", "builtin") as whole, models.lease("t", "cut-8") as cut:
        full = (await whole.embed(["a text", "another"], TextKind.QUERY)).vectors
        result = await cut.embed(["a text", "another"], TextKind.QUERY)
        expected = full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True)
        assert np.allclose(result.vectors, expected, atol=1e-6)
        assert len(result.tokens) == 2
        info, native = await cut.describe(), await whole.describe()
    assert info.dimension == 8
    assert info.fingerprint != native.fingerprint
    assert native.shorter == (8, 16)


async def test_the_models_own_dimension_changes_nothing(models: Models) -> None:
    async with models.lease("t", "builtin") as whole, models.lease("t", f"cut-{DIMENSION}") as same:
        assert await same.describe() == await whole.describe()


async def test_what_the_model_does_not_allow_is_refused(models: Models) -> None:
    async with models.lease("t", "cut-9") as cut:
        with pytest.raises(FailedPrecondition, match=r"dimensions 9: .* of 8, 16, 32 elements") as caught:
            await cut.describe()
        with pytest.raises(FailedPrecondition):
            await cut.embed(["a"], TextKind.QUERY)
    assert caught.value.reason == "MODEL_REJECTED"


async def test_an_endpoint_is_asked_for_them() -> None:
    opener, remote = FakeOpen(), RemoteSource(url="http://x/v1", model="m")
    models = Models(builtin=remote, configs=CONFIGS, secrets=FakeSecrets(), open_embedder=opener)
    async with models.lease("t", "cut-8"), models.lease("t", "builtin"):
        pass
    dimensions = [each.source.dimensions for each in opener.opened if isinstance(each.source, RemoteSource)]
    assert dimensions == [8, None]
