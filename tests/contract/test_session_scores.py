"""Scores of runs, and the queue of those that wait for them: on SQLite and Postgres alike."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from session.adapters.tables import run_scorings
from session.core.model import Lease, NewEvent, NewMessage, NewScoring, Owner, Role
from session.core.scores import Means, NewScores, Scoring
from session.core.user_data import NewFork
from tests.support.session_store import ADA, BOB, EVE, Kit, answer, finish, kit, question, reason_of
from tests.support.sessions import databases, migrated_file

__all__ = ["databases", "kit", "migrated_file"]

SCORER = Lease(owner="evaluation-1", duration=timedelta(seconds=60))
OTHER = Lease(owner="evaluation-2", duration=timedelta(seconds=60))
ASKED, SAMPLED, SUSPICIOUS = 0, 1, 2


def to_score(sequence: int, priority: int = 1) -> NewEvent:
    """An end after which the run waits to be scored."""
    new = finish(sequence)
    assert new.end is not None
    scoring = NewScoring(priority=priority, request=f"asks {priority}".encode())
    return replace(new, end=replace(new.end, scoring=scoring))


async def ended(kit: Kit, owner: Owner = ADA, *, priority: int = 1, team: str = "helpdesk") -> str:
    """A run that waits to be scored."""
    begun = await kit.store.begin_run(owner, question(team=team))
    events = [answer(2), to_score(3, priority)]
    for _ in range(2):  # an append whose answer was lost is made again
        await kit.store.append_events(owner, begun.run.id, fencing_token=begun.fencing_token, events=events)
    return begun.run.id


def scores(run: str, *, evaluator: str = "judge", version: str = "1", value: float | None = 0.5) -> NewScores:
    return NewScores(
        run=run,
        evaluator=evaluator,
        version=version,
        selection=SAMPLED,
        scored=value is not None,
        means=Means(faithfulness=value),
        payload=f"{evaluator} {version} {value}".encode(),
    )


async def claim(kit: Kit, *, lease: Lease = SCORER, limit: int = 10, tenant: str = "") -> list[Scoring]:
    return list((await kit.store.claim_scorings(lease=lease, limit=limit, tenant=tenant))[0])


async def test_only_a_run_that_says_so_waits_to_be_scored(kit: Kit) -> None:
    begun = await kit.store.begin_run(ADA, question())
    await kit.store.append_events(
        ADA, begun.run.id, fencing_token=begun.fencing_token, events=[answer(2), finish(3)]
    )
    assert await claim(kit) == []
    run = await ended(kit)
    [one] = await claim(kit)
    assert (one.run, one.tenant, one.user, one.team) == (run, "acme", "ada", "helpdesk")
    assert (one.request, one.attempt) == (b"asks 1", 1)


async def test_suspicious_runs_come_first_and_then_the_oldest(kit: Kit) -> None:
    runs = []
    for priority in (1, 0, 1, 0):
        runs.append(await ended(kit, priority=priority))
        kit.clock.advance(timedelta(seconds=1))
    taken, waiting = await kit.store.claim_scorings(lease=SCORER, limit=3, tenant="")
    assert [one.run for one in taken] == [runs[1], runs[3], runs[0]]
    assert waiting == 1


async def test_a_claim_ends_with_its_lease_and_is_counted(kit: Kit) -> None:
    run = await ended(kit)
    assert len(await claim(kit)) == 1
    assert await claim(kit, lease=OTHER) == []
    kit.clock.advance(timedelta(seconds=61))
    [again] = await claim(kit, lease=OTHER)
    assert (again.run, again.attempt) == (run, 2)


async def test_two_that_claim_at_once_share_the_runs(kit: Kit) -> None:
    runs = {await ended(kit) for _ in range(8)}
    taken = await asyncio.gather(*(claim(kit, lease=lease, limit=4) for lease in (SCORER, OTHER)))
    # On Postgres the second may skip rows that the first looks at: they wait for the next call.
    rest = await claim(kit)
    found = [one.run for part in (*taken, rest) for one in part]
    assert sorted(found) == sorted(runs)


async def test_a_tenants_own_service_gets_its_tenants_runs_only(kit: Kit) -> None:
    await ended(kit, ADA)
    await ended(kit, EVE)
    assert [one.tenant for one in await claim(kit, tenant="globex")] == ["globex"]
    assert [one.tenant for one in await claim(kit)] == ["acme"]


async def test_scores_are_stored_once_and_end_the_wait(kit: Kit) -> None:
    run = await ended(kit)
    await claim(kit)
    first = await kit.store.put_scores(ADA, scores(run, value=0.25))
    second = await kit.store.put_scores(ADA, scores(run, value=0.75))
    assert first == second
    assert first.payload == b"judge 1 0.25"
    assert (first.team, first.team_revision) == ("helpdesk", "r1")
    kit.clock.advance(timedelta(hours=1))
    assert await claim(kit) == []
    assert (await kit.rows())["run_scores"] == 1


async def test_scores_replace_the_reason_why_there_were_none_and_nothing_replaces_scores(kit: Kit) -> None:
    run = await ended(kit)
    await kit.store.put_scores(ADA, scores(run, value=None))
    mended = await kit.store.put_scores(ADA, scores(run, value=0.5))
    assert mended.payload == b"judge 1 0.5"
    assert await kit.store.put_scores(ADA, scores(run, value=None)) == mended
    assert (await kit.rows())["run_scores"] == 1


async def test_two_that_store_at_once_store_one(kit: Kit) -> None:
    run = await ended(kit)
    both = await asyncio.gather(*(kit.store.put_scores(ADA, scores(run, value=v)) for v in (0.1, 0.9)))
    assert both[0] == both[1]


async def test_another_version_is_stored_beside_and_the_newest_is_returned(kit: Kit) -> None:
    run = await ended(kit)
    await kit.store.put_scores(ADA, scores(run, version="1"))
    kit.clock.advance(timedelta(seconds=1))
    await kit.store.put_scores(ADA, scores(run, version="2"))
    found, may_come = await kit.store.scores_of_run(ADA, run)
    assert found is not None
    assert (found.version, may_come) == ("2", False)
    assert [one.version for one in await kit.store.all_scores_of_run(ADA, run)] == ["1", "2"]


async def test_whether_scores_may_still_come_is_told(kit: Kit) -> None:
    running = await kit.store.begin_run(ADA, question())
    assert await kit.store.scores_of_run(ADA, running.run.id) == (None, True)
    waits = await ended(kit)
    assert await kit.store.scores_of_run(ADA, waits) == (None, True)
    await claim(kit)
    assert await kit.store.scores_of_run(ADA, waits) == (None, True)
    await kit.store.append_events(
        ADA, running.run.id, fencing_token=running.fencing_token, events=[finish(2)]
    )
    assert await kit.store.scores_of_run(ADA, running.run.id) == (None, False)


async def test_scores_of_others_are_as_if_they_did_not_exist(kit: Kit) -> None:
    run = await ended(kit)
    await kit.store.put_scores(ADA, scores(run))
    for other in (BOB, EVE):
        assert await reason_of(kit.store.put_scores(other, scores(run))) == "RUN_NOT_FOUND"
        assert await reason_of(kit.store.scores_of_run(other, run)) == "RUN_NOT_FOUND"
        assert await kit.store.all_scores_of_run(other, run) == ()
        assert await kit.store.list_scores(other, team="", before=None, limit=10) == ()
        assert await kit.store.quality(other.tenant, other.user, "helpdesk", window=timedelta(days=1)) == ()


async def test_scores_are_of_a_runs_answer_and_not_of_what_its_client_said(kit: Kit) -> None:
    told = [
        NewMessage(role=Role.USER, content="hello", citations=b""),
        NewMessage(role=Role.ASSISTANT, content="a client's own", citations=b""),
    ]
    first = await kit.store.begin_run(ADA, question(before=told))
    session = first.run.session
    await kit.store.append_events(
        ADA, first.run.id, fencing_token=first.fencing_token, events=[answer(2), to_score(3)]
    )
    for version in ("1", "2"):
        await kit.store.put_scores(ADA, scores(first.run.id, version=version))
        kit.clock.advance(timedelta(seconds=1))
    second = await kit.store.begin_run(ADA, question(session=session))
    await kit.store.append_events(
        ADA, second.run.id, fencing_token=second.fencing_token, events=[answer(2), to_score(3)]
    )
    page = await kit.store.list_messages(ADA, session, after_sequence=0, limit=10)
    assert [(one.sequence, one.role) for one in page.items if one.role is Role.ASSISTANT] == [
        (2, Role.ASSISTANT),
        (4, Role.ASSISTANT),
        (6, Role.ASSISTANT),
    ]
    found = await kit.store.scores_of_answers(ADA, page.items)
    assert {sequence: one.version for sequence, one in found.items()} == {4: "2"}
    assert await kit.store.scores_of_answers(ADA, page.items[:3]) == {}
    for other in (BOB, EVE):
        assert await kit.store.scores_of_answers(other, page.items) == {}
    new = NewFork(request_id="fork", body_hash=b"", session=session, sequence=2, display_name="")
    fork = await kit.store.fork_session(ADA, new)
    cut = await kit.store.list_messages(ADA, fork.id, after_sequence=0, limit=10)
    assert await kit.store.scores_of_answers(ADA, cut.items) == {}


async def test_lists_go_on_where_they_ended(kit: Kit) -> None:
    runs = []
    for n in range(5):
        run = await ended(kit, team="helpdesk" if n % 2 else "shop")
        await kit.store.put_scores(ADA, scores(run))
        kit.clock.advance(timedelta(seconds=n % 2))  # some at the same time
        runs.append(run)
    seen: list[str] = []
    before = None
    while page := await kit.store.list_scores(ADA, team="", before=before, limit=2):
        seen += [one.run for one in page]
        last = page[-1]
        before = (last.create_time, f"{last.run}/{last.evaluator}/{last.version}")
    assert sorted(seen) == sorted(runs)
    assert len(await kit.store.list_scores(ADA, team="shop", before=None, limit=9)) == 3


async def test_quality_is_of_sampled_runs_by_revision_and_of_everybody_for_a_service(kit: Kit) -> None:
    for owner, value, selection in ((ADA, 1.0, SAMPLED), (BOB, 0.5, SAMPLED), (BOB, 0.0, SUSPICIOUS)):
        run = await ended(kit, owner)
        await kit.store.put_scores(owner, replace(scores(run, value=value), selection=selection))
    asked = await ended(kit, ADA)
    await kit.store.put_scores(ADA, replace(scores(asked, value=0.0), selection=ASKED))
    failed = await ended(kit, ADA)
    await kit.store.put_scores(ADA, scores(failed, value=None))
    await kit.store.put_scores(EVE, scores(await ended(kit, EVE), value=0.0))
    [found] = await kit.store.quality("acme", None, "helpdesk", window=timedelta(hours=1))
    assert (found.team_revision, found.sampled_runs, found.suspicious_runs) == ("r1", 2, 1)
    assert found.means == Means(faithfulness=0.75)
    [mine] = await kit.store.quality("acme", "ada", "helpdesk", window=timedelta(hours=1))
    assert (mine.sampled_runs, mine.means.faithfulness) == (1, 1.0)
    kit.clock.advance(timedelta(hours=2))
    assert await kit.store.quality("acme", None, "helpdesk", window=timedelta(hours=1)) == ()


async def test_evaluations_are_stored_once_for_each_owner(kit: Kit) -> None:
    for _ in range(2):
        stored = await kit.store.put_evaluation(ADA, evaluation="e1", team="docs", payload=b"first")
        again = await kit.store.put_evaluation(ADA, evaluation="e1", team="docs", payload=b"second")
        assert again == stored
    theirs = await kit.store.put_evaluation(EVE, evaluation="e1", team="docs", payload=b"theirs")
    assert theirs.payload == b"theirs"
    listed = await kit.store.list_evaluations(ADA, team="docs", before=None, limit=10)
    assert [one.payload for one in listed] == [b"first"]
    assert await kit.store.list_evaluations(ADA, team="other", before=None, limit=10) == ()


async def test_deleting_a_session_or_a_user_deletes_their_scores(kit: Kit) -> None:
    first, second = await ended(kit), await ended(kit)
    await kit.store.put_scores(ADA, scores(first))
    await kit.store.put_evaluation(ADA, evaluation="e1", team="docs", payload=b"mine")
    await kit.store.put_evaluation(BOB, evaluation="e1", team="docs", payload=b"theirs")
    await kit.store.delete_session(ADA, (await kit.store.get_run(ADA, first)).session)
    rows = await kit.rows()
    assert (rows["run_scores"], rows["run_scorings"]) == (0, 1)
    while (erased := await kit.store.erase_some(ADA)).sessions or erased.team_evaluations:
        pass
    rows = await kit.rows()
    assert (rows["run_scores"], rows["run_scorings"], rows["team_evaluations"]) == (0, 0, 1)
    assert await reason_of(kit.store.scores_of_run(ADA, second)) == "RUN_NOT_FOUND"
    assert run_scorings.name in rows
