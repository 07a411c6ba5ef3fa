"""The local model beyond the contract: batches, folders that are not what they should be."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

from embedding.adapters.factory import Factory
from embedding.adapters.onnx import plan_batches
from embedding.core.ports import LocalSource, TextKind
from servicekit.errors import ResourceExhausted
from tests.support.tiny_embedding import write_tiny_model


def test_batches_are_bounded_and_of_like_lengths() -> None:
    tokens = [256, 3, 250, 4, 128, 5, 1000] + [10] * 40
    batches = plan_batches(tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(tokens)))
    for batch in batches:
        widest = max(tokens[index] for index in batch)
        assert len(batch) <= 16
        assert len(batch) == 1 or widest * len(batch) <= 512
    assert [0, 2] in batches
    assert [6] in batches
    assert plan_batches([]) == []


async def test_a_graph_that_wants_token_types(tmp_path: Path) -> None:
    factory = Factory(threads=1, max_queued_texts=10)
    plain = await factory(LocalSource(folder=write_tiny_model(tmp_path / "a")))
    typed = await factory(LocalSource(folder=write_tiny_model(tmp_path / "b", token_types=True)))
    results = [await each.embed(["some words"], TextKind.QUERY) for each in (plain, typed)]
    assert np.allclose(results[0].vectors, results[1].vectors)
    for each in (plain, typed):
        await each.aclose()


@pytest.mark.parametrize("texts", [4, 40])
async def test_a_vector_does_not_depend_on_who_else_asks(tmp_path: Path, texts: int) -> None:
    folder = write_tiny_model(tmp_path / "m", swayed=True)
    embedder = await Factory(threads=1, max_queued_texts=100)(LocalSource(folder=folder))
    several = [f"text number {n}" for n in range(texts)]
    together = await embedder.embed(several, TextKind.PASSAGE)
    alone = await embedder.embed(several[:1], TextKind.PASSAGE)
    assert np.array_equal(together.vectors[0], alone.vectors[0])
    await embedder.aclose()


async def test_a_full_queue_refuses_and_empties_again(tmp_path: Path) -> None:
    embedder = await Factory(threads=1, max_queued_texts=100)(
        LocalSource(folder=write_tiny_model(tmp_path / "m"))
    )
    first = asyncio.create_task(embedder.embed(["text"] * 90, TextKind.PASSAGE))
    await asyncio.sleep(0)  # it is in the queue now
    with pytest.raises(ResourceExhausted) as caught:
        await embedder.embed(["text"] * 11, TextKind.PASSAGE)
    assert caught.value.retry_after is not None
    assert (await first).vectors.shape[0] == 90
    assert (await embedder.embed(["text"] * 11, TextKind.PASSAGE)).vectors.shape[0] == 11
    await embedder.aclose()


async def _load(folder: Path) -> None:
    await (await Factory(threads=1, max_queued_texts=10)(LocalSource(folder=folder))).aclose()


async def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.json: No such file.*AGENTTEAMS_BUILTIN_EMBEDDING_DIR"):
        await _load(tmp_path / "nothing")

    with pytest.raises(ValueError, match=r"gives \[1, 32\].*promises \[1, 384\]"):
        await _load(write_tiny_model(tmp_path / "a", promised=384))

    folder = write_tiny_model(tmp_path / "b")
    (folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match=r"model.onnx: cannot be loaded"):
        await _load(folder)

    folder = write_tiny_model(tmp_path / "c")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json: cannot be loaded"):
        await _load(folder)

    folder = write_tiny_model(tmp_path / "d")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dimension": "32"}))
    with pytest.raises(ValueError, match=r"config.json: dimension: "):
        await _load(folder)
