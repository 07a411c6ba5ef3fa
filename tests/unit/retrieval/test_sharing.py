"""Searching another tenant's knowledge base: only what its tenant allows, and as that tenant."""

from dataclasses import replace
from datetime import timedelta

import pytest

from retrieval.core.model import Outcome
from retrieval.core.sharing import as_owner, may_search
from servicekit.context import Caller, current_caller, remaining, scope
from servicekit.errors import NotFound
from tests.support.searching import World, fill


def allow(world: World, *tenants: str) -> None:
    spec = replace(world.catalogue.knowledge_base.spec, allowed_tenants=tenants)
    world.catalogue.knowledge_base = replace(world.catalogue.knowledge_base, spec=spec)


@pytest.mark.parametrize(
    ("allowed", "tenant", "may"),
    [
        ((), "default", True),
        ((), "b", False),
        (("b",), "b", True),
        (("b",), "c", False),
        (("b",), "", False),
        (("*",), "c", True),
        (("*",), "", False),
    ],
)
def test_who_may_search(allowed: tuple[str, ...], tenant: str, may: bool) -> None:
    world = World()
    allow(world, *allowed)
    assert may_search(world.catalogue.knowledge_base, tenant) is may


async def test_it_is_searched_by_whom_its_tenant_allows_and_no_other() -> None:
    world = World()
    await fill(world.store)
    allow(world, "b")
    with scope(caller=Caller("b", "test")):
        result = await world.search(owner_tenant="default")
        assert (result.outcome, result.hits[0].id) == (Outcome.OK, "c0")
        # Without the owner it is the caller's own that is meant, and there is none.
        with pytest.raises(NotFound, match="does not exist in your namespace"):
            await world.search()
    refusals = []
    for tenant, owner, id_ in (("c", "default", "kb"), ("c", "default", "none"), ("", "default", "kb")):
        with scope(caller=Caller(tenant, "test")), pytest.raises(NotFound) as caught:
            await world.search(owner_tenant=owner, knowledge_base=id_)
        refusals.append(caught.value)
    # Nobody can tell one that is not there from one that is not shared.
    assert {error.reason for error in refusals} == {"KNOWLEDGE_BASE_NOT_FOUND"}
    assert len({error.message.replace("/none", "/kb") for error in refusals}) == 1


async def test_the_models_are_asked_for_as_the_owner_within_the_same_time() -> None:
    world = World()
    with scope(caller=Caller("b", "someone", "gateway"), timeout=timedelta(seconds=7)):
        with as_owner(world.catalogue.knowledge_base):
            assert current_caller() == Caller("default", "someone", "gateway")
            left = remaining()
            assert left is not None
            assert timedelta(seconds=5) < left <= timedelta(seconds=7)
        assert current_caller().tenant == "b"
