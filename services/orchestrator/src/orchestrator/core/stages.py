"""Where a turn's time went."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from orchestrator.core.totals import StageTime
from servicekit.clock import Clock
from servicekit.telemetry import observe_stage, stage_span

# Seconds that stages inside the current one took; each task of a turn has its own chain.
_inside: ContextVar[list[float] | None] = ContextVar("stage_inside", default=None)

ORDER = (
    "accept",
    "session_load",
    "context_assembly",
    "embedding",
    "vector_search",
    "rerank",
    "llm_inference",
    "tool",
    "session_save",
)


class StageClock:
    """Adds up stages. A stage's time excludes the stages inside it (docs/turn.md).

    `earlier_s`: since the run was accepted, if others have worked on it before;
    it counts for the whole and for no stage.
    """

    def __init__(self, clock: Clock, *, earlier_s: float = 0.0) -> None:
        self._clock = clock
        self._earlier_s = earlier_s
        self._started = clock.monotonic()
        self._seconds: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._active = 0
        self._busy = 0
        self._active_since = 0.0
        self._quiet_since = self._started
        self._covered = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the turn began."""
        return self._clock.monotonic() - self._started

    @property
    def quiet_s(self) -> float:
        """Seconds since the last stage ended; 0 while there is one, or somebody is busy."""
        return 0.0 if self._active or self._busy else self._clock.monotonic() - self._quiet_since

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Something goes on that is no stage, such as the pause before another attempt."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._quiet_since = max(self._quiet_since, self._clock.monotonic())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures the block, however it ends."""
        outer = _inside.get()
        inside = [0.0]
        token = _inside.set(inside)
        began = self._clock.monotonic()
        if self._active == 0:
            self._active_since = began
        self._active += 1
        try:
            with stage_span(name):
                yield
        finally:
            ended = self._clock.monotonic()
            _inside.reset(token)
            self._active -= 1
            if self._active == 0:
                self._covered += ended - self._active_since
                self._quiet_since = ended
            if outer is not None:
                outer[0] += ended - began
            # What ran side by side inside, or another machine measured, can exceed the block.
            self._add(name, max(0.0, ended - began - inside[0]))

    def move(self, to: str, seconds: float) -> None:
        """Within a stage: says that `seconds` of it belong to another one (a service told us)."""
        inside = _inside.get()
        if inside is not None:
            inside[0] += seconds
        self._add(to, seconds)

    def result(self) -> tuple[float, tuple[StageTime, ...]]:
        """Seconds of the turn so far, and its stages with `unaccounted` last."""
        now = self._clock.monotonic()
        covered = self._covered + (now - self._active_since if self._active else 0.0)
        total = now - self._started + self._earlier_s
        stages = [
            StageTime(stage=name, seconds=self._seconds[name], count=self._counts[name])
            for name in ORDER
            if name in self._seconds
        ]
        stages.append(StageTime(stage="unaccounted", seconds=max(0.0, total - covered), count=1))
        return total, tuple(stages)

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
        self._counts[name] = self._counts.get(name, 0) + 1
        observe_stage(name, seconds)
