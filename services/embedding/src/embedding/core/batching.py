"""Calls of several callers as one."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from embedding.core.admission import Admission
from embedding.core.ports import Embedder, EmbedResult, ModelInfo, TextKind
from servicekit.context import remaining_s, scope
from servicekit.errors import ResourceExhausted, Unavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much is put together.

    Attributes:
        texts: In one batch.
        chars: In one batch. A call that is larger goes alone, and at once.
        lanes: Batches at a time, of each kind.
        wait: How long the first of a batch waits for others while another batch is on its way. Nobody
            waits when none is.
    """

    texts: int
    chars: int
    lanes: int
    wait: timedelta = timedelta(0)


@dataclass(slots=True, eq=False)
class _Call:
    texts: Sequence[str]
    chars: int
    left_s: float | None
    context: contextvars.Context
    future: asyncio.Future[EmbedResult]
    admitted: bool = True
    batch: _Batch | None = None


@dataclass(slots=True, eq=False)
class _Batch:
    calls: list[_Call]
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class _Lane:
    kind: TextKind
    waiting: list[_Call] = field(default_factory=list)
    running: int = 0
    timer: asyncio.TimerHandle | None = None


class Batching:
    """`Embedder` that asks another for several callers at once.

    Questions and passages never share a batch, nor wait for each other here.

    Args:
        embedder: The one that is asked; it is closed with this.
        bounds: How much is put together.
        admission: The one that `embedder` holds places in; what waits here holds places too.
        observe: Told the size of each batch, in texts.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        bounds: Bounds,
        admission: Admission,
        observe: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._embedder = embedder
        self._bounds = bounds
        self._admission = admission
        self._observe = observe
        self._lanes = {kind: _Lane(kind) for kind in TextKind}
        self._batches: set[_Batch] = set()
        self._closed = False

    async def describe(self) -> ModelInfo:
        """See Embedder."""
        return await self._embedder.describe()

    async def embed(self, texts: Sequence[str], kind: TextKind) -> EmbedResult:
        """See Embedder."""
        chars = sum(map(len, texts))
        if len(texts) > self._bounds.texts or chars > self._bounds.chars:
            return await self._embedder.embed(texts, kind)
        if self._closed:
            raise _stopping()
        self._admission.take(len(texts))
        future: asyncio.Future[EmbedResult] = asyncio.get_running_loop().create_future()
        call = _Call(texts, chars, remaining_s(), contextvars.copy_context(), future)
        lane = self._lanes[kind]
        lane.waiting.append(call)
        self._pump(lane)
        try:
            return await future
        finally:
            self._forget(lane, call)

    async def aclose(self) -> None:
        """Refuses what waits, lets what runs end, closes the embedder."""
        self._closed = True
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()
            for call in lane.waiting:
                if not call.future.done():
                    call.future.set_exception(_stopping())
            lane.waiting.clear()
        await self._embedder.aclose()
        running = [batch.task for batch in self._batches if batch.task is not None]
        if running:
            await asyncio.wait(running)

    def _forget(self, lane: _Lane, call: _Call) -> None:
        self._release(call)
        if call.batch is None:
            if call in lane.waiting:  # its caller left
                lane.waiting.remove(call)
        elif call.batch.task is not None and all(each.future.done() for each in call.batch.calls):
            call.batch.task.cancel()  # nobody waits any more; nothing happens if it has ended

    def _release(self, call: _Call) -> None:
        if call.admitted:
            call.admitted = False
            self._admission.give(len(call.texts))

    # -- what goes, and when -----------------------------------------------------

    def _pump(self, lane: _Lane) -> None:
        wait_s = self._bounds.wait.total_seconds()
        while lane.waiting and lane.running < self._bounds.lanes and not self._closed:
            # While another is on its way, more will come: a full batch goes, the others wait a little.
            if wait_s and lane.running and not self._full(lane):
                if lane.timer is None:
                    lane.timer = asyncio.get_running_loop().call_later(wait_s, self._waited, lane)
                return
            self._go(lane)

    def _waited(self, lane: _Lane) -> None:
        lane.timer = None
        if lane.waiting and lane.running < self._bounds.lanes and not self._closed:
            self._go(lane)
        self._pump(lane)

    def _full(self, lane: _Lane) -> bool:
        return (
            sum(len(call.texts) for call in lane.waiting) >= self._bounds.texts
            or sum(call.chars for call in lane.waiting) >= self._bounds.chars
        )

    def _go(self, lane: _Lane) -> None:
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        texts = chars = count = 0
        for call in lane.waiting:
            texts, chars = texts + len(call.texts), chars + call.chars
            if count and (texts > self._bounds.texts or chars > self._bounds.chars):
                break
            count += 1
        batch = _Batch(lane.waiting[:count])
        del lane.waiting[:count]
        lane.running += 1
        self._batches.add(batch)
        for call in batch.calls:
            call.batch = batch
        loop = asyncio.get_running_loop()
        batch.task = loop.create_task(self._run(lane, batch), context=batch.calls[0].context)

    # -- a batch -----------------------------------------------------------------

    async def _run(self, lane: _Lane, batch: _Batch) -> None:
        calls = batch.calls
        try:
            # From here on the embedder holds their places.
            for call in calls:
                self._release(call)
            self._observe(sum(len(call.texts) for call in calls))
            if len(calls) == 1:
                await self._alone(calls[0], lane.kind)
            else:
                await self._together(calls, lane.kind)
        finally:
            for call in calls:
                if not call.future.done():  # the batch was cancelled, which nobody but its callers does
                    call.future.cancel()
            self._batches.discard(batch)
            lane.running -= 1
            self._pump(lane)

    async def _alone(self, call: _Call, kind: TextKind) -> None:
        try:
            result = await self._embedder.embed(call.texts, kind)
        except Exception as exc:  # noqa: BLE001 - handed to the caller, whatever it is
            if not call.future.done():
                call.future.set_exception(exc)
        else:
            if not call.future.done():
                call.future.set_result(result)

    async def _together(self, calls: Sequence[_Call], kind: TextKind) -> None:
        lefts = [call.left_s for call in calls if call.left_s is not None]
        # The most patient caller's; the others leave when their own is over.
        timeout = timedelta(seconds=max(0.0, *lefts)) if len(lefts) == len(calls) else None
        texts = [text for call in calls for text in call.texts]
        with scope(timeout=timeout):
            try:
                result = await self._embedder.embed(texts, kind)
            except (Unavailable, ResourceExhausted) as exc:
                for call in calls:
                    if not call.future.done():
                        call.future.set_exception(exc)
                return
            except Exception:  # noqa: BLE001 - one text may be the reason: each call by itself says which
                await self._apart(calls, kind)
                return
        start, again = 0, []
        for call in calls:
            end = start + len(call.texts)
            cut = [index - start for index in result.truncated if start <= index < end]
            if cut:
                # An endpoint that refuses a text for its length makes us cut all texts of the request.
                again.append(call)
            elif not call.future.done():
                call.future.set_result(
                    EmbedResult(
                        vectors=result.vectors[start:end], truncated=cut, tokens=result.tokens[start:end]
                    )
                )
            start = end
        await self._apart(again, kind)

    async def _apart(self, calls: Sequence[_Call], kind: TextKind) -> None:
        async with asyncio.TaskGroup() as group:
            for call in calls:
                if not call.future.done():
                    # In the caller's own context: its deadline, its trace.
                    group.create_task(self._alone(call, kind), context=call.context)


def _stopping() -> Unavailable:
    return Unavailable("the embedding service is stopping; try again", reason="MODEL_UNAVAILABLE")
