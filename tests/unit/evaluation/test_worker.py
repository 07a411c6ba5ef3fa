"""Runs that wait are scored; what goes wrong with one costs no other."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from evaluation.core.budget import MinuteBudget
from evaluation.core.evaluator import MAX_ATTEMPTS, Evaluator
from evaluation.core.judge import Memory
from evaluation.core.ports import Policy
from evaluation.core.worker import Times, Worker
from servicekit.errors import Unavailable
from servicekit.testing import FakeClock
from tests.support.evaluation_fakes import (
    FakeJudge,
    FakeReport,
    FakeRuns,
    FakeTeams,
    embed,
    job,
    record,
)

pytestmark = pytest.mark.looptime

TEXT = "The warranty of the lamp is two years."


class Bench:
    """A worker with all that it needs."""

    def __init__(self, *, judge: bool = True, calls: int = 1_000) -> None:
        self.clock, self.runs, self.model, self.report = FakeClock(), FakeRuns(), FakeJudge(), FakeReport()
        self.teams = FakeTeams(
            Policy(judge="judge" if judge else "", thresholds=(("faithfulness", 0.8),), max_judge_calls=10)
        )
        self.budget = MinuteBudget(calls=calls, tokens=10_000_000, clock=self.clock)
        self.waiting: list[int] = []
        self.evaluator = Evaluator(
            runs=self.runs,
            teams=self.teams,
            judges=self.model,
            embedder=lambda name: embed,
            memory=Memory(most=10),
            budget=self.budget,
            report=self.report,
        )
        self.worker = Worker(
            runs=self.runs,
            evaluator=self.evaluator,
            budget=self.budget,
            clock=self.clock,
            parallel=2,
            times=Times(lease=timedelta(minutes=5), poll=timedelta(seconds=1), max_age=timedelta(hours=1)),
            waiting=self.waiting.append,
        )

    def add(self, *names: str, answer: str = TEXT) -> None:
        for name in names:
            self.runs.records[name] = record(answer, TEXT, run=name)
            self.runs.waiting.append(replace(job(name), ended=self.clock.now()))

    async def work(self, seconds: float) -> None:
        """For so long on the loop's clock."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.worker.work()

    def outcomes(self) -> dict[str, str]:
        return {one.run: scores.outcome for one, scores in self.runs.stored}


async def test_all_that_wait_are_scored_and_told_once() -> None:
    bench = Bench()
    bench.add(*(f"runs/r{n}" for n in range(5)))
    await bench.work(20)
    assert bench.outcomes() == {f"runs/r{n}": "SCORED" for n in range(5)}
    assert len(bench.report.told) == 5
    assert bench.waiting[-1] == 0


async def test_a_run_that_was_scored_before_is_not_told_again() -> None:
    bench = Bench()
    bench.add("runs/r1", "runs/r1")
    await bench.work(20)
    assert (len(bench.runs.stored), len(bench.report.told)) == (1, 1)


async def test_a_run_that_fails_costs_no_other_and_stays_waiting() -> None:
    bench = Bench()
    bench.add("runs/r1", "runs/r2")
    del bench.runs.records["runs/r1"]  # a bug, so to speak: a KeyError
    await bench.work(20)
    assert bench.outcomes() == {"runs/r2": "SCORED"}


async def test_a_session_service_that_is_away_is_asked_again() -> None:
    bench = Bench()
    bench.add("runs/r1")
    bench.runs.error = Unavailable("away", reason="DEPENDENCY_UNAVAILABLE")
    await bench.work(5)
    assert bench.runs.claims >= 4
    bench.runs.error = None
    await bench.work(5)
    assert bench.outcomes() == {"runs/r1": "SCORED"}


@pytest.mark.parametrize(("attempt", "outcome"), [(1, None), (MAX_ATTEMPTS, "FAILED")])
async def test_a_judge_that_is_away_ends_in_failed_after_the_last_attempt(
    attempt: int, outcome: str | None
) -> None:
    bench = Bench()
    bench.add("runs/r1")
    bench.runs.waiting[0] = replace(bench.runs.waiting[0], attempt=attempt)
    bench.model.error = Unavailable("the judge is down", reason="MODEL_UNAVAILABLE")
    await bench.work(5)
    assert bench.outcomes().get("runs/r1") == outcome
    if outcome:
        assert bench.runs.stored[0][1].reason == "the judge is down"


async def test_a_run_that_killed_its_workers_is_given_up_unread() -> None:
    bench = Bench()
    bench.runs.waiting.append(job("runs/poison", attempt=MAX_ATTEMPTS + 1))
    await bench.work(5)
    assert bench.outcomes() == {"runs/poison": "FAILED"}
    assert bench.model.asked == []


async def test_a_run_that_waited_too_long_expires() -> None:
    bench = Bench()
    bench.add("runs/r1")
    bench.clock.advance(timedelta(hours=2))
    await bench.work(5)
    assert bench.outcomes() == {"runs/r1": "EXPIRED"}


async def test_when_judges_were_asked_enough_no_run_is_claimed() -> None:
    bench = Bench(calls=1)
    bench.add("runs/r1", "runs/r2", "runs/r3")
    await bench.work(30)
    scored = len(bench.runs.stored)
    assert scored < 3  # the clock of the budget stands still: nothing is refilled
    bench.clock.advance(timedelta(minutes=10))
    await bench.work(120)
    assert len(bench.runs.stored) > scored


async def test_scores_below_the_teams_thresholds_are_named() -> None:
    bench = Bench()
    bench.model.says = lambda user: 0.1
    bench.add("runs/r1")
    await bench.work(5)
    [(_, scores)] = bench.runs.stored
    assert scores.below == ("faithfulness",)
    assert scores.version == "1.4"


async def test_without_a_judge_the_local_method_scores() -> None:
    bench = Bench(judge=False)
    bench.add("runs/r1")
    await bench.work(5)
    [(_, scores)] = bench.runs.stored
    assert (scores.evaluator, scores.faithfulness, bench.model.asked) == ("local", None, [])
