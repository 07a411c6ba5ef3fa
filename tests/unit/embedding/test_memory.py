"""Equal texts: in flight, remembered, and of other tenants."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from embedding.core.memory import Memory
from embedding.core.ports import EmbedResult, LocalSource, ModelInfo, TextKind
from servicekit.context import scope
from servicekit.errors import Unavailable
from tests.support.embedding_fakes import FakeEmbedder

QUERY, PASSAGE = TextKind.QUERY, TextKind.PASSAGE


class Held(FakeEmbedder):
    """Answers when it is let; the vector tells the text."""

    def __init__(self, *, held: bool = False, fingerprint: str = "f") -> None:
        super().__init__(LocalSource(folder=Path("m")))
        self.go_on = asyncio.Event()
        self.failure: Exception | None = None
        self.cancelled = 0
        self.fingerprint = fingerprint
        if not held:
            self.go_on.set()

    async def describe(self) -> ModelInfo:
        return ModelInfo(
            name="m", dimension=2, max_input_tokens=8, fingerprint=self.fingerprint, provider="onnx"
        )

    async def embed(self, texts: Sequence[str], kind: TextKind) -> EmbedResult:
        plain = await super().embed(texts, kind)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        vectors = np.array([[len(text), ord(text[0])] for text in texts], np.float32)
        return EmbedResult(vectors=vectors, truncated=plain.truncated, tokens=[len(t) for t in texts])

    @property
    def asked(self) -> list[list[str]]:
        return [texts for texts, _ in self.calls]


async def _steps() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_text_that_is_known_is_not_embedded_again() -> None:
    memory, model = Memory(max_bytes=10_000), Held()
    first = await memory.embed("t", model, ["a", "much too long", "a"], QUERY)
    second = await memory.embed("t", model, ["much too long", "b", "a"], QUERY)
    assert model.asked == [["a", "much too long"], ["b"]]
    assert first.result.vectors.tolist() == [[1, 97], [13, 109], [1, 97]]
    assert second.result.vectors.tolist() == [[13, 109], [1, 98], [1, 97]]
    assert (first.result.truncated, second.result.truncated) == ([1], [0])
    assert (first.hits, first.shared, first.tokens_read, first.result.input_tokens) == (0, 1, 14, 15)
    assert (second.hits, second.shared, second.tokens_read, second.result.input_tokens) == (2, 0, 1, 15)


@pytest.mark.parametrize("other", ["tenant", "kind", "model"])
async def test_what_is_known_is_of_one_tenant_kind_and_model(other: str) -> None:
    memory, model, held = Memory(max_bytes=10_000), Held(), Held(held=True)
    tenant, kind = ("u" if other == "tenant" else "t"), (PASSAGE if other == "kind" else QUERY)
    fingerprint = "g" if other == "model" else "f"
    await memory.embed("t", model, ["a"], QUERY)
    second = Held(fingerprint=fingerprint)
    assert (await memory.embed(tenant, second, ["a"], kind)).hits == 0
    assert second.asked == [["a"]]
    # Nor do they wait for each other's.
    flying = asyncio.create_task(memory.embed("t", held, ["c"], QUERY))
    await _steps()
    assert (await memory.embed(tenant, second, ["c"], kind)).shared == 0
    held.go_on.set()
    await flying


async def test_equal_texts_in_flight_share_one_pass_even_without_memory() -> None:
    memory, model = Memory(max_bytes=0), Held(held=True)
    first = asyncio.create_task(memory.embed("t", model, ["a", "b"], QUERY))
    await _steps()
    second = asyncio.create_task(memory.embed("t", model, ["b", "c"], QUERY))
    await _steps()
    model.go_on.set()
    assert (await second).result.vectors.tolist() == [[1, 98], [1, 99]]
    assert ((await second).shared, (await second).tokens_read) == (1, 1)
    assert (await first).result.vectors.tolist() == [[1, 97], [1, 98]]
    await memory.embed("t", model, ["a"], QUERY)
    assert model.asked == [["a", "b"], ["c"], ["a"]]


async def test_the_first_caller_may_leave_and_the_last_takes_the_work_along() -> None:
    memory, model = Memory(max_bytes=0), Held(held=True)
    first = asyncio.create_task(memory.embed("t", model, ["a"], QUERY))
    await _steps()
    # Its own text comes first, and it keeps what it joined going all the while.
    second = asyncio.create_task(memory.embed("t", model, ["b", "a"], QUERY))
    await _steps()
    first.cancel()
    await _steps()
    assert model.cancelled == 0
    second.cancel()
    await _steps()
    assert model.cancelled == 2
    model.go_on.set()
    assert (await memory.embed("t", model, ["a"], QUERY)).result.vectors.tolist() == [[1, 97]]


async def test_a_failure_is_shared_and_not_kept() -> None:
    memory, model = Memory(max_bytes=10_000), Held(held=True)
    calls = [asyncio.create_task(memory.embed("t", model, ["a"], QUERY)) for _ in range(3)]
    await _steps()
    model.failure = Unavailable("gone", reason="MODEL_UNAVAILABLE")
    model.go_on.set()
    for call in calls:
        with pytest.raises(Unavailable):
            await call
    model.failure = None
    assert (await memory.embed("t", model, ["a"], QUERY)).hits == 0
    assert model.asked == [["a"], ["a"]]


async def test_the_first_callers_deadline_is_not_that_of_the_others() -> None:
    memory, model = Memory(max_bytes=0), Held(held=True)

    async def ask(timeout: timedelta) -> list[list[float]]:
        with scope(timeout=timeout):
            done = await memory.embed("t", model, ["a"], QUERY)
        return list(done.result.vectors.tolist())

    hurried = asyncio.create_task(ask(timedelta(0)))
    await _steps()
    patient = asyncio.create_task(ask(timedelta(seconds=20)))
    await _steps()
    model.failure = Unavailable("did not answer in time", reason="MODEL_UNAVAILABLE")
    model.go_on.set()
    with pytest.raises(Unavailable):
        await hurried
    model.failure = None
    assert await patient == [[1, 97]]
    assert model.asked == [["a"], ["a"]]


async def test_the_memory_is_bounded_and_questions_outlive_an_ingest() -> None:
    changes: list[int] = []
    memory, model = Memory(max_bytes=10 * 408 * 2, observe=changes.append), Held()
    await memory.embed("t", model, ["question"], QUERY)
    await memory.embed("t", model, [f"passage {n}" for n in range(40)], PASSAGE)
    assert sum(changes) == 11 * 408
    assert (await memory.embed("t", model, ["question"], QUERY)).hits == 1
    newest = [f"passage {n}" for n in range(30, 40)]
    assert (await memory.embed("t", model, newest, PASSAGE)).hits == 10
    assert (await memory.embed("t", model, ["passage 29"], PASSAGE)).hits == 0
    # Passage 30 was the one not used for longest.
    assert (await memory.embed("t", model, ["passage 30"], PASSAGE)).hits == 0
    assert sum(changes) == 11 * 408
