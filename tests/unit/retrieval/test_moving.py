"""A document that moves keeps its vectors, and leaves nothing behind wherever it is killed."""

from datetime import timedelta

import numpy as np
import pytest

from retrieval.core.model import Document, DocumentState
from retrieval.core.names import document_id
from servicekit.errors import AlreadyExists, InvalidArgument, NotFound, Unavailable
from tests.support.ingest_upkeep import all_chunks, upkeep
from tests.unit.retrieval.test_ingest import (  # noqa: F401
    FIRST,
    LIMITS,
    SECOND,
    Fuse,
    Killed,
    World,
    world,
)

BROKEN = bytes(range(1, 256)) * 8
AGES = timedelta(minutes=5)


async def indexed(world: World, text: str = FIRST, path: str = "a.md") -> Document:  # noqa: F811
    document = await world.upload(text, path)
    await world.worker().run_until_idle()
    return document


async def settle(world: World) -> None:  # noqa: F811
    world.clock.advance(AGES)
    await world.worker().run_until_idle()
    await world.documents.sweep()


async def test_its_vectors_are_copied(world: World) -> None:  # noqa: F811
    old = await indexed(world)
    before = {c.record.text: c for c in await all_chunks(world)}
    world.embedder.error = Unavailable("must not be asked", reason="MODEL_UNAVAILABLE")
    moved = await upkeep(world).move("kb", old.id, "b/c.md")
    assert (moved.id, moved.path, moved.state) == (document_id("b/c.md"), "b/c.md", DocumentState.PENDING)
    assert (await world.knowledge_bases.get("kb")).counts.pending == 1
    with pytest.raises(NotFound):
        await world.documents.get("kb", old.id)
    await world.worker().run_until_idle()
    await world.documents.sweep()
    done = await world.documents.get("kb", moved.id)
    assert (done.state, done.moved_from, done.create_time) == (DocumentState.READY, "", old.create_time)
    after = await all_chunks(world)
    assert [c.record.id for c in after] == world.expected(moved.id, FIRST)
    assert {c.record.title for c in after} == {"b/c.md"}
    assert all(np.array_equal(c.vector, before[c.record.text].vector) for c in after)  # type: ignore[arg-type]
    assert len(world.originals()) == 1


@pytest.mark.parametrize("after", [False, True])
async def test_killed_at_any_call(world: World, after: bool) -> None:  # noqa: F811
    here = await indexed(world)
    kills = 0
    while True:
        here = await upkeep(world).move("kb", here.id, f"{kills}.md")
        fuse = Fuse(at=kills + 1, after=after)
        try:
            await world.worker(fuse).run_until_idle()
            if fuse.calls <= kills:
                break
        except Killed:
            pass
        kills += 1
        await settle(world)
        assert [c.record.id for c in await all_chunks(world)] == world.expected(here.id, FIRST)
    assert kills > 6
    assert len(world.originals()) == 1


async def test_until_it_is_there_its_chunks_stay_where_they_were(world: World) -> None:  # noqa: F811
    old = await indexed(world)
    moved = await upkeep(world).move("kb", old.id, "b.md")
    world.clock.advance(AGES)
    await world.documents.sweep()
    assert await world.stored(old.id) == world.expected(old.id, FIRST)
    await settle(world)
    assert await world.stored(old.id) == []
    assert await world.stored(moved.id) == world.expected(moved.id, FIRST)


async def test_moved_again_before_it_has_arrived(world: World) -> None:  # noqa: F811
    old = await indexed(world)
    second = await upkeep(world).move("kb", old.id, "b.md")
    world.embedder.error = Unavailable("must not be asked", reason="MODEL_UNAVAILABLE")
    third = await upkeep(world).move("kb", second.id, "c.md")
    await settle(world)
    assert [c.record.id for c in await all_chunks(world)] == world.expected(third.id, FIRST)


async def test_and_back(world: World) -> None:  # noqa: F811
    old = await indexed(world)
    second = await upkeep(world).move("kb", old.id, "b.md")
    back = await upkeep(world).move("kb", second.id, "a.md")
    assert back.id == old.id
    await settle(world)
    await settle(world)
    assert [c.record.id for c in await all_chunks(world)] == world.expected(old.id, FIRST)
    assert len(world.originals()) == 1


async def test_another_upload_takes_its_old_path_meanwhile(world: World) -> None:  # noqa: F811
    old = await indexed(world)
    moved = await upkeep(world).move("kb", old.id, "b.md")
    again = await world.upload(SECOND, "a.md")
    assert again.id == old.id
    await settle(world)
    await settle(world)
    assert await world.stored(moved.id) == world.expected(moved.id, FIRST)
    assert await world.stored(old.id) == world.expected(old.id, SECOND)
    assert len(world.originals()) == 2


async def test_deleted_before_it_has_arrived(world: World) -> None:  # noqa: F811
    old = await indexed(world)
    moved = await upkeep(world).move("kb", old.id, "b.md")
    await world.documents.delete("kb", moved.id)
    await settle(world)
    assert await all_chunks(world) == []
    assert world.originals() == []


async def test_chunks_that_are_not_all_there_are_made_anew(world: World) -> None:  # noqa: F811
    old = await indexed(world)
    place = (await world.knowledge_bases.get("kb")).knowledge_base.place
    await world.store.delete_chunks(place, (await world.stored(old.id))[2:5])
    moved = await upkeep(world).move("kb", old.id, "b.md")
    await settle(world)
    assert [c.record.id for c in await all_chunks(world)] == world.expected(moved.id, FIRST)


async def test_a_document_that_was_not_indexed_moves_too(world: World) -> None:  # noqa: F811
    waiting = await world.upload(FIRST)
    moved = await upkeep(world).move("kb", waiting.id, "b.md")
    await settle(world)
    assert [c.record.id for c in await all_chunks(world)] == world.expected(moved.id, FIRST)


async def test_what_is_refused(world: World) -> None:  # noqa: F811
    old = await indexed(world)
    await indexed(world, SECOND, "b.md")
    with pytest.raises(AlreadyExists) as exists:
        await upkeep(world).move("kb", old.id, "b.md")
    assert exists.value.reason == "DOCUMENT_ALREADY_EXISTS"
    with pytest.raises(InvalidArgument) as kind:
        await upkeep(world).move("kb", old.id, "a.html")
    assert "text/markdown" in kind.value.message
    with pytest.raises(NotFound):
        await upkeep(world).move("kb", document_id("x"), "y.md")
    assert (await upkeep(world).move("kb", old.id, "a.md")).state == DocumentState.READY


async def test_failed_documents_are_retried(world: World) -> None:  # noqa: F811
    failed = [await indexed(world, BROKEN, f"{number}.md") for number in range(3)]  # type: ignore[arg-type]
    await indexed(world)
    assert await upkeep(world).retry("kb", [failed[1].id, document_id("a.md"), document_id("none")]) == 1
    assert await upkeep(world).retry("kb", []) == 2
    counts = (await world.knowledge_bases.get("kb")).counts
    assert (counts.pending, counts.ready, counts.failed) == (3, 1, 0)
    await world.worker().run_until_idle()
    found = await world.documents.get("kb", failed[0].id)
    assert (found.state, found.attempts) == (DocumentState.FAILED, 1)
    with pytest.raises(NotFound):
        await upkeep(world).retry("not-there", [])
