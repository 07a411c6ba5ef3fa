"""Tool calls that are wrong, and tools that fail: what the model is told, and when the agent gives up."""

import asyncio
import json
from collections import deque
from typing import Any

import pytest

from orchestrator.core.agent import Ability, Agent, Invocation
from orchestrator.core.chat import Prompt, Tool
from orchestrator.core.model import ToolCallFinished
from orchestrator.core.tools import ToolFailed
from servicekit.errors import FailedPrecondition, Internal, ServiceError, Unavailable
from tests.support.fake_models import Script, calls, says
from tests.support.orchestrator_fakes import Bench, model_config, of_type, team

pytestmark = pytest.mark.looptime

AWAY = Unavailable("orders does not answer", reason="TOOL_FAILED", metadata={"tool": "orders"})
SCHEMA = {
    "type": "object",
    "properties": {"number": {"type": "integer", "minimum": 1}, "note": {"type": "string"}},
    "required": ["number"],
    "additionalProperties": False,
}


class Scene:
    """An agent with one tool, which fails as the test says."""

    def __init__(self, *scripts: Script, failures: int = 0) -> None:
        self.bench = Bench()
        self.bench.models.add(*scripts)
        self.failures = failures
        self.made: deque[Any] = deque()
        tool = Tool(name="find_order", description="", parameters=SCHEMA)
        self.turn = self.bench.turn(team())
        self.agent = Agent(
            turn=self.turn,
            path="",
            member="",
            config=model_config(),
            abilities=[Ability(tool=tool, call=self._call)],
        )

    async def _call(self, made: Invocation) -> str:
        self.made.append(made.arguments)
        await asyncio.sleep(0.1)
        if self.failures:
            self.failures -= 1
            raise ToolFailed("orders does not answer. Do without, or say so.", AWAY)
        return "found"

    async def answer(self) -> str:
        try:
            return await self.agent.answer([Prompt(role="user", content="?")])
        finally:
            await self.turn.log.flush()

    @property
    def told(self) -> list[str]:
        return [p.content for p in self.bench.models.calls[-1].prompts if p.role == "tool"]

    @property
    def errors(self) -> list[ServiceError | None]:
        return [step.error for step in of_type(self.bench.store.steps(), ToolCallFinished)]


def find(*numbers: object) -> Script:
    return calls(*(("find_order", json.dumps({"number": number})) for number in numbers))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, '$: "number" is a required property'),
        ({"number": "7"}, '$.number: "7" is not of type "integer"'),
        ({"number": 0}, "$.number: 0 is less than the minimum of 1"),
        ({"number": 7, "nota": "x"}, "'nota' was unexpected"),
        ({"number": 0, "note": 1}, "; $.note: 1 is not of type"),
    ],
)
async def test_arguments_that_do_not_fit_the_schema_are_explained_and_the_tool_is_not_called(
    arguments: dict[str, object], words: str
) -> None:
    scene = Scene(calls(("find_order", json.dumps(arguments))), find(7), says("ok"))
    assert await scene.answer() == "ok"
    assert list(scene.made) == [{"number": 7}]
    (wrong, right) = scene.told
    assert wrong.startswith("Error: The arguments of find_order do not fit its schema: ")
    assert wrong.endswith(" Correct the call.")
    assert words in wrong.replace('"nota"', "'nota'")
    assert right == "found"


async def test_a_reply_with_three_wrong_calls_counts_once() -> None:
    scene = Scene(find(0, 0, 0), find(0, 0, 0), find(7), says("ok"))
    assert await scene.answer() == "ok"
    assert [error is None for error in scene.errors] == [False] * 6 + [True]


async def test_three_bad_replies_in_a_row_are_the_model_s_fault() -> None:
    scene = Scene(find(0), find(7, 0), find(0), says("never"))
    with pytest.raises(Internal) as caught:
        await scene.answer()
    assert caught.value.reason == "MODEL_BAD_RESPONSE"
    assert "wrongly 3 times" in caught.value.message
    assert len(scene.bench.models.calls) == 3


async def test_a_good_reply_begins_the_count_anew() -> None:
    scene = Scene(find(0), find(0), find(7), find(0), find(0), says("ok"))
    assert await scene.answer() == "ok"


async def test_a_tool_that_fails_is_told_to_the_model_and_stands_in_the_log() -> None:
    scene = Scene(find(7), says("I could not look it up."), failures=1)
    assert await scene.answer() == "I could not look it up."
    assert scene.told == ["Error: orders does not answer. Do without, or say so."]
    assert [error and error.reason for error in scene.errors] == ["TOOL_FAILED"]


async def test_a_tool_that_fails_three_times_in_a_row_fails_the_agent() -> None:
    scene = Scene(find(7), find(7), find(7), says("never"), failures=3)
    with pytest.raises(FailedPrecondition) as caught:
        await scene.answer()
    assert (caught.value.reason, caught.value.metadata) == ("TOOL_FAILED", {"tool": "orders"})
    assert "failed 3 times in a row: orders does not answer" in caught.value.message
    assert len(scene.made) == 3
