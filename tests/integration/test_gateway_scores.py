"""Clients of the OpenAI API that want to know where an answer is unsupported."""

import asyncio
from typing import Any

import openai
import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import run_scores_pb2

from servicekit.errors import NotFound, ServiceError, Unavailable
from tests.support.door import QUESTION, Door, door, extra_of
from tests.support.fake_orchestrator import Item, answer, items, scores_item

__all__ = ["door"]

WAIT = {"X-AgentTeams-Wait-Scores": "30"}
TEXT = "Two years. 😀 Three years [1]."
SCORES = run_scores_pb2.RunScores(
    run="runs/r1",
    evaluator="judge",
    version="3",
    outcome=run_scores_pb2.RunScores.OUTCOME_SCORED,
    faithfulness=0.5,
    grounding=0.75,
    below_thresholds=["faithfulness"],
    sentences=[
        run_scores_pb2.SentenceScore(
            start=0, end=10, verdict=run_scores_pb2.SentenceScore.VERDICT_SUPPORTED, faithfulness=0.875
        ),
        run_scores_pb2.SentenceScore(
            start=13,
            end=29,
            verdict=run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED,
            faithfulness=0.125,
            grounding=0.5,
            evidence=[1],
        ),
    ],
)
SHOWN = {
    "outcome": "scored",
    "reason": "",
    "evaluator": "judge",
    "version": "3",
    "faithfulness": 0.5,
    "grounding": 0.75,
    "below_thresholds": ["faithfulness"],
    "unsupported": [
        {
            "start": 13,
            "end": 29,
            "text": "Three years [1].",
            "verdict": "unsupported",
            "faithfulness": 0.125,
            "grounding": 0.5,
            "evidence": [1],
        }
    ],
}


def script(door: Door, *then: Item | asyncio.Event | ServiceError) -> None:
    """A run that goes well, and what a stream says that waits for its scores."""
    door.orchestrator.streams.clear()
    door.orchestrator.streams += [items(*answer(TEXT)), items(*then)]


async def ask(door: Door, **more: Any) -> Any:
    return await (await door.open()).chat.completions.create(model="support", messages=QUESTION, **more)


async def test_an_answer_comes_with_its_unsupported_sentences_to_who_waits(door: Door) -> None:
    script(door, scores_item(SCORES))
    completion = await ask(door, extra_headers=WAIT)
    assert completion.choices[0].message.content == TEXT
    assert extra_of(completion)["scores"] == SHOWN
    (asked,) = [follow for follow in door.orchestrator.follows if follow.HasField("wait_scores")]
    assert (asked.run, asked.after_sequence) == ("runs/r1", 4)
    assert 20 < asked.wait_scores.ToTimedelta().total_seconds() <= 30


async def test_nobody_else_waits_or_is_told(door: Door) -> None:
    script(door, scores_item(SCORES))
    assert "scores" not in extra_of(await ask(door))
    assert not any(follow.HasField("wait_scores") for follow in door.orchestrator.follows)


@pytest.mark.parametrize("usage", [True, False])
async def test_a_stream_ends_the_answer_first_and_sends_the_scores_when_they_come(
    door: Door, usage: bool
) -> None:
    there = asyncio.Event()
    script(door, there, scores_item(SCORES))
    options: dict[str, Any] = {"stream_options": {"include_usage": True}} if usage else {}
    chunks = []
    async for chunk in await ask(door, extra_headers=WAIT, stream=True, **options):
        chunks.append(chunk)
        if chunk.choices and chunk.choices[0].finish_reason == "stop":
            assert extra_of(chunk)["status"] == "succeeded"
            there.set()  # the whole answer came while its scores were not there
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    after = [chunk for chunk in chunks if not chunk.choices]
    assert extra_of(after[0]) == {"scores": SHOWN}
    assert [chunk.usage is not None for chunk in after] == [False, True][: 1 + usage]


@pytest.mark.parametrize(
    ("item", "missing"),
    [
        (scores_item(missing=pb.ScoresResult.MISSING_NOT_CHOSEN), "not_chosen"),
        (scores_item(missing=pb.ScoresResult.MISSING_NOT_YET), "not_yet"),
    ],
)
async def test_why_there_are_none_is_said(door: Door, item: Item, missing: str) -> None:
    script(door, item)
    assert extra_of(await ask(door, extra_headers=WAIT))["scores"] == {"missing": missing, "reason": ""}


@pytest.mark.parametrize("then", [(), (NotFound("no such run", reason="RUN_NOT_FOUND"),)])
async def test_scores_that_cannot_be_had_cost_no_answer_and_are_not_called_missing(
    door: Door, then: tuple[ServiceError, ...]
) -> None:
    script(door, *then)  # nothing: an orchestrator of before, which knows of no scores
    completion = await ask(door, extra_headers=WAIT)
    assert completion.choices[0].message.content == TEXT
    scores = extra_of(completion)["scores"]
    assert scores["missing"] == "unavailable"
    assert ("no such run" if then else "knows no scores") in scores["reason"]


async def test_a_stream_that_is_cut_is_found_again(door: Door) -> None:
    cut = Unavailable("the process stops", reason="DEPENDENCY_UNAVAILABLE")
    script(door, cut)
    door.orchestrator.streams += [items(cut)] * 5  # more often than gRPC itself tries
    door.orchestrator.streams.append(items(scores_item(SCORES)))
    assert extra_of(await ask(door, extra_headers=WAIT))["scores"] == SHOWN
    waits = [f.wait_scores.ToTimedelta() for f in door.orchestrator.follows if f.HasField("wait_scores")]
    assert len(waits) == 7
    assert waits[-1] < waits[0]


async def test_a_gateway_that_stops_gives_the_answer_without_them(door: Door) -> None:
    script(door, asyncio.Event())
    asked = asyncio.create_task(ask(door, extra_headers=WAIT))
    async with asyncio.timeout(20):
        while not any(f.HasField("wait_scores") for f in door.orchestrator.follows):
            door.orchestrator.followed.clear()
            await door.orchestrator.followed.wait()
    door.gateway.turns.end_all()
    completion = await asked
    assert completion.choices[0].message.content == TEXT
    assert extra_of(completion)["scores"]["missing"] == "not_yet"


@pytest.mark.parametrize("given", ["soon", "-1", "1.5", "601"])
async def test_a_wait_that_is_none_is_refused_before_anything_is_asked(door: Door, given: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await ask(door, extra_headers={"X-AgentTeams-Wait-Scores": given})
    assert caught.value.param == "X-AgentTeams-Wait-Scores"
    assert door.orchestrator.starts == []
