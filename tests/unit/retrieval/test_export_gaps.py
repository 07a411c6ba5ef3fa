"""An export of what is only half loaded is an error, never a short file."""

from dataclasses import replace
from typing import Any

import pytest

from retrieval.core.model import Capabilities, Place
from servicekit.context import Caller, scope
from servicekit.errors import Unavailable
from tests.unit.retrieval.test_ingest import FIRST, World, world  # noqa: F401


class Gap:
    """A store that may leave chunks out, and does from a given look on."""

    def __init__(self, store: Any, *, after: int) -> None:
        self._store = store
        self._whole = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def capabilities(self) -> Capabilities:
        known: Capabilities = await self._store.capabilities()
        return replace(known, may_miss=True)

    async def findable(self, place: Place) -> int:
        self._whole -= 1
        there: int = await self._store.findable(place)
        return there if self._whole >= 0 else there - 1


async def exported(world: World, *, whole: int) -> int:  # noqa: F811
    """Chunks that come, from a store that is whole at so many looks."""
    await world.upload(FIRST, "a.md")
    await world.worker().run_until_idle()
    world.knowledge_bases._store = Gap(world.store, after=whole)
    with scope(caller=Caller("default", "test")):
        walk = world.knowledge_bases.chunks("kb", filter_=None, with_vectors=False)
        return sum([len(batch) async for batch in walk])


@pytest.mark.parametrize("whole", [0, 1])
async def test_it_breaks_off(world: World, whole: int) -> None:  # noqa: F811
    with pytest.raises(Unavailable, match="1 chunks cannot be found"):
        await exported(world, whole=whole)


async def test_a_whole_one_ends(world: World) -> None:  # noqa: F811
    assert await exported(world, whole=2) > 1
