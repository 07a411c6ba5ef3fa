"""How often something may happen, and whether it is worth trying: no clock, no waiting."""

from collections import deque
from enum import Enum

_BURST_S = 10.0  # how much of a minute's worth may pass at once
_EPSILON_S = 1e-3  # below a timer's resolution

_WINDOW_S = 30.0
_OUTCOMES = 100  # of the window, so that a busy model's stays small
_FAILURES = 5
_OPEN_S = 5.0
_OPEN_MAX_S = 60.0


class Bucket:
    """Lets so much pass a minute, spread evenly: at most 10 seconds' worth at once.

    What turns out to be larger than it said is owed: the next ones wait for it.
    """

    def __init__(self, per_minute: int, *, now: float) -> None:
        self._per_s = per_minute / 60
        self._most = max(1.0, self._per_s * _BURST_S)
        self._level = self._most
        self._at = now

    def delay_s(self, amount: float, *, now: float, ahead: float = 0.0) -> float:
        """Seconds until `amount` may pass when `ahead` has; more than fits waits until all is free."""
        self._level = min(self._most, self._level + (now - self._at) * self._per_s)
        self._at = now
        delay = (ahead + min(amount, self._most) - self._level) / self._per_s
        return delay if delay > _EPSILON_S else 0.0

    def take(self, amount: float) -> None:
        """It passed; less than 0 gives back."""
        self._level -= amount


class BreakerState(Enum):
    """Whether calls are let through. The values are the metric's."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Keeps calls away from what has failed, until a single one has shown that it works again.

    It opens when 5 calls, and at least half of those of the last 30 seconds, have
    failed. After 5 seconds one call may try; each failure doubles the time, up
    to a minute.
    """

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._outcomes: deque[tuple[float, bool]] = deque(maxlen=_OUTCOMES)
        self._open_s = _OPEN_S
        self._until = 0.0
        self._trying = False

    def refuses_s(self, now: float) -> float:
        """0 if a call may begin, else seconds until it is worth asking again."""
        if self.state is BreakerState.CLOSED:
            return 0.0
        if self._trying:
            return 1.0  # its outcome decides
        return max(0.0, self._until - now)

    def begin(self) -> bool:
        """A call begins; True if it is the one that tries."""
        if self.state is BreakerState.CLOSED:
            return False
        self.state = BreakerState.HALF_OPEN
        self._trying = True
        return True

    def succeeded(self, *, trial: bool, now: float) -> None:
        """A call worked."""
        if trial:
            self.state = BreakerState.CLOSED
            self._trying = False
            self._open_s = _OPEN_S
            self._outcomes.clear()
        elif self.state is BreakerState.CLOSED:
            self._outcomes.append((now, True))

    def failed(self, *, trial: bool, now: float) -> None:
        """A call did not."""
        if trial:
            self._open_s = min(2 * self._open_s, _OPEN_MAX_S)
            self._open(now)
        elif self.state is BreakerState.CLOSED:
            self._outcomes.append((now, False))
            recent = [worked for at, worked in self._outcomes if now - at <= _WINDOW_S]
            failures = recent.count(False)
            if failures >= _FAILURES and 2 * failures >= len(recent):
                self._open(now)

    def abandoned(self, *, trial: bool) -> None:
        """A call ended without telling anything about the other side."""
        if trial:
            self._trying = False  # the next one tries

    def _open(self, now: float) -> None:
        self.state = BreakerState.OPEN
        self._until = now + self._open_s
        self._trying = False
