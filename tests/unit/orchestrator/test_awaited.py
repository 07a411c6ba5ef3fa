"""Waiting for scores after a run's end: as long as asked, and no longer than of use."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from orchestrator.core.awaited import AwaitedScores, Scored
from servicekit.context import Caller, scope
from servicekit.errors import NotFound, ResourceExhausted, Unavailable

pytestmark = pytest.mark.looptime

RUN = "runs/r1"
SCORES = Scored(payload="scores")
NOT_YET = Scored(may_come=True)
NEVER = Scored()


@dataclass
class Source:
    """Scores that come at a time of the loop; None: never."""

    comes_s: float | None = None
    chosen: bool = True
    full: bool = False
    hasty: bool = False
    error: Exception | None = None
    waits: list[float] = field(default_factory=list)

    async def of_run(self, run: str, *, wait: timedelta) -> Scored:
        """See ScoreSource."""
        assert run == RUN
        self.waits.append(wait.total_seconds())
        if self.error is not None:
            raise self.error
        if self.full and wait:
            raise ResourceExhausted("too many wait", reason="TOO_MANY_FOLLOWERS")
        if not self.chosen:
            return NEVER
        loop = asyncio.get_running_loop()
        until = loop.time() + (0.0 if self.hasty else wait.total_seconds())
        if self.comes_s is not None and self.comes_s <= until:
            await asyncio.sleep(self.comes_s - loop.time())
            return SCORES
        await asyncio.sleep(until - loop.time())
        return NOT_YET


async def took(source: Source, *, within_s: float = 60.0) -> tuple[Scored, float]:
    began = asyncio.get_running_loop().time()
    found = await AwaitedScores(source).of_run(RUN, within=timedelta(seconds=within_s))
    return found, asyncio.get_running_loop().time() - began


@pytest.mark.parametrize(
    ("source", "expected", "seconds", "waits"),
    [
        (Source(comes_s=0.0), SCORES, 0.0, [20]),
        (Source(comes_s=45.0), SCORES, 45.0, [20, 20, 20]),
        (Source(), NOT_YET, 60.0, [20, 20, 20]),
        (Source(chosen=False), NEVER, 0.0, [20]),
    ],
)
async def test_it_waits_as_long_as_scores_may_come_and_there_is_time(
    source: Source, expected: Scored, seconds: float, waits: Sequence[float]
) -> None:
    found, lasted = await took(source)
    assert (found, round(lasted, 3)) == (expected, seconds)
    assert source.waits[: len(waits)] == pytest.approx(waits)
    assert len(source.waits) <= len(waits) + 1


@pytest.mark.parametrize("source", [Source(comes_s=5.5, hasty=True), Source(comes_s=5.5, full=True)])
async def test_a_store_that_does_not_wait_is_asked_once_a_second(source: Source) -> None:
    found, lasted = await took(source)
    assert (found, round(lasted, 3)) == (SCORES, 6.0)
    assert len([wait for wait in source.waits if source.hasty or not wait]) == 7


async def test_it_answers_before_the_callers_deadline() -> None:
    # The context's clock is the machine's: it hardly moves here, where the loop's flies.
    with scope(caller=Caller("acme", "ada"), timeout=timedelta(seconds=10)):
        found, seconds = await took(Source())
    assert found == NOT_YET
    assert 8.0 < seconds <= 9.0


async def test_what_cannot_be_read_is_no_missing_score() -> None:
    with pytest.raises(NotFound):
        await took(Source(error=NotFound("gone", reason="RUN_NOT_FOUND")))
    with pytest.raises(Unavailable):
        await took(Source(error=Unavailable("away", reason="DEPENDENCY_UNAVAILABLE")))


async def test_a_process_that_stops_sends_followers_elsewhere() -> None:
    awaited = AwaitedScores(Source())
    asyncio.get_running_loop().call_later(7, awaited.stop)
    with pytest.raises(Unavailable, match="follow runs/r1 again"):
        await awaited.of_run(RUN, within=timedelta(seconds=60))
    assert asyncio.get_running_loop().time() == pytest.approx(7.0)
