"""Documents whose metadata change keep their vectors, wherever the worker is killed."""

from dataclasses import replace

import numpy as np
import pytest

from retrieval.core.model import Document, DocumentState, MetadataField, MetadataType, Scalar
from servicekit.errors import InvalidArgument, Unavailable
from tests.support.ingest_upkeep import all_chunks, upkeep
from tests.unit.retrieval.test_ingest import (  # noqa: F401
    FIRST,
    SECOND,
    SPEC,
    Fuse,
    Killed,
    World,
    world,
)
from tests.unit.retrieval.test_moving import settle

FIELDS = (
    MetadataField(name="year", type=MetadataType.INT64),
    MetadataField(name="lang", type=MetadataType.STRING),
)


async def indexed(world: World) -> Document:  # noqa: F811
    await world.knowledge_bases.update("kb", lambda spec: replace(spec, metadata_fields=FIELDS))
    document = await world.upload(FIRST, year=2020, lang="en")
    await world.worker().run_until_idle()
    return document


async def metadata(world: World) -> list[dict[str, Scalar]]:  # noqa: F811
    found = [dict(chunk.record.metadata) for chunk in await all_chunks(world)]
    assert all(one == found[0] for one in found)
    return found


async def test_every_chunk_has_the_metadata_of_its_document(world: World) -> None:  # noqa: F811
    await indexed(world)
    assert len(await metadata(world)) > 2
    assert (await metadata(world))[0] == {"year": 2020, "lang": "en"}


async def test_other_metadata_are_stored_without_embedding(world: World) -> None:  # noqa: F811
    document = await indexed(world)
    before = await all_chunks(world)
    revision = (await world.knowledge_bases.get("kb")).knowledge_base.revision
    world.embedder.error = Unavailable("must not be asked", reason="MODEL_UNAVAILABLE")
    changed = await world.upload(FIRST, year=2021)
    assert (changed.id, changed.state) == (document.id, DocumentState.PENDING)
    await world.worker().run_until_idle()
    done = await world.documents.get("kb", document.id)
    assert (done.state, done.metadata, done.chunk_count) == (DocumentState.READY, {"year": 2021}, len(before))
    assert (await metadata(world))[0] == {"year": 2021}
    after = await all_chunks(world)
    assert [c.record.id for c in after] == [c.record.id for c in before]
    assert all(np.array_equal(a.vector, b.vector) for a, b in zip(after, before, strict=True))  # type: ignore[arg-type]
    assert len(world.originals()) == 1
    assert (await world.knowledge_bases.get("kb")).knowledge_base.revision > revision


async def test_the_same_metadata_change_nothing(world: World) -> None:  # noqa: F811
    await indexed(world)
    assert (await world.upload(FIRST, lang="en", year=2020)).state == DocumentState.READY
    assert len(world.originals()) == 1


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_any_call(world: World, after: bool) -> None:  # noqa: F811
    document = await indexed(world)
    kills = 0
    while True:
        await world.upload(FIRST, year=kills)
        fuse = Fuse(at=kills + 1, after=after)
        try:
            await world.worker(fuse).run_until_idle()
            if fuse.calls <= kills:
                break
        except Killed:
            pass
        # They can be found all the time, with these or those metadata.
        assert sorted({c.record.id for c in await all_chunks(world)}) == sorted(
            world.expected(document.id, FIRST)
        )
        await settle(world)
        assert [c.record.id for c in await all_chunks(world)] == world.expected(document.id, FIRST)
        assert (await metadata(world))[0] == {"year": kills}
        kills += 1
    assert kills > 4
    assert len(world.originals()) == 1


async def test_other_bytes_take_other_metadata_along(world: World) -> None:  # noqa: F811
    document = await indexed(world)
    await world.upload(FIRST, year=1)
    await world.upload(SECOND, year=2)
    await world.worker().run_until_idle()
    assert await world.stored(document.id) == world.expected(document.id, SECOND)
    assert (await metadata(world))[0] == {"year": 2}


async def test_a_document_that_moves_keeps_its_metadata(world: World) -> None:  # noqa: F811
    document = await indexed(world)
    await world.upload(FIRST, year=3)
    moved = await upkeep(world).move("kb", document.id, "b.md")
    await settle(world)
    assert (await world.documents.get("kb", moved.id)).metadata == {"year": 3}
    assert (await metadata(world))[0] == {"year": 3}
    assert [c.record.id for c in await all_chunks(world)] == world.expected(moved.id, FIRST)


async def test_metadata_that_do_not_fit_store_nothing(world: World) -> None:  # noqa: F811
    assert SPEC.metadata_fields == ()
    with pytest.raises(InvalidArgument, match="no metadata fields"):
        await world.upload(FIRST, year=2020)
    await indexed(world)
    for wrong in ({"year": "new"}, {"colour": "red"}):
        with pytest.raises(InvalidArgument):
            await world.upload(SECOND, **wrong)
    assert len(world.originals()) == 1
