"""How a run is followed, wherever it is worked on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta
from typing import Any

import structlog

from orchestrator.core.log import Item, LogUnavailable, RunLog
from orchestrator.core.model import MessageCompleted, ModelCallFinished, StoredEvent, TextDelta
from orchestrator.core.ports import Followed, Peers, RunRow, SessionLog
from orchestrator.core.recorded import text_id
from servicekit.errors import DeadlineExceeded, NotFound, ResourceExhausted, ServiceError, Unavailable

log = structlog.get_logger()

# Until the store is asked again, whatever it knows: a session service of before
# the schema 0007, beside newer ones, does not say that it has appended something.
_WAIT = timedelta(seconds=10)
_TRY_OWNER_AGAIN = timedelta(seconds=2)  # as long as somebody works on the run who cannot be reached
_PAUSE_S = 1.0  # where the store does not wait for us
_QUIET_S = 1.0  # after which it is asked whether the owner is still the owner


class Following:
    """Follows runs: here, through their owner, or through the store.

    Args:
        store: Where logs are.
        peers: Other orchestrators.
        address: Ours, as the store knows it.
        find: The log of a run that is worked on here, if it is the caller's.
    """

    def __init__(
        self, *, store: SessionLog, peers: Peers, address: str, find: Callable[[str], RunLog | None]
    ) -> None:
        self._store = store
        self._peers = peers
        self._address = address
        self._find = find
        self._arrived = asyncio.Event()
        self._stopping = False

    def arrived(self) -> None:
        """A run is worked on here from now on."""
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()

    def stop(self) -> None:
        """Sends all followers elsewhere."""
        self._stopping = True
        self.arrived()

    async def follow(self, run: str, *, after: int, forwarded: bool) -> AsyncIterator[Sequence[Item]]:
        """A run's events after a sequence, until its end; with texts if its owner can be reached.

        `forwarded`: another orchestrator asks, because the run should be here.

        Raises:
            NotFound: RUN_NOT_FOUND.
            Unavailable: The process stops, or does not work on a forwarded run; ask again.
        """
        shown: dict[str, str] = {}
        while True:
            arrived = self._arrived
            known = self._find(run)
            if known is not None:
                with suppress(LogUnavailable):  # it is worked on elsewhere now
                    async for items in known.follow(after):
                        yield items
                        after = _last(items, after)
                    return
            if forwarded or self._stopping:
                raise _elsewhere(run)
            row = await self._store.get(run)
            if row.owner_address and row.owner_address != self._address:
                async with aclosing(self._through_owner(row, after)) as stream:
                    async for passed in stream:
                        yield passed
                        after = _last(passed, after)
                        if _has_end(passed):
                            return
                if self._find(run) is not None:
                    continue  # it came to us meanwhile, with its texts
            wait = _TRY_OWNER_AGAIN if row.owner_address else _WAIT
            if row.is_over:
                wait = timedelta(0)
            events = await self._from_store(run, after, wait, arrived)
            if events:
                yield _with_texts(events, shown)
                after = events[-1].sequence
                if events[-1].is_last:
                    return
            elif row.is_over:
                return

    async def _from_store(
        self, run: str, after: int, wait: timedelta, arrived: asyncio.Event
    ) -> Sequence[StoredEvent]:
        """What the store gets within a time; nothing if there is nothing, or a run came to us meanwhile."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        reading = asyncio.ensure_future(self._read(run, after, wait))
        arriving = asyncio.ensure_future(arrived.wait())
        try:
            await asyncio.wait([reading, arriving], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                return ()
            events = reading.result()
            pause_s = min(_PAUSE_S, wait.total_seconds()) - (loop.time() - began)
            if not events and pause_s > 0:
                await asyncio.wait([arriving], timeout=pause_s)
            return events
        finally:
            for task in (reading, arriving):
                task.cancel()
            await asyncio.wait([reading, arriving])

    async def _read(self, run: str, after: int, wait: timedelta) -> Sequence[StoredEvent]:
        try:
            return await self._store.events(run, after=after, wait=wait)
        except ResourceExhausted as error:
            log.warning("not_followed", run=run, error=error.message)
            return await self._store.events(run, after=after)

    async def _through_owner(self, row: RunRow, after: int) -> AsyncGenerator[Followed, None]:
        """What the owner streams, as long as it is the owner and can be reached."""
        stream: Any = self._peers.follow(row.owner_address, row.name, after=after)
        async with aclosing(stream):
            following = asyncio.ensure_future(_next(stream))
            try:
                while not self._stopping:
                    await asyncio.wait([following], timeout=_QUIET_S)
                    if following.done():
                        items = following.result()
                        if items is None:
                            return
                        following = asyncio.ensure_future(_next(stream))
                        yield items
                    elif not await self._still_owned(row) and not following.done():
                        # After a pause of this process the last of it may have arrived only now.
                        return
            except (Unavailable, DeadlineExceeded, NotFound) as error:
                log.info("owner_not_reached", run=row.name, owner=row.owner_address, error=error.message)
            finally:
                following.cancel()
                await asyncio.wait([following])

    async def _still_owned(self, row: RunRow) -> bool:
        try:
            return (await self._store.get(row.name)).owner_address == row.owner_address
        except ServiceError:
            return True  # the store cannot be asked; what we have is the best there is


def _with_texts(events: Sequence[StoredEvent], shown: dict[str, str]) -> list[Item]:
    """Events with the whole texts before them: pieces of an earlier attempt may have been seen."""
    out: list[Item] = []
    for event in events:
        step = event.step
        if isinstance(step, ModelCallFinished):
            message, text = text_id(step.step), step.text
        elif isinstance(step, MessageCompleted):
            message, text = step.message.name, step.message.content
        else:
            message, text = "", ""
        if text and shown.get(message) != text:
            shown[message] = text
            out.append(TextDelta(message=message, offset=0, text=text, member=event.member))
        out.append(event)
    return out


async def _next(stream: AsyncIterator[Followed]) -> Followed | None:
    return await anext(stream, None)


def _last(items: Sequence[Item], after: int) -> int:
    for item in reversed(items):
        if not isinstance(item, TextDelta):
            return item.sequence
    return after


def _has_end(items: Followed) -> bool:
    return any(not isinstance(item, TextDelta) and item.is_last for item in items)


def _elsewhere(run: str) -> Unavailable:
    return Unavailable(
        f"{run} is not worked on by this process any more; follow it again",
        reason="DEPENDENCY_UNAVAILABLE",
        metadata={"run": run},
    )
