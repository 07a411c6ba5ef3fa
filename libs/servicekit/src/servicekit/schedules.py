"""What is measured by schedule: when it is due again, also after failures. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

RETRY, MAX_RETRY = timedelta(seconds=30), timedelta(hours=1)
TOLERATED_FAILURES = 2
"""In a row: a single failure is mostly an outage that is over by the next try."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How the evaluations by schedule of one thing get on.

    Attributes:
        turn: Grows with each one that is begun, and that ends.
        failures: In a row.
        failure_time: Of the last of them.
        retry_time: When it is tried again.
        message: Of the last failure.
    """

    turn: int = 0
    failures: int = 0
    failure_time: datetime | None = None
    retry_time: datetime | None = None
    message: str = ""

    def failures_since(self, newest: datetime | None) -> int:
        """In a row since the newest scores, however those came."""
        failed = self.failure_time
        if failed is None or (newest is not None and newest >= failed):
            return 0
        return self.failures

    def due(self, newest: datetime | None, *, interval: timedelta, at_once: datetime) -> datetime:
        """When it is to be measured.

        Args:
            newest: When it was last; None: never, so that it is due at once.
        """
        if self.failures_since(newest) and self.retry_time is not None:
            return self.retry_time
        return at_once if newest is None else newest + interval


def retry_delay(failures: int, *, first: timedelta = RETRY, most: timedelta = MAX_RETRY) -> timedelta:
    """After one more failure than those: twice as long each time."""
    factor: int = 1 << min(failures, 20)
    return min(first * factor, most)
