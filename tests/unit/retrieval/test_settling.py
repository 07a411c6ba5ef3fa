"""Callers that wait for the same thing share one question, but never one that began before they came."""

import asyncio

import pytest

from retrieval.adapters.milvus_connection import Settling


class Question:
    """Answers when told."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: list[asyncio.Future[None]] = []

    async def ask(self) -> None:
        self.asked += 1
        answer = asyncio.get_running_loop().create_future()
        self.answers.append(answer)
        await answer


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_asks_for_all_that_came_before_it_began() -> None:
    settling, question = Settling(), Question()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(settling.join("a", question.ask))
        await turn()
        later = [group.create_task(settling.join("a", question.ask)) for _ in range(3)]
        await turn()
        assert question.asked == 1
        question.answers[0].set_result(None)
        await turn()
        assert first.done()
        assert not any(task.done() for task in later)  # what was under way may have missed their writes
        assert question.asked == 2
        question.answers[1].set_result(None)
    assert question.asked == 2
    assert settling._rounds == {}


async def test_a_failure_is_not_an_answer_for_others() -> None:
    settling, question = Settling(), Question()
    first = asyncio.ensure_future(settling.join("a", question.ask))
    second = asyncio.ensure_future(settling.join("a", question.ask))
    await turn()
    question.answers[0].set_exception(OSError("away"))
    with pytest.raises(OSError, match="away"):
        await first
    await turn()
    assert question.asked == 2
    question.answers[1].set_result(None)
    await second


async def test_others_do_not_wait() -> None:
    settling, question = Settling(), Question()
    first = asyncio.ensure_future(settling.join("a", question.ask))
    await turn()
    other = asyncio.ensure_future(settling.join("b", question.ask))
    await turn()
    question.answers[1].set_result(None)
    await other
    assert not first.done()
    question.answers[0].set_result(None)
    await first
