"""How much of the judges the whole service may use."""

from servicekit.clock import Clock

_MINUTE_S = 60.0


class MinuteBudget:
    """Calls and tokens a minute. What a run needs is not known before: it may overdraw, the next one waits.

    Args:
        calls: Judge calls a minute.
        tokens: Tokens of judge calls a minute, sent and written.
        clock: Tells the time.
    """

    def __init__(self, *, calls: int, tokens: int, clock: Clock) -> None:
        self._rates = (calls / _MINUTE_S, tokens / _MINUTE_S)
        self._most = (float(calls), float(tokens))
        self._left = list(self._most)
        self._clock = clock
        self._at = clock.monotonic()

    def take(self, *, tokens: int) -> None:
        """A call was made."""
        self._refill()
        self._left[0] -= 1
        self._left[1] -= tokens

    def wait_s(self) -> float:
        """How long until another run may begin; 0: it may now."""
        self._refill()
        return max(0.0, *(-left / rate for left, rate in zip(self._left, self._rates, strict=True)))

    def _refill(self) -> None:
        now = self._clock.monotonic()
        passed, self._at = now - self._at, now
        for i in range(2):
            self._left[i] = min(self._most[i], self._left[i] + passed * self._rates[i])
