"""What every `Embedder` does, whatever is behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from embedding.adapters.factory import Factory
from embedding.core.ports import Embedder, LocalSource, RemoteSource, TextKind
from tests.support.model_server import ModelServer
from tests.support.tiny_embedding import MAX_INPUT_TOKENS, write_tiny_model

TEXTS = ["the iron tower", "a", "cheese and bread and wine", "Ünïcödé 漢字 🙂", "line\nbreak\ttab"]


@pytest.fixture(params=["onnx", "openai"])
async def embedder(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Embedder]:
    factory = Factory(threads=2, max_queued_texts=1000)
    if request.param == "onnx":
        opened = await factory(LocalSource(folder=write_tiny_model(tmp_path / "model")))
        yield opened
        await opened.aclose()
        return
    async with ModelServer(max_input_tokens=MAX_INPUT_TOKENS) as server:
        opened = await factory(RemoteSource(url=server.base_url, model="e"))
        yield opened
        await opened.aclose()


async def test_shape_type_and_unit_length(embedder: Embedder) -> None:
    result = await embedder.embed(TEXTS, TextKind.PASSAGE)
    info = await embedder.describe()
    assert result.vectors.dtype == np.float32
    assert result.vectors.shape == (len(TEXTS), info.dimension)
    assert np.allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-5)
    assert result.truncated == []
    assert result.input_tokens >= len(TEXTS)


async def test_describes_itself_before_the_first_text(embedder: Embedder) -> None:
    before = await embedder.describe()
    await embedder.embed(TEXTS, TextKind.QUERY)
    assert await embedder.describe() == before
    assert before.dimension > 0
    assert before.max_input_tokens > 0
    assert before.fingerprint
    assert before.name


async def test_many_texts_come_back_in_their_order(embedder: Embedder) -> None:
    # More than one batch of any adapter, lengths mixed so that sorting shows.
    texts = [f"{'word ' * (n % 7)}number {n}" for n in range(150)]
    together = await embedder.embed(texts, TextKind.PASSAGE)
    for index in (0, 1, 63, 149):
        alone = await embedder.embed([texts[index]], TextKind.PASSAGE)
        assert np.allclose(together.vectors[index], alone.vectors[0], atol=1e-5)
        others = np.delete(together.vectors, index, axis=0) @ alone.vectors[0]
        assert others.max() < 0.99999


async def test_equal_texts_get_equal_vectors(embedder: Embedder) -> None:
    first = await embedder.embed(TEXTS, TextKind.QUERY)
    second = await embedder.embed(TEXTS, TextKind.QUERY)
    assert np.array_equal(first.vectors, second.vectors)
    assert first.input_tokens == second.input_tokens


async def test_a_text_too_long_is_cut_and_named(embedder: Embedder) -> None:
    long = "the iron tower is tall and old " * 60
    result = await embedder.embed(["short", long, "also short", long + "!"], TextKind.PASSAGE)
    assert list(result.truncated) == [1, 3]
    # Only the beginning counts, so what follows changes nothing.
    assert np.allclose(result.vectors[1], result.vectors[3], atol=1e-6)
    info = await embedder.describe()
    assert info.max_input_tokens == MAX_INPUT_TOKENS
    assert result.input_tokens < 4 * info.max_input_tokens


async def test_a_huge_text_is_cut_too(embedder: Embedder) -> None:
    result = await embedder.embed(["x y " * 500_000], TextKind.PASSAGE)
    assert list(result.truncated) == [0]
    assert np.isfinite(result.vectors).all()
