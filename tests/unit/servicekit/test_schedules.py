"""When something that is measured by schedule is due again."""

from datetime import UTC, datetime, timedelta

from servicekit.schedules import MAX_RETRY, RETRY, Schedule, retry_delay

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_what_was_never_measured_is_due_at_once_and_then_by_its_interval() -> None:
    assert Schedule().due(None, interval=HOUR, at_once=NOW) == NOW
    assert Schedule(turn=3).due(NOW - HOUR / 2, interval=HOUR, at_once=NOW) == NOW + HOUR / 2


def test_a_failure_counts_until_there_are_newer_scores() -> None:
    failed = Schedule(failures=2, failure_time=NOW, retry_time=NOW + RETRY)
    for newest in (None, NOW - HOUR):
        assert failed.failures_since(newest) == 2
        assert failed.due(newest, interval=HOUR, at_once=NOW) == NOW + RETRY
    later = NOW + timedelta(seconds=1)  # on demand, or of another process
    assert failed.failures_since(later) == 0
    assert failed.due(later, interval=HOUR, at_once=NOW) == later + HOUR


def test_the_delay_doubles_up_to_its_bound() -> None:
    assert [retry_delay(n) / RETRY for n in (0, 1, 2)] == [1, 2, 4]
    assert retry_delay(10_000) == MAX_RETRY
