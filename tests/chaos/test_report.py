"""What the report makes of a history."""

from tests.chaos.history import Fault, History, Stream
from tests.chaos.planted import FIRST, good
from tests.chaos.report import pauses, take_overs


def fault(wall: float, target: str) -> Fault:
    return Fault(seconds=0.0, wall=wall, kind="kill", target=target)


def test_a_take_over_is_measured_from_the_fault_of_an_orchestrator() -> None:
    history = good()
    at = FIRST
    hit = fault(at + 2.5, "orchestrator")
    assert take_overs(history, [hit, fault(at + 3.0, "gateway")]) == ([1.5], 0)
    assert take_overs(history, [fault(at + 3.0, "session")]) == ([], 1)


def test_a_pause_is_between_the_items_around_a_fault() -> None:
    history = History(
        streams=[
            Stream(client="c", run="runs/1", after=0, times=[10.0, 11.0]),
            Stream(client="c", run="runs/1", after=2, times=[15.5, 16.0]),
            Stream(client="d", run="runs/2", after=0, times=[13.0]),  # not there yet
            Stream(client="e", run="runs/3", after=0, times=[9.0]),  # there no more
        ]
    )
    assert pauses(history, [fault(12.0, "orchestrator")]) == {"kill orchestrator": [4.5]}
