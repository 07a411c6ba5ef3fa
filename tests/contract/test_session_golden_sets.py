"""Golden sets of teams, and who evaluates them: on SQLite and Postgres alike."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from session.core.golden_sets import NewFailure, NewGoldenSet, NewResult
from session.core.model import Owner
from tests.support.session_store import ADA, Kit, kit
from tests.support.sessions import databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

LEASE = timedelta(seconds=60)
NEW = NewGoldenSet(team="helpdesk", name="golden/team.yaml", sha256="s1", questions=2, payload=b"two")
OTHER = replace(NEW, sha256="s2", questions=3, payload=b"three")
NOBODY = Owner(tenant="acme", user="")


async def claim(kit: Kit, turn: int, *, token: str = "t1", sha256: str = "s1") -> bytes | None:
    return await kit.store.claim_golden_set(
        "acme", "helpdesk", sha256=sha256, turn=turn, token=token, lease=LEASE
    )


async def renew(kit: Kit, token: str = "t1", done: int = 1) -> bool:
    return await kit.store.renew_golden_set("acme", "helpdesk", token=token, lease=LEASE, done=done)


def result(id_: str, *, is_other: bool = False) -> NewResult:
    return NewResult(id=id_, payload=f"all of {id_}".encode(), newest=f"of {id_}".encode(), is_other=is_other)


async def test_the_same_set_again_changes_nothing_and_another_begins_anew(kit: Kit) -> None:
    first = await kit.store.set_golden_set("acme", NEW)
    assert (first.tenant, first.team, first.name, first.sha256, first.questions, first.turn) == (
        "acme", "helpdesk", "golden/team.yaml", "s1", 2, 0,
    )  # fmt: skip
    assert await claim(kit, 0) == b"two"
    assert await kit.store.end_golden_set("acme", "helpdesk", token="t1", end=result("e1"))
    kit.clock.advance(timedelta(hours=1))
    again = await kit.store.set_golden_set("acme", replace(NEW, name="other/name.yaml"))
    assert (again.set_time, again.newest, again.name) == (first.set_time, b"of e1", "other/name.yaml")
    other = await kit.store.set_golden_set("acme", OTHER)
    assert (other.questions, other.newest, other.newest_time, other.turn) == (3, b"", None, 2)
    assert await kit.store.golden_set("acme", "helpdesk") == other
    assert await kit.store.golden_set("globex", "helpdesk") is None
    await kit.store.drop_golden_set("globex", "helpdesk")
    await kit.store.drop_golden_set("acme", "helpdesk")
    assert await kit.store.golden_set("acme", "helpdesk") is None


async def test_one_of_many_that_claim_at_once_has_it_until_its_lease_ends(kit: Kit) -> None:
    await kit.store.set_golden_set("acme", NEW)
    found = await asyncio.gather(*(claim(kit, 0, token=f"t{n}") for n in range(6)))
    assert sorted(one for one in found if one is not None) == [b"two"]
    [winner] = [f"t{n}" for n, one in enumerate(found) if one is not None]
    held = await kit.store.golden_set("acme", "helpdesk")
    assert held is not None
    assert (held.turn, held.lease_expire_time) == (1, kit.clock.now() + LEASE)
    assert await claim(kit, 1, token="next") is None  # it is under way
    kit.clock.advance(LEASE * 0.9)
    assert await renew(kit, winner, done=1)
    kit.clock.advance(LEASE * 0.9)
    assert await claim(kit, 1, token="next") is None
    kit.clock.advance(LEASE)
    assert await renew(kit, winner, done=2)  # nobody has taken it meanwhile
    kit.clock.advance(LEASE * 1.1)
    assert await claim(kit, 1, token="next") == b"two"
    # What was killed, or slept, has lost it: it writes nothing.
    assert not await renew(kit, winner)
    assert await kit.store.end_golden_set("acme", "helpdesk", token=winner, end=result("late")) is None
    assert await kit.store.list_evaluations(NOBODY, team="", before=None, limit=10) == ()


async def test_a_claim_is_of_the_questions_and_the_turn_that_were_seen(kit: Kit) -> None:
    await kit.store.set_golden_set("acme", NEW)
    assert await claim(kit, 1) is None
    assert await claim(kit, 0, sha256="s2") is None
    assert await claim(kit, 0) == b"two"
    await kit.store.set_golden_set("acme", OTHER)  # while it is evaluated
    assert not await renew(kit)
    assert await kit.store.end_golden_set("acme", "helpdesk", token="t1", end=result("e1")) is None
    assert await claim(kit, 1, token="t2", sha256="s2") == b"three"


async def test_a_result_is_stored_with_the_end_and_the_one_of_another_revision_is_kept(kit: Kit) -> None:
    await kit.store.set_golden_set("acme", NEW)
    times, stored = [], None
    for turn, is_other in enumerate((False, True, False)):
        kit.clock.advance(timedelta(hours=1))
        times.append(kit.clock.now())
        assert await claim(kit, 2 * turn) == b"two"
        seen = await kit.store.golden_set("acme", "helpdesk")
        end = result(f"e{turn}", is_other=is_other)
        stored = await kit.store.end_golden_set("acme", "helpdesk", token="t1", end=end)
        # Who looked while it was under way does not begin it again.
        assert seen is not None
        assert await claim(kit, seen.turn, token="t2") is None
    assert stored is not None
    assert (stored.newest, stored.newest_time) == (b"of e2", times[2])
    assert (stored.former, stored.former_time) == (b"of e0", times[0])
    assert (stored.lease_expire_time, stored.done) == (None, 0)
    listed = await kit.store.list_evaluations(NOBODY, team="helpdesk", before=None, limit=10)
    assert [(one.id, one.payload) for one in listed] == [
        ("e2", b"all of e2"), ("e1", b"all of e1"), ("e0", b"all of e0"),
    ]  # fmt: skip
    assert await kit.store.list_evaluations(ADA, team="helpdesk", before=None, limit=10) == ()


async def test_failures_are_kept_until_a_result(kit: Kit) -> None:
    await kit.store.set_golden_set("acme", NEW)
    assert await claim(kit, 0) == b"two"
    retry = kit.clock.now() + timedelta(seconds=30)
    failure = NewFailure(message="the model is away", failures=1, retry_time=retry)
    stored = await kit.store.end_golden_set("acme", "helpdesk", token="t1", end=failure)
    assert stored is not None
    assert (stored.failures, stored.failure, stored.retry_time) == (1, "the model is away", retry)
    assert (stored.failure_time, stored.turn, stored.newest) == (kit.clock.now(), 2, b"")
    assert await claim(kit, 2) == b"two"
    stored = await kit.store.end_golden_set("acme", "helpdesk", token="t1", end=result("e1"))
    assert stored is not None
    assert (stored.failures, stored.failure, stored.retry_time, stored.failure_time) == (0, "", None, None)


async def test_all_are_listed_by_tenant_and_team(kit: Kit) -> None:
    for tenant, team in (("globex", "a"), ("acme", "b"), ("acme", "a")):
        await kit.store.set_golden_set(tenant, replace(NEW, team=team))
    found = await kit.store.golden_sets("", after=("", ""), limit=2)
    assert [(one.tenant, one.team) for one in found] == [("acme", "a"), ("acme", "b")]
    [last] = await kit.store.golden_sets("", after=("acme", "b"), limit=2)
    assert (last.tenant, last.team) == ("globex", "a")
    assert len(await kit.store.golden_sets("acme", after=("", ""), limit=9)) == 2
