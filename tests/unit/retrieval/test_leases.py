"""Claiming jobs, and holding one by its lease while it is done."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta

import pytest

from retrieval.core.leases import Claiming
from servicekit.errors import Unavailable
from servicekit.leased_work import do_while_leased

pytestmark = pytest.mark.looptime

LEASE = timedelta(seconds=30)
POLL = timedelta(seconds=2)


class Leased:
    """One job that takes a while."""

    def __init__(self, *, renewals: Iterator[bool | Unavailable]) -> None:
        self._renewals = renewals
        self.said: list[str] = []

    async def work(self) -> None:
        try:
            await asyncio.sleep(95)
        except asyncio.CancelledError:
            self.said.append("ended")
            raise
        self.said.append("done")

    async def renew(self) -> bool:
        self.said.append("renewed")
        answer = next(self._renewals)
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    async def lost(self) -> None:
        self.said.append("lost")

    async def stopped(self) -> None:
        self.said.append("stopped")

    async def run(self) -> None:
        await do_while_leased(
            self.work(), renew=self.renew, lease=LEASE, lost=self.lost, stopped=self.stopped
        )


def down() -> Unavailable:
    return Unavailable("no answer", reason="DEPENDENCY_UNAVAILABLE")


async def test_the_lease_is_renewed_three_times_before_it_ends_and_no_more_when_the_work_is_done() -> None:
    job = Leased(renewals=iter([True] * 9))
    await job.run()
    await asyncio.sleep(100)
    assert job.said == ["renewed"] * 9 + ["done"]


async def test_a_lost_lease_ends_the_work() -> None:
    job = Leased(renewals=iter([True, False]))
    await job.run()
    assert job.said == ["renewed", "renewed", "ended", "lost"]


async def test_a_catalogue_that_does_not_answer_once_ends_nothing() -> None:
    job = Leased(renewals=iter([down(), *[True] * 8]))
    await job.run()
    assert job.said[-1] == "done"


async def test_a_stop_ends_the_work_and_says_so() -> None:
    job = Leased(renewals=iter([True] * 9))
    running = asyncio.ensure_future(job.run())
    await asyncio.sleep(15)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert job.said == ["renewed", "ended", "stopped"]


async def test_what_the_work_raises_is_raised_and_the_renewing_ends() -> None:
    async def broken() -> None:
        raise ValueError("broken")

    job = Leased(renewals=iter([]))
    with pytest.raises(ValueError, match="broken"):
        await do_while_leased(broken(), renew=job.renew, lease=LEASE, lost=job.lost)
    await asyncio.sleep(100)
    assert job.said == []


class Queue:
    """Jobs; says when each was asked for."""

    def __init__(self, *jobs: bool | Unavailable) -> None:
        self._jobs = list(jobs)
        self.asked: list[float] = []

    async def do_one(self) -> bool:
        self.asked.append(round(asyncio.get_running_loop().time(), 3))
        job = self._jobs.pop(0) if self._jobs else False
        if isinstance(job, Unavailable):
            raise job
        return job


async def for_a_while(claiming: Claiming, seconds: float) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await claiming.run()


async def test_it_asks_at_once_while_there_is_work_and_then_now_and_then() -> None:
    queue = Queue(True, True)
    await for_a_while(Claiming(queue.do_one, poll=POLL, what="jobs"), 5)
    assert queue.asked == [0, 0, 0, 2, 4]


async def test_it_asks_when_it_is_woken() -> None:
    queue = Queue()
    claiming = Claiming(queue.do_one, poll=POLL, what="jobs")
    asyncio.get_running_loop().call_later(0.5, claiming.wake)
    await for_a_while(claiming, 2)
    assert queue.asked == [0, 0.5]


async def test_a_queue_that_does_not_answer_is_asked_again_later() -> None:
    queue = Queue(down(), True)
    await for_a_while(Claiming(queue.do_one, poll=POLL, what="jobs"), 3)
    assert queue.asked == [0, 2, 2]


async def test_after_a_stop_it_claims_nothing_and_waits_to_be_cancelled() -> None:
    queue = Queue(True, True, True)
    claiming = Claiming(queue.do_one, poll=POLL, what="jobs")
    claiming.stop()
    await for_a_while(claiming, 10)
    assert queue.asked == []


async def test_until_idle_counts_what_it_did() -> None:
    assert await Claiming(Queue(True, True).do_one, poll=POLL, what="jobs").until_idle() == 2
