"""What is refused before any model sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedding.core.embedding import Embedding
from embedding.core.models import Models
from embedding.core.ports import LocalSource, TextKind
from servicekit.errors import InvalidArgument
from tests.support.embedding_fakes import FakeOpen, FakeSecrets


@pytest.fixture
def opener() -> FakeOpen:
    return FakeOpen()


@pytest.fixture
def embedding(opener: FakeOpen) -> Embedding:
    builtin = LocalSource(folder=Path("m"))
    models = Models(builtin=builtin, configs=None, secrets=FakeSecrets(), open_embedder=opener)
    return Embedding(models=models)


async def test_texts_and_kind_reach_the_model(embedding: Embedding, opener: FakeOpen) -> None:
    done = await embedding.embed("default", "models/builtin", ["a", "longer than eight"], TextKind.QUERY)
    assert opener.opened[0].calls == [(["a", "longer than eight"], TextKind.QUERY)]
    assert done.result.truncated == [1]
    assert done.info.fingerprint == "f"


@pytest.mark.parametrize("name", ["", "builtin", "models/", "models/UPPER", "models/a/b", "models/../x"])
async def test_malformed_names(embedding: Embedding, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await embedding.embed("default", name, ["a"], TextKind.QUERY)
    assert [v.field for v in caught.value.violations] == ["model"]
    with pytest.raises(InvalidArgument) as caught:
        await embedding.describe("default", name)
    assert [v.field for v in caught.value.violations] == ["name"]


async def test_every_empty_text_is_named(embedding: Embedding, opener: FakeOpen) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await embedding.embed("default", "models/builtin", ["a", "", "b", " \n\t\u2003"], TextKind.PASSAGE)
    assert [v.field for v in caught.value.violations] == ["texts[1]", "texts[3]"]
    assert caught.value.message.startswith("texts[1]: ")
    assert opener.opened == []


@pytest.mark.parametrize("count", [0, 257])
async def test_number_of_texts(embedding: Embedding, count: int) -> None:
    with pytest.raises(InvalidArgument, match=f"1 to 256.*{count}"):
        await embedding.embed("default", "models/builtin", ["a"] * count, TextKind.PASSAGE)


async def test_256_texts_are_fine(embedding: Embedding) -> None:
    done = await embedding.embed("default", "models/builtin", ["a"] * 256, TextKind.PASSAGE)
    assert done.result.vectors.shape == (256, 2)
