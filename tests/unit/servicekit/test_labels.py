"""Series that are there with 0 before anything is counted, within their bounds."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest

from servicekit.counters import from_zero
from servicekit.labels import BoundedLabels


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def runs(registry: CollectorRegistry) -> Counter:
    return Counter("runs", "Runs", ["team", "state"], registry=registry)


def series(registry: CollectorRegistry) -> set[str]:
    lines = generate_latest(registry).decode().splitlines()
    return {line for line in lines if line.startswith("runs_total")}


def labels(runs: Counter, most: int) -> BoundedLabels:
    return BoundedLabels(most, new=lambda team: from_zero(runs, team=[team], state=("OK", "FAILED")))


def test_all_combinations_begin_at_0(registry: CollectorRegistry, runs: Counter) -> None:
    assert from_zero(runs, state=("OK", "FAILED"), team=["a", "b"]) is runs
    assert series(registry) == {
        f'runs_total{{state="{state}",team="{team}"}} 0.0' for state in ("OK", "FAILED") for team in "ab"
    }


def test_a_label_that_is_missing_is_found_at_once(runs: Counter) -> None:
    with pytest.raises(ValueError, match="label"):
        from_zero(runs, team=["a"])


def test_counts_stay_as_they_are(registry: CollectorRegistry, runs: Counter) -> None:
    runs.labels("a", "FAILED").inc()
    labels(runs, 2).of("a")
    assert 'runs_total{state="FAILED",team="a"} 1.0' in series(registry)


def test_a_value_is_there_before_the_first_failure(registry: CollectorRegistry, runs: Counter) -> None:
    labels(runs, 2).expect(["a"])
    assert 'runs_total{state="FAILED",team="a"} 0.0' in series(registry)


def test_other_begins_at_0_too_and_nothing_goes_beyond_it(registry: CollectorRegistry, runs: Counter) -> None:
    few = labels(runs, 2)
    assert [few.of(name) for name in ("a", "b", "c", "d", "a")] == ["a", "b", "other", "other", "a"]
    assert {line.split('team="')[1] for line in series(registry)} == {'a"} 0.0', 'b"} 0.0', 'other"} 0.0'}


def test_more_than_there_may_be_take_nobodys_place(registry: CollectorRegistry, runs: Counter) -> None:
    few = labels(runs, 2)
    few.expect(["x", "y", "z"])
    assert {line.split('team="')[1] for line in series(registry)} == {'other"} 0.0'}
    assert [few.of(name) for name in ("a", "b", "x")] == ["a", "b", "other"], "who is asked first"


@pytest.mark.looptime
async def test_what_comes_later_is_seen(registry: CollectorRegistry, runs: Counter) -> None:
    names = ["a"]
    following = asyncio.create_task(labels(runs, 2).follow(lambda: names))
    await asyncio.sleep(0.1)
    assert len(series(registry)) == 2
    names.append("b")
    await asyncio.sleep(10)  # the loop's clock, not ours
    assert len(series(registry)) == 4
    following.cancel()
