"""Calls of several callers as one: what goes when, whose time and whose failure it is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedding.core.admission import Admission
from embedding.core.batching import Batching, Bounds
from embedding.core.ports import EmbedResult, LocalSource, TextKind
from embedding.core.slots import Slots
from servicekit.context import remaining_s, scope
from servicekit.errors import FailedPrecondition, ResourceExhausted, Unavailable
from tests.support.embedding_fakes import FakeEmbedder

QUERY, PASSAGE = TextKind.QUERY, TextKind.PASSAGE


class Gated(FakeEmbedder):
    """Answers when it is let. A text `bad` is refused; a text `dense` makes it cut all to three."""

    def __init__(self, admission: Admission) -> None:
        super().__init__(LocalSource(folder=Path("m")))
        self.admission = admission
        self.go_on = asyncio.Event()
        self.left: list[float | None] = []
        self.cancelled = 0
        self.down = False

    async def embed(self, texts: Sequence[str], kind: TextKind) -> EmbedResult:
        self.calls.append((list(texts), kind))
        self.left.append(remaining_s())
        with self.admission.hold(len(texts)):
            try:
                await self.go_on.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if self.down:
            raise Unavailable("down", reason="MODEL_UNAVAILABLE")
        if "bad" in texts:
            raise FailedPrecondition("bad", reason="MODEL_REJECTED")
        shown = [text[:3] if "dense" in texts else text for text in texts]
        return EmbedResult(
            vectors=np.array([[len(text), ord(text[0])] for text in shown], np.float32),
            truncated=[i for i, (a, b) in enumerate(zip(texts, shown, strict=True)) if a != b],
            tokens=[len(text) for text in shown],
        )

    @property
    def asked(self) -> list[list[str]]:
        return [texts for texts, _ in self.calls]


class Scene:
    """A `Batching` over a `Gated`."""

    def __init__(self, *, max_texts: int = 100, **bounds: Any) -> None:
        self.held = 0
        self.sizes: list[int] = []
        admission = Admission(max_texts=max_texts, observe=self._observe)
        self.model = Gated(admission)
        self.batching = Batching(
            self.model,
            bounds=Bounds(**{"texts": 4, "chars": 100, "lanes": 1} | bounds),
            admission=admission,
            observe=self.sizes.append,
        )

    def _observe(self, by: int) -> None:
        self.held += by

    async def call(self, *texts: str, kind: TextKind = QUERY) -> asyncio.Task[EmbedResult]:
        task = asyncio.create_task(self.batching.embed(texts, kind))
        await steps()
        return task


async def steps() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lone_call_goes_at_once_and_those_that_come_meanwhile_go_together() -> None:
    scene = Scene(wait=timedelta(0))
    calls = [await scene.call(text) for text in ("a", "bb", "ccc")]
    assert scene.model.asked == [["a"]]
    assert scene.held == 3
    scene.model.go_on.set()
    assert [(await call).vectors.tolist() for call in calls] == [[[1, 97]], [[2, 98]], [[3, 99]]]
    assert [(await call).tokens for call in calls] == [[1], [2], [3]]
    assert scene.model.asked == [["a"], ["bb", "ccc"]]
    assert scene.sizes == [1, 2]
    assert scene.held == 0


async def test_batches_are_bounded_in_texts_and_characters() -> None:
    scene = Scene(chars=10)
    texts = ["a", "b1", "c1", "d1", "e1", "fffff", "ggggg", "h"]
    calls = [await scene.call(text) for text in texts]
    large = await scene.call("x" * 11)  # alone, and past those that wait
    assert scene.model.asked == [["a"], ["x" * 11]]
    scene.model.go_on.set()
    await asyncio.gather(large, *calls)
    assert scene.model.asked[2:] == [["b1", "c1", "d1", "e1"], ["fffff", "ggggg"], ["h"]]


@pytest.mark.looptime
async def test_while_another_is_on_its_way_a_batch_waits_a_little_or_until_it_is_full() -> None:
    scene = Scene(lanes=3, wait=timedelta(seconds=1))
    calls = [await scene.call(text) for text in ("a", "b", "c")]
    assert scene.model.asked == [["a"]]
    await asyncio.sleep(0.99)
    assert scene.model.asked == [["a"]]
    await asyncio.sleep(0.02)
    assert scene.model.asked == [["a"], ["b", "c"]]
    calls += [await scene.call(text) for text in ("d", "e", "f", "g")]
    assert scene.model.asked == [["a"], ["b", "c"], ["d", "e", "f", "g"]]
    scene.model.go_on.set()
    await asyncio.gather(*calls)


async def test_questions_do_not_wait_for_passages() -> None:
    scene = Scene()
    passages = [await scene.call(text, kind=PASSAGE) for text in ("p", "q")]
    question = await scene.call("a")
    assert scene.model.calls == [(["p"], PASSAGE), (["a"], QUERY)]
    scene.model.go_on.set()
    await asyncio.gather(question, *passages)
    assert scene.model.calls[2:] == [(["q"], PASSAGE)]


async def test_what_waits_is_bounded() -> None:
    scene = Scene(max_texts=3)
    calls = [await scene.call(text) for text in ("a", "b", "c")]
    with pytest.raises(ResourceExhausted) as caught:
        await scene.batching.embed(["d"], QUERY)
    assert caught.value.retry_after is not None
    scene.model.go_on.set()
    await asyncio.gather(*calls)
    await scene.batching.embed(["d"], QUERY)


async def test_one_callers_bad_text_is_its_own() -> None:
    scene = Scene()
    calls = [await scene.call(text) for text in ("a", "b", "bad", "c")]
    scene.model.go_on.set()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in done] == [EmbedResult, EmbedResult, FailedPrecondition, EmbedResult]
    scene.model.go_on.clear()
    calls = [await scene.call(text) for text in ("a", "long", "dense")]
    scene.model.go_on.set()
    a, long, dense = [await call for call in calls]
    # Cut for the sake of another caller's text: asked again by itself.
    assert [list(each.truncated) for each in (a, long, dense)] == [[], [], [0]]
    assert long.tokens == [4]


async def test_a_model_that_is_down_is_not_asked_by_each() -> None:
    scene = Scene()
    calls = [await scene.call(text) for text in ("a", "b", "c")]
    scene.model.down = True
    scene.model.go_on.set()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in done] == [Unavailable] * 3
    assert len(scene.model.asked) == 2
    assert scene.held == 0


async def test_the_batch_has_the_time_of_the_most_patient() -> None:
    scene = Scene()

    async def ask(text: str, seconds: int) -> None:
        with scope(timeout=timedelta(seconds=seconds)):
            await scene.batching.embed([text], QUERY)

    calls = []
    for text, seconds in (("a", 10), ("b", 20), ("c", 300)):
        calls.append(asyncio.create_task(ask(text, seconds)))
        await steps()
    scene.model.go_on.set()
    await asyncio.gather(*calls)
    alone, together = scene.model.left
    assert alone is not None
    assert alone <= 10
    assert together is not None
    assert 200 < together <= 300


async def test_who_leaves_takes_nothing_from_the_others() -> None:
    scene = Scene()
    first, gone, kept = [await scene.call(text) for text in ("a", "b", "c")]
    gone.cancel()
    await steps()
    assert scene.held == 2
    first.cancel()  # the only one of its batch: the batch ends
    await steps()
    assert scene.model.cancelled == 1
    assert scene.model.asked == [["a"], ["c"]]
    other = await scene.call("d")
    scene.model.go_on.set()
    assert (await kept).vectors.tolist() == [[1, 99]]
    await other
    assert scene.held == 0


async def test_closing_refuses_what_waits() -> None:
    scene = Scene()
    first, waiting = [await scene.call(text) for text in ("a", "b")]
    closing = asyncio.create_task(scene.batching.aclose())
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    scene.model.go_on.set()
    await closing
    await first
    with pytest.raises(Unavailable, match="stopping"):
        await scene.batching.embed(["c"], QUERY)


async def test_slots_go_to_the_urgent_first_and_are_never_lost() -> None:
    slots, order = Slots(1), []

    async def work(name: str, *, urgent: bool) -> None:
        async with slots.hold(urgent=urgent):
            order.append(name)

    async with asyncio.TaskGroup() as group:
        async with slots.hold(urgent=False):
            group.create_task(work("bulk 1", urgent=False))
            group.create_task(work("bulk 2", urgent=False))
            await steps()
            gone = asyncio.create_task(work("gone", urgent=True))
            group.create_task(work("question", urgent=True))
            await steps()
        # Its place was just given to it.
        gone.cancel()
    assert order == ["question", "bulk 1", "bulk 2"]
    await work("free", urgent=False)
