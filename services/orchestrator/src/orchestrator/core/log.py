"""A run's log as it is written, and as it is followed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

import structlog

from orchestrator.core.model import Event, RunFinished, Step, StoredEvent, TextDelta
from orchestrator.core.ports import Appended, SessionLog
from servicekit.clock import Clock
from servicekit.errors import Conflict, DeadlineExceeded, Unavailable

log = structlog.get_logger()

Item = StoredEvent | TextDelta

_LINGER_S = 0.2  # events wait this long for company (docs/turn.md)
_DELTA_S = 0.04
_DELTA_CHARS = 400
_RETRY_S = 0.2
_RETRY_MAX_S = 1.0
# While nobody can store anything, nobody can take the run over: waiting harms no one.
_GIVE_UP_S = 60.0


class LogUnavailable(Exception):
    """The log could not be stored for a minute, or is closed; the run must stop, unheard."""


class Parked(Exception):
    """The run waits for a person, and is nobody's until one answers."""


@dataclass(slots=True, kw_only=True)
class Text:
    """A text that is being written. `generation` grows when it begins anew; nobody follows a hidden one."""

    message: str
    member: str
    hidden: bool = False
    content: str = ""
    generation: int = 0


@dataclass(slots=True)
class _Seen:
    generation: int = 0
    offset: int = 0


class RunLog:
    """Stores events in order, shows them once stored, and passes texts on as they grow.

    Args:
        run: Its name.
        fencing_token: Proves that we own it.
        store: Where events are kept.
        clock: For the events' times.
        last_sequence: Of the last event that is stored already.
        on_appended: Told what the store says to each append.
    """

    def __init__(
        self,
        *,
        run: str,
        fencing_token: int,
        store: SessionLog,
        clock: Clock,
        last_sequence: int,
        on_appended: Callable[[Appended], None] = lambda _: None,
    ) -> None:
        self.run = run
        self._fencing_token = fencing_token
        self._store = store
        self._clock = clock
        self._sequence = last_sequence
        self._on_appended = on_appended
        self._waiting: list[Event] = []
        self._newest: Event | None = None  # of those that were stored
        self._storing = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        self.published: list[StoredEvent] = []
        self.finished = False
        self.end_state = ""
        self.closed = False
        self._texts: dict[str, Text] = {}
        self._dirty_chars = 0
        self._changed: asyncio.Event = asyncio.Event()

    # --- writing ----------------------------------------------------------

    def adopt(self, events: Iterable[StoredEvent]) -> None:
        """Shows events that are stored already; what is emitted follows them."""
        self.published.extend(events)
        if self.published:
            self._sequence = self.published[-1].sequence
        self._wake()

    def emit(self, step: Step, *, member: str = "") -> int:
        """Puts a step into the log, to be stored within 200 ms; returns its sequence."""
        self._sequence += 1
        self._waiting.append(Event(sequence=self._sequence, time=self._clock.now(), member=member, step=step))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LINGER_S, self._flush_soon)
        return self._sequence

    def steps(self) -> Iterator[Step]:
        """All that has happened so far, stored or not; but for kinds that this version does not know."""
        for stored in self.published:
            if stored.step is not None:
                yield stored.step
        yield from (event.step for event in self._waiting)

    async def flush(self) -> None:
        """Stores everything emitted so far and shows it.

        Retries while the session service does not answer, for a minute.

        Raises:
            ServiceError: LEASE_LOST (somebody else owns the run) or another refusal;
                once raised, every flush raises it.
            LogUnavailable: The service did not answer for a minute.
        """
        await self._store_waiting(None)

    async def park(self, until: datetime) -> bool:
        """Stores everything, and gives the run up until a person answers or the time is over.

        False if somebody has spoken already, or asked the run to stop. After it
        was parked nothing more can be stored. Raises as `flush`.
        """
        await self._store_waiting(until)
        return isinstance(self.failure, Parked)

    def now(self) -> datetime:
        """The time of the events."""
        return self._clock.now()

    async def _store_waiting(self, park_until: datetime | None) -> None:
        async with self._storing:
            if self.failure is not None:
                raise self.failure  # what it lost must not become a gap
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            new = len(self._waiting)
            if not new and (park_until is None or self._newest is None):
                return
            # An append has one event at least: to park alone, the last one is stored once more.
            batch, self._waiting = self._waiting or [self._newest], []  # type: ignore[list-item]
            try:
                appended = await self._store_batch(batch, park_until)
            except asyncio.CancelledError:
                # Perhaps stored, perhaps not: an append may be repeated, a gap may not be made.
                self._waiting[:0] = batch[:new]
                raise
            except Exception as error:
                self.failure = error
                raise
            self._newest = batch[-1]
            self.published.extend(appended.stored[:new])
            if appended.parked:
                self.failure = Parked(self.run)
            end = batch[-1].step
            if isinstance(end, RunFinished):
                self.finished, self.end_state = True, end.state
            self._wake()
            self._on_appended(appended)

    def own_again(self, fencing_token: int) -> bool:
        """The lease had run out, and this process took the run over; False if others had it in between."""
        if fencing_token != self._fencing_token + 1:
            return False
        self._fencing_token = fencing_token
        return True

    async def _store_batch(self, batch: list[Event], park_until: datetime | None) -> Appended:
        give_up = self._clock.monotonic() + _GIVE_UP_S
        delay = _RETRY_S
        while True:
            token = self._fencing_token
            try:
                return await self._store.append(
                    self.run, fencing_token=token, events=batch, park_until=park_until
                )
            except Conflict:
                if token == self._fencing_token:
                    raise
            except (Unavailable, DeadlineExceeded) as error:
                if self._clock.monotonic() + delay > give_up:
                    raise LogUnavailable(f"{self.run}: {error.message}") from error
                log.warning("run_log_retried", run=self.run, error=error.message, retry_s=delay)
                await asyncio.sleep(delay)
                delay = min(2 * delay, _RETRY_MAX_S)

    def _flush_soon(self) -> None:
        self._timer = None
        # One at a time, which takes what comes meanwhile too; close() waits for it.
        if self._linger is None or self._linger.done():
            self._linger = asyncio.get_running_loop().create_task(self._flush_logged())

    async def _flush_logged(self) -> None:
        try:
            while self._waiting and self.failure is None:
                await self.flush()
        except Exception as error:  # noqa: BLE001  kept in self.failure: the run's next step raises it
            log.warning("run_log_failed", run=self.run, error=str(error))

    async def close(self) -> None:
        """Nothing more will come; followers that wait are told."""
        if self._timer is not None:
            self._timer.cancel()
        if self._linger is not None:
            await asyncio.wait([self._linger])
        self.closed = True
        self._wake()

    # --- texts ------------------------------------------------------------

    def text(self, message: str) -> Text:
        """A text that was begun."""
        return self._texts[message]

    def begin_text(self, message: str, *, member: str, hidden: bool = False) -> Text:
        """A text that followers will see grow, unless it is hidden."""
        text = self._texts[message] = Text(message=message, member=member, hidden=hidden)
        return text

    def grow(self, text: Text, piece: str) -> None:
        """Adds to a text; the first piece goes out at once, the others in lumps."""
        first = not text.content
        text.content += piece
        self._dirty_chars += len(piece)
        if first or self._dirty_chars >= _DELTA_CHARS:
            self._wake()
        elif self._dirty_chars == len(piece):
            asyncio.get_running_loop().call_later(_DELTA_S, self._wake)

    def begin_anew(self, text: Text) -> None:
        """Forgets what was written: its model call is made again."""
        if text.content:
            text.content = ""
            text.generation += 1
            self._wake()

    # --- following --------------------------------------------------------

    async def follow(self, after: int) -> AsyncIterator[list[Item]]:
        """Stored events after a sequence and texts as they grow, until the run has ended.

        Each list is what came since the one before: texts first, so that a
        message's text is there before its end is.

        Raises:
            LogUnavailable: The log was closed before the run's end.
        """
        seen: dict[str, _Seen] = {}
        index = 0
        while True:
            changed = self._changed
            texts = [text for text in self._texts.values() if not text.hidden]
            deltas = [_advance(text, seen.setdefault(text.message, _Seen())) for text in texts]
            items: list[Item] = [delta for delta in deltas if delta is not None]
            new, index = self.published[index:], len(self.published)
            items.extend(event for event in new if event.sequence > after)
            if items:
                yield items
            if new and new[-1].is_last:
                return
            if self.closed and index == len(self.published):
                raise LogUnavailable(f"{self.run} is not followed here any more")
            await changed.wait()

    def _wake(self) -> None:
        self._dirty_chars = 0
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _advance(text: Text, seen: _Seen) -> TextDelta | None:
    if seen.generation != text.generation:
        seen.generation, seen.offset = text.generation, 0
        if not text.content:
            # Told at once, so that nobody goes on showing what is void.
            return TextDelta(message=text.message, offset=0, text="", member=text.member)
    if seen.offset >= len(text.content):
        return None
    delta = TextDelta(
        message=text.message, offset=seen.offset, text=text.content[seen.offset :], member=text.member
    )
    seen.offset = len(text.content)
    return delta
