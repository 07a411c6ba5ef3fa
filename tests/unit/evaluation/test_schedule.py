"""Golden sets by schedule: when they are due, who asks them, and what a failure costs."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from evaluation.core.budget import MinuteBudget
from evaluation.core.evaluator import Evaluator
from evaluation.core.golden import Evaluation, GoldenRuns, Question
from evaluation.core.golden_worker import USER, GoldenLimits, GoldenWorker, Wanted
from evaluation.core.judge import Memory
from evaluation.core.schedule import Claim, GoldenPolicy, GoldenSet, Newest
from servicekit.context import current_caller
from servicekit.errors import NotFound, ServiceError, Unavailable
from servicekit.schedules import RETRY, Schedule
from servicekit.testing import FakeClock
from tests.support.evaluation_fakes import FakeJudge, FakeReport, FakeRuns, FakeTeams, embed, record

pytestmark = pytest.mark.looptime

DAY = timedelta(days=1)
NOW = FakeClock().now()
POLICY = GoldenPolicy(interval=DAY, revision="r1", thresholds={"facts_present": 0.8})
SET = GoldenSet(tenant="acme", team="helpdesk", sha256="s1")
QUESTIONS = [Question(id="a", text="a", facts=("two years",)), Question(id="b", text="b")]


def newest(revision: str = "r1", *, age: timedelta = timedelta(0), **means: float) -> Newest:
    return Newest(revision=revision, time=NOW - age, means=means)


def failed(*, ago: timedelta = timedelta(0), times: int = 1) -> Schedule:
    return Schedule(failures=times, failure_time=NOW - ago, retry_time=NOW - ago + RETRY, message="away")


@pytest.mark.parametrize(
    ("one", "due"),
    [
        (SET, NOW),
        (replace(SET, newest=newest(age=DAY / 2)), NOW + DAY / 2),
        (replace(SET, newest=newest(age=2 * DAY)), NOW - DAY),
        (replace(SET, newest=newest("r0")), NOW),  # another revision
        (replace(SET, schedule=failed()), NOW + RETRY),
        (replace(SET, newest=newest("r0", age=DAY), schedule=failed()), NOW + RETRY),
        (replace(SET, newest=newest(age=DAY / 2), schedule=failed(ago=DAY)), NOW + DAY / 2),
    ],
)
def test_due(one: GoldenSet, due: datetime) -> None:
    assert one.due(POLICY, at_once=NOW) == due


@pytest.mark.parametrize(
    ("one", "state"),
    [
        (SET, "UNKNOWN"),
        (replace(SET, newest=newest(facts_present=0.8)), "GOOD"),
        (replace(SET, newest=newest(facts_present=0.79)), "DEGRADED"),
        (replace(SET, newest=newest(sources_found=0.1)), "UNKNOWN"),  # nothing says facts
        (replace(SET, newest=newest("r0", facts_present=0.1)), "UNKNOWN"),
        (replace(SET, newest=newest(facts_present=0.1), schedule=failed(times=3)), "UNKNOWN"),
        (replace(SET, newest=newest(facts_present=0.1), schedule=failed(times=2)), "DEGRADED"),
    ],
)
def test_state(one: GoldenSet, state: str) -> None:
    one = replace(one, newest=one.newest and replace(one.newest, time=NOW - DAY / 2))
    assert one.state(POLICY) == state


@dataclass
class Sets:
    """Golden sets of two processes' sight; `taken`: another process is quicker."""

    known: list[GoldenSet]
    ends: list[tuple[str, str, object]] = field(default_factory=list)
    claims: list[str] = field(default_factory=list)
    renewed: list[tuple[int, timedelta]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    taken: bool = False
    lost: bool = False
    away: bool = False
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def all(self) -> Sequence[GoldenSet]:
        """See GoldenSets."""
        if self.away:
            raise Unavailable("away", reason="UNAVAILABLE")
        return list(self.known)

    async def claim(self, one: GoldenSet, *, lease: timedelta) -> Claim | None:
        """See GoldenSets."""
        assert current_caller().tenant == one.tenant
        self.claims.append(one.team)
        return None if self.taken else Claim(token="t", questions=QUESTIONS)

    async def renew(self, one: GoldenSet, token: str, *, lease: timedelta, done: int) -> bool:
        """See GoldenSets."""
        self.renewed.append((done, lease))
        return not self.lost

    async def finish(self, one: GoldenSet, token: str, evaluation: Evaluation) -> bool:
        """See GoldenSets."""
        self._end(one, evaluation)
        means = {"facts_present": evaluation.mean("facts_present") or 0.0}
        made = Newest(revision=evaluation.team_revision, time=NOW, means=means)
        self.known = [replace(k, newest=made) if k == one else k for k in self.known]
        return True

    async def fail(self, one: GoldenSet, token: str, message: str, *, retry: datetime) -> bool:
        """See GoldenSets."""
        self._end(one, (message, retry - NOW))
        schedule = Schedule(failures=one.failures + 1, failure_time=NOW, retry_time=retry, message=message)
        self.known = [replace(k, schedule=schedule) if k == one else k for k in self.known]
        return True

    async def drop(self, one: GoldenSet) -> None:
        """See GoldenSets."""
        self.dropped.append(one.team)

    def _end(self, one: GoldenSet, end: object) -> None:
        self.ends.append((one.tenant, one.team, end))
        self.ended.set()


@dataclass
class Teams:
    """One policy for all that have a golden set."""

    wanted: GoldenPolicy | None = POLICY

    def golden(self, tenant: str, team: str) -> GoldenPolicy | None:
        """See GoldenTeams."""
        return self.wanted


@dataclass
class Asker:
    """Waits before it answers if there is a gate; `error` is for questions b."""

    gate: asyncio.Event | None = None
    error: ServiceError | None = None
    asked: list[tuple[str, str, str]] = field(default_factory=list)

    async def ask(self, team: str, question: str) -> AsyncIterator[str]:
        """See Asker."""
        self.asked.append((current_caller().user, team, question))
        yield "runs/r1"
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None and question == "b":
            raise self.error


class Bench:
    """A worker with all that it needs."""

    def __init__(self, *known: GoldenSet, limits: GoldenLimits | None = None) -> None:
        self.clock, self.sets, self.teams, self.asker = FakeClock(), Sets(list(known)), Teams(), Asker()
        self.seen: list[Sequence[Wanted]] = []
        self.told: list[bool] = []
        evaluator = Evaluator(
            runs=FakeRuns(records={"runs/r1": record("Two  years.", "The warranty is two years.")}),
            teams=FakeTeams(),
            judges=FakeJudge(),
            embedder=lambda name: embed,
            memory=Memory(most=10),
            budget=MinuteBudget(calls=100, tokens=10_000, clock=self.clock),
            report=FakeReport(),
        )
        self.worker = GoldenWorker(
            sets=self.sets,
            teams=self.teams,
            golden=GoldenRuns(asker=self.asker, evaluator=evaluator),
            clock=self.clock,
            limits=limits or GoldenLimits(),
            seen=self.seen.append,
            ended=self.told.append,
        )

    async def run(self, seconds: float = 5.0) -> None:
        """Works for so long."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.worker.work()


async def test_what_is_due_is_asked_once_on_nobodys_behalf_and_stored() -> None:
    bench = Bench(SET, replace(SET, team="fresh", newest=newest()))
    await bench.run(seconds=25)
    assert bench.asker.asked == [(USER, "helpdesk", "a"), (USER, "helpdesk", "b")]
    [(tenant, team, made)] = bench.sets.ends
    assert isinstance(made, Evaluation)
    assert (tenant, team, made.team_revision, made.golden_set_sha256) == ("acme", "helpdesk", "r1", "s1")
    assert (made.mean("facts_present"), [one.id for one in made.results]) == (1.0, ["a", "b"])
    assert [done for done, _ in bench.sets.renewed] == [1, 2]  # who looks sees how far it is
    assert (bench.sets.claims, bench.told) == (["helpdesk"], [True])
    assert [len(seen) for seen in bench.seen] == [2, 2, 2]


async def test_one_that_another_process_has_is_left_to_it() -> None:
    bench = Bench(SET)
    bench.sets.taken = True
    await bench.run()
    assert (bench.asker.asked, bench.sets.ends) == ([], [])


async def test_an_outage_is_no_bad_answer_and_is_tried_again_later_and_later() -> None:
    bench = Bench(replace(SET, newest=newest("r0", age=DAY)))
    bench.asker.error = Unavailable("the model is away", reason="MODEL_UNAVAILABLE")
    await bench.run()
    bench.clock.advance(RETRY)
    await bench.run()
    assert [end for _, _, end in bench.sets.ends] == [
        ("the model is away", RETRY), ("the model is away", 3 * RETRY),  # 30 s on the clock, and 60
    ]  # fmt: skip
    assert bench.told == [False, False]
    assert bench.sets.known[0].newest is not None  # the scores that there are stay


async def test_a_question_that_fails_for_good_is_a_bad_answer() -> None:
    bench = Bench(SET)
    bench.asker.error = NotFound("no such tool", reason="TOOL_NOT_FOUND")
    await bench.run()
    [(_, _, made)] = bench.sets.ends
    assert isinstance(made, Evaluation)
    assert made.failed == 1


async def test_a_team_that_changes_meanwhile_is_asked_again() -> None:
    bench = Bench(SET)
    bench.asker.gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        await bench.worker.look(group)
        await asyncio.sleep(1)
        bench.teams.wanted = replace(POLICY, revision="r2")
        bench.asker.gate.set()
    [(_, _, end)] = bench.sets.ends
    assert end == ("the team changed while it was asked", RETRY)


async def test_a_lease_that_is_lost_ends_the_work_and_stores_nothing() -> None:
    bench = Bench(SET)
    bench.asker.gate = asyncio.Event()  # never set
    bench.sets.lost = True
    await bench.run(seconds=60)  # a third of a lease later it notices
    assert bench.sets.ends == []
    assert len(bench.sets.claims) == 2  # and may begin anew


async def test_what_takes_too_long_has_failed() -> None:
    bench = Bench(SET, limits=GoldenLimits(longest=timedelta(minutes=5)))
    bench.asker.gate = asyncio.Event()
    await bench.run(seconds=305)
    [(_, _, end)] = bench.sets.ends
    assert end == ("it took longer than 0:05:00", RETRY)
    assert max(done for done, _ in bench.sets.renewed) == 0


async def test_a_process_that_ends_hands_its_work_over() -> None:
    bench = Bench(SET)
    bench.asker.gate = asyncio.Event()
    await bench.run()
    assert bench.sets.renewed == [(0, timedelta(seconds=1))]
    assert bench.sets.ends == []


async def test_no_more_at_a_time_than_allowed_and_who_waited_longest_first() -> None:
    known = [replace(SET, team=f"t{n}", newest=newest(age=DAY * (n + 1))) for n in range(4)]
    bench = Bench(*known)
    bench.asker.gate = asyncio.Event()
    await bench.run(seconds=25)
    assert bench.sets.claims == ["t3", "t2"]


async def test_what_no_manifest_wants_is_dropped_after_a_day_and_not_before() -> None:
    bench = Bench(SET)
    bench.teams.wanted = None
    await bench.run()
    bench.clock.advance(DAY / 2)
    bench.teams.wanted = replace(POLICY, interval=10 * DAY)  # it was away for a moment
    bench.sets.taken = True
    await bench.run()
    bench.teams.wanted = None
    await bench.run()
    bench.clock.advance(DAY * 0.9)
    await bench.run()
    assert bench.sets.dropped == []
    bench.clock.advance(DAY * 0.1)
    await bench.run()
    assert bench.sets.dropped == ["helpdesk"]


async def test_a_session_service_that_is_away_ends_no_worker() -> None:
    bench = Bench(SET)
    bench.sets.away = True
    await bench.run(seconds=15)
    bench.sets.away = False
    await bench.run()
    assert len(bench.sets.ends) == 1
