"""Members that are teams of other namespaces, taken over and stopped."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from orchestrator.core.calls import Began, Ended
from orchestrator.core.model import MemberFinished, RunFinished, TeamCalled
from orchestrator.core.totals import Usage
from servicekit.errors import FailedPrecondition, Unavailable
from tests.support.fake_models import says
from tests.support.fleet import Fleet, events
from tests.support.orchestrator_fakes import of_type, team

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("as_ada")]

REFS = ({"name": "theirs", "teamRef": {"name": "desk", "namespace": "owner"}}, {"name": "own"})


@dataclass
class FakeCalls:
    """Another namespace's orchestrators: one run for each request id."""

    asked: list[tuple[str, str, str]] = field(default_factory=list)
    followed: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)
    begins: asyncio.Event = field(default_factory=asyncio.Event)
    ends: asyncio.Event = field(default_factory=asyncio.Event)
    ended: Ended | None = None
    unreachable: bool = False

    async def ask(self, namespace: str, team: str, question: str, *, request_id: str, began: Began) -> Ended:
        self.asked.append((f"{namespace}/{team}", question, request_id))
        run = self.runs.setdefault(request_id, f"runs/there-{len(self.runs)}")
        await self.begins.wait()
        began(run)
        return await self._end(run)

    async def follow(self, namespace: str, run: str) -> Ended:
        self.followed.append(run)
        return await self._end(run)

    async def cancel(self, namespace: str, run: str) -> None:
        self.cancelled.append(run)
        if self.unreachable:
            raise Unavailable("nobody is there", reason="DEPENDENCY_UNAVAILABLE")

    async def _end(self, run: str) -> Ended:
        await self.ends.wait()
        usage = Usage(input_tokens=70, model_calls=3, cost_micros=5, currency="EUR")
        good = Ended(
            run=run, state="SUCCEEDED", answer="Two [1], or three [2, 3].", cited=(1, 2), usage=usage
        )
        return self.ended or good


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    async with fleet.stack:
        fleet.bench.calls = FakeCalls()
        fleet.bench.catalogue.all_teams = [team(*REFS, mode="Broadcast")]
        fleet.bench.models.choose = lambda call: says("So it is.")
        yield fleet


def there(fleet: Fleet) -> FakeCalls:
    calls = fleet.bench.calls
    assert isinstance(calls, FakeCalls)
    return calls


async def finished(fleet: Fleet, process: object) -> RunFinished:
    seen = await process.follow()  # type: ignore[attr-defined]
    (end,) = of_type([event.step for event in events(seen)], RunFinished)
    assert isinstance(end, RunFinished)
    return end


def steps(fleet: Fleet, kind: type) -> list[object]:
    return list(of_type([event.step for event in fleet.store.log["runs/r1"]], kind))


@pytest.mark.parametrize("known", [True, False], ids=["its name is stored", "nothing is stored"])
async def test_an_attempt_after_a_kill_goes_on_with_the_run_that_was_begun(fleet: Fleet, known: bool) -> None:
    calls, first, second = there(fleet), await fleet.begin("one"), await fleet.begin("two")
    if known:
        calls.begins.set()
    await first.start()
    await asyncio.sleep(1)
    assert [(called, asked) for called, asked, _ in calls.asked] == [
        ("owner/desk", "Question of the user: Why?")
    ]
    await first.kill()
    calls.begins.set()
    calls.ends.set()
    end = await finished(fleet, second)
    assert (end.state, list(calls.runs.values())) == ("SUCCEEDED", ["runs/there-0"])
    assert len({request for *_, request in calls.asked}) == 1
    assert (len(calls.asked), calls.followed) == ((1, ["runs/there-0"]) if known else (2, []))
    # Counted once, and apart from what this run used; the marks are of evidence that it does not have.
    assert end.summary.called == Usage(input_tokens=70, model_calls=3, cost_micros=5, currency="EUR")
    assert end.summary.usage.currency == ""
    (report,) = [step for step in steps(fleet, MemberFinished) if "Two" in step.answer]  # type: ignore[attr-defined]
    assert report.answer == "Two, or three."  # type: ignore[attr-defined]
    assert calls.cancelled == []


async def test_what_is_still_done_elsewhere_is_stopped_when_the_run_ends_whoever_ends_it(
    fleet: Fleet,
) -> None:
    calls, first, second = there(fleet), await fleet.begin("one"), await fleet.begin("two")
    calls.begins.set()
    calls.unreachable = True  # then it ends by its own limits
    run = await first.start()
    await asyncio.sleep(1)
    await first.kill()
    await second.runs.cancel(run.name)
    assert (await finished(fleet, second)).state == "CANCELLED"
    assert calls.cancelled == ["runs/there-0"]


async def test_the_time_of_a_run_is_up_for_its_calls_too(fleet: Fleet) -> None:
    calls, process = there(fleet), await fleet.begin("one")
    fleet.bench.catalogue.all_teams = [team(*REFS, mode="Broadcast", limits={"runTimeoutSeconds": 5})]
    calls.begins.set()
    await process.start()
    end = await finished(fleet, process)
    assert end.error is not None
    assert (end.error.reason, calls.cancelled) == ("RUN_TIMEOUT", ["runs/there-0"])


async def test_limits_that_are_reached_there_do_not_end_this_run(fleet: Fleet) -> None:
    calls, process = there(fleet), await fleet.begin("one")
    calls.begins.set()
    calls.ends.set()
    error = FailedPrecondition("the run used 99 tokens", reason="RUN_LIMIT_REACHED")
    calls.ended = Ended(run="runs/there-0", state="FAILED", answer="", cited=(), usage=Usage(), error=error)
    await process.start()
    assert (await finished(fleet, process)).state == "SUCCEEDED"
    (failed,) = [step.error for step in steps(fleet, MemberFinished) if step.error]  # type: ignore[attr-defined]
    assert (failed.reason, failed.metadata["cause"]) == ("TOOL_FAILED", "RUN_LIMIT_REACHED")
    assert 'team "owner/desk" has no answer: the run used 99 tokens' in failed.message
    assert [step.state for step in steps(fleet, TeamCalled)] == [None, "FAILED"]  # type: ignore[attr-defined]
