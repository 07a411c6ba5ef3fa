"""What all calls of a ModelConfig from this process pass: its limits, its endpoint's wishes, its breaker."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from prometheus_client import Gauge, Histogram

from manifests import ModelConfig
from orchestrator.core.model_metrics import begin_at_zero
from orchestrator.core.pace import Breaker, Bucket
from servicekit.errors import Internal, ResourceExhausted, ServiceError, Unavailable
from servicekit.labels import BoundedLabels
from servicekit.spans import observe

BREAKER = Gauge(
    "agentteams_model_breaker_state",
    "0 closed, 1 trying one call, 2 open",
    ["model_config"],
)
QUEUED = Gauge("agentteams_model_queued_calls", "Model calls that wait to be made", ["model_config"])
QUEUE_SECONDS = Histogram(
    "agentteams_model_queue_seconds",
    "How long a model call waited for its limits before it was made",
    ["model_config"],
    buckets=(0.001, 0.01, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)

_MAX_WAITING = 1000
_MAX_PAUSE_S = 600.0  # a Retry-After of a day is a mistake more often than a plan
_LONGEST_PAUSE_WAITED_S = 30.0  # whoever would wait longer is better told at once
_LEAST_RETRY_S = 1.0
_MAX_GATES = 1000
_MAX_LABELS = 200


class Pass:
    """A call that was let through; enter it as a context. Its outcome decides about the next ones.

    Attributes:
        tokens: What the call used; set it when that is known.
    """

    def __init__(self, gate: "Gate", *, tokens: int, trial: bool) -> None:
        self._gate = gate
        self.reserved = tokens
        self.tokens = tokens
        self.trial = trial

    def __enter__(self) -> "Pass":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.leave(self, error)


@dataclass(slots=True)
class _Waiting:
    tokens: int
    admitted: "asyncio.Future[Pass]"


class Gate:
    """Lets calls through in the order in which they came.

    Args:
        config: Whose limits hold.
        label: Its name in metrics.
    """

    def __init__(self, config: ModelConfig, *, label: str) -> None:
        now = _now()
        limits = config.spec.limits
        self.config = config
        self.label = label
        self._free = limits.max_concurrent
        self._requests = _bucket(limits.requests_per_minute, now)
        self._tokens = _bucket(limits.tokens_per_minute, now)
        self._paused_until = 0.0
        self._line: deque[_Waiting] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._breaker = Breaker()
        self._last_failure = ""
        self._queued = QUEUED.labels(label)
        self._queue_seconds = QUEUE_SECONDS.labels(label)
        self._breaker_state = BREAKER.labels(label)
        self._show_breaker()

    @property
    def is_idle(self) -> bool:
        """Whether nothing passes and nothing waits."""
        return not self._line and self._free == self.config.spec.limits.max_concurrent

    def paused_s(self) -> float:
        """Seconds for which the endpoint wishes no calls (Retry-After)."""
        return max(0.0, self._paused_until - _now())

    async def enter(self, *, tokens: int, patience_s: float) -> Pass:
        """Waits until a call of about so many tokens may be made.

        Raises:
            ResourceExhausted: MODEL_RATE_LIMITED: that takes longer than `patience_s`, known at once or
                found out by then; or too many wait already.
            Unavailable: MODEL_UNAVAILABLE: the breaker is open.
        """
        began = _now()
        refused_s = self._breaker.refuses_s(began)
        if refused_s > 0:
            raise self._broken(refused_s)
        if not self._line and self._free > 0 and self._delay_s(tokens, began) <= 0:
            observe(self._queue_seconds, 0.0)
            return self._admit(tokens)
        expected_s, why = self._expected(tokens, began)
        if len(self._line) >= _MAX_WAITING:
            raise self._busy(f"{_MAX_WAITING} calls wait for it already", expected_s)
        if expected_s > patience_s or self.paused_s() > _LONGEST_PAUSE_WAITED_S:
            wait = "" if expected_s <= patience_s else f", and this one may wait {patience_s:.1f} s"
            raise self._busy(f"the next call may be made in {expected_s:.1f} s ({why}){wait}", expected_s)
        return await self._wait(tokens, patience_s, began)

    def leave(self, passed: Pass, error: BaseException | None) -> None:
        """A call has ended."""
        now = _now()
        self._free += 1
        if self._tokens and passed.tokens != passed.reserved:
            self._tokens.take(passed.tokens - passed.reserved)
        if isinstance(error, ServiceError) and error.retry_after is not None:
            pause_s = min(error.retry_after.total_seconds(), _MAX_PAUSE_S)
            self._paused_until = max(self._paused_until, now + pause_s)
        if isinstance(error, Unavailable | Internal):
            self._last_failure = error.message
            self._breaker.failed(trial=passed.trial, now=now)
        elif error is None or isinstance(error, ResourceExhausted):
            self._breaker.succeeded(trial=passed.trial, now=now)
        else:
            self._breaker.abandoned(trial=passed.trial)
        self._show_breaker()
        self._pump()

    async def _wait(self, tokens: int, patience_s: float, began: float) -> Pass:
        waiting = _Waiting(tokens, asyncio.get_running_loop().create_future())
        self._line.append(waiting)
        self._queued.inc()
        self._pump()
        try:
            async with asyncio.timeout(None if patience_s == float("inf") else patience_s):
                return await self._admitted(waiting)
        except TimeoutError:
            expected_s, why = self._expected(tokens, _now())
            raise self._busy(
                f"it was not this call's turn within {patience_s:.1f} s ({why})", expected_s
            ) from None
        finally:
            self._queued.dec()
            observe(self._queue_seconds, _now() - began)

    async def _admitted(self, waiting: _Waiting) -> Pass:
        try:
            return await waiting.admitted
        except asyncio.CancelledError as gone:
            admitted = waiting.admitted
            if admitted.done() and not admitted.cancelled() and admitted.exception() is None:
                self.leave(admitted.result(), gone)  # its turn came as it gave up
            else:
                self._pump()  # it may have held up those behind it
            raise

    def _pump(self) -> None:
        """Lets through whose turn it is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._line:
            now = _now()
            head = self._line[0]
            if head.admitted.done():
                self._line.popleft()  # it gave up
                continue
            refused_s = self._breaker.refuses_s(now)
            if refused_s > 0:
                self._line.popleft()
                head.admitted.set_exception(self._broken(refused_s))
                continue
            if self._free <= 0:
                return  # leave() comes here again
            delay_s = self._delay_s(head.tokens, now)
            if delay_s > 0:
                self._timer = asyncio.get_running_loop().call_later(delay_s, self._pump)
                return
            self._line.popleft()
            head.admitted.set_result(self._admit(head.tokens))

    def _admit(self, tokens: int) -> Pass:
        self._free -= 1
        if self._requests:
            self._requests.take(1)
        if self._tokens:
            self._tokens.take(tokens)
        trial = self._breaker.begin()
        self._show_breaker()
        return Pass(self, tokens=tokens, trial=trial)

    def _delay_s(self, tokens: int, now: float) -> float:
        return max(
            self._paused_until - now,
            self._requests.delay_s(1, now=now) if self._requests else 0.0,
            self._tokens.delay_s(tokens, now=now) if self._tokens else 0.0,
        )

    def _expected(self, tokens: int, now: float) -> tuple[float, str]:
        """Seconds until a call may be made behind those that wait, as far as can be known, and why."""
        ahead = [one.tokens for one in self._line if not one.admitted.done()]
        delays = [(self._paused_until - now, "its endpoint asked for a pause")]
        if self._requests:
            delay_s = self._requests.delay_s(1, now=now, ahead=len(ahead))
            delays.append((delay_s, "limits.requestsPerMinute"))
        if self._tokens:
            delay_s = self._tokens.delay_s(tokens, now=now, ahead=sum(ahead))
            delays.append((delay_s, "limits.tokensPerMinute"))
        longest_s, why = max(delays)
        return (longest_s, why) if longest_s > 0 else (0.0, "limits.maxConcurrent")

    def _show_breaker(self) -> None:
        self._breaker_state.set(self._breaker.state.value)

    def _busy(self, what: str, retry_s: float) -> ResourceExhausted:
        name = self.config.metadata.name
        return ResourceExhausted(
            f"model {name} is busy: {what}",
            reason="MODEL_RATE_LIMITED",
            metadata={"model": name},
            retry_after=timedelta(seconds=max(retry_s, _LEAST_RETRY_S)),
        )

    def _broken(self, retry_s: float) -> Unavailable:
        name = self.config.metadata.name
        return Unavailable(
            f"model {name} is left alone for {retry_s:.1f} s after several failures, the last one: "
            f"{self._last_failure}",
            reason="MODEL_UNAVAILABLE",
            metadata={"model": name},
            retry_after=timedelta(seconds=max(retry_s, _LEAST_RETRY_S)),
        )


class Gates:
    """The gates of this process, one for each ModelConfig; a changed one gets a new gate.

    Attributes:
        labels: What metrics call ModelConfigs, as namespace/name.
    """

    def __init__(self) -> None:
        self._gates: OrderedDict[tuple[str, str], Gate] = OrderedDict()
        self.labels = BoundedLabels(_MAX_LABELS, new=begin_at_zero)

    def of(self, config: ModelConfig) -> Gate:
        """The ModelConfig's."""
        key = (config.metadata.namespace, config.metadata.name)
        gate = self._gates.get(key)
        if gate is None or (gate.config is not config and gate.config.spec != config.spec):
            gate = self._gates[key] = Gate(config, label=self.label(*key))
        self._gates.move_to_end(key)
        if len(self._gates) > _MAX_GATES:
            self._forget_an_idle_one()
        return gate

    def label(self, namespace: str, name: str) -> str:
        """What metrics call a ModelConfig; of very many the last ones are called "other"."""
        return self.labels.of(f"{namespace}/{name}")

    def _forget_an_idle_one(self) -> None:
        for key, gate in self._gates.items():
            if gate.is_idle:
                del self._gates[key]
                return


def _bucket(per_minute: int | None, now: float) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute, now=now)


def _now() -> float:
    return asyncio.get_running_loop().time()
