"""The loop of one agent: answers, tools, limits, and models that misbehave."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.core.agent import RESULT_LIMIT, Ability, Agent, Invocation, text_argument
from orchestrator.core.chat import Prompt, TextPart, Tool
from orchestrator.core.model import ModelCallFinished, TextDelta, ToolCallFinished, ToolCallStarted
from orchestrator.core.turn import LimitReached, Turn
from servicekit.errors import FailedPrecondition, Internal, ResourceExhausted, ServiceError, Unavailable
from tests.support.fake_models import Script, calls, done, says
from tests.support.orchestrator_fakes import Bench, flat, model_config, of_type, team

pytestmark = pytest.mark.looptime

MODEL_DOWN = Unavailable("no answer", reason="MODEL_UNAVAILABLE")


class Echo:
    """A tool that remembers."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.running = 0
        self.most = 0

    async def call(self, made: Invocation) -> str:
        query = text_argument(made.arguments, "query")
        self.heard.append(query)
        self.running += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(1)
        self.running -= 1
        return f"heard {query}"


class Scene:
    """An agent with a tool."""

    def __init__(self, *scripts: Script, tools: bool = True, retries: int = 2, **limits: int) -> None:
        self.bench = Bench()
        self.bench.models.add(*scripts)
        self.echo = Echo()
        self.turn: Turn = self.bench.turn(team(limits=limits))
        tool = Tool(name="echo", description="", parameters={})
        self.agent = Agent(
            turn=self.turn,
            path="",
            member="",
            config=model_config(maxRetries=retries),
            abilities=[Ability(tool=tool, call=self.echo.call)] if tools else [],
        )

    async def answer(self) -> str:
        try:
            return await self.agent.answer([Prompt(role="user", content="?")])
        finally:
            await self.turn.log.flush()

    def steps(self, kind: type) -> list[Any]:
        return list(of_type(self.bench.store.steps(), kind))

    @property
    def asked(self) -> list[Any]:
        return self.bench.models.calls


async def test_a_tool_is_called_and_its_result_reaches_the_model() -> None:
    scene = Scene(calls(("echo", '{"query": "x"}')), says("The answer."))
    assert await scene.answer() == "The answer."
    assert scene.echo.heard == ["x"]
    roles = [(p.role, p.content, p.tool_call_id) for p in scene.asked[1].prompts]
    assert roles == [("user", "?", ""), ("assistant", "", ""), ("tool", "heard x", "id-0")]
    (started,), (finished,) = scene.steps(ToolCallStarted), scene.steps(ToolCallFinished)
    assert (started.tool, started.arguments) == ("echo", {"query": "x"})
    assert (finished.call_id, finished.result, finished.error) == (started.call_id, "heard x", None)
    assert len(scene.steps(ModelCallFinished)) == 2
    assert (scene.turn.usage.model_calls, scene.turn.usage.tool_calls) == (2, 1)


async def test_tools_of_one_call_work_side_by_side_and_answer_in_order() -> None:
    scene = Scene(calls(("echo", '{"query": "a"}'), ("echo", '{"query": "b"}')), says("ok"))
    await scene.answer()
    assert scene.echo.most == 2
    assert [p.content for p in scene.asked[1].prompts[-2:]] == ["heard a", "heard b"]
    assert [p.tool_call_id for p in scene.asked[1].prompts[-2:]] == ["id-0", "id-1"]


@pytest.mark.parametrize(
    ("call", "says_why"),
    [
        (("nothing", "{}"), "There is no tool 'nothing'; there are: echo."),
        (("echo", '{"query": "unfin'), "not valid JSON"),
        (("echo", '["x"]'), "must be a JSON object"),
        (("echo", '{"query": NaN}'), "not valid JSON"),
        (("echo", '{"query": "\\ud800"}'), "not valid JSON"),
        (("echo", "[" * 5000), "not valid JSON"),
        (("echo", "{}"), "'query' is required"),
        (("echo", '{"query": 7}'), "must be a text"),
    ],
)
async def test_a_wrong_call_is_explained_and_may_be_corrected(call: tuple[str, str], says_why: str) -> None:
    scene = Scene(calls(call), calls(("echo", '{"query": "x"}')), says("ok"))
    assert await scene.answer() == "ok"
    assert says_why in scene.asked[1].last
    assert scene.steps(ToolCallFinished)[0].error.reason == "MODEL_BAD_RESPONSE"
    assert scene.echo.heard == ["x"]


async def test_three_wrong_calls_are_the_model_s_fault() -> None:
    scene = Scene(*[calls(("echo", "{"))] * 3)
    with pytest.raises(Internal) as caught:
        await scene.answer()
    assert caught.value.reason == "MODEL_BAD_RESPONSE"
    assert len(scene.asked) == 3


async def test_the_last_model_call_must_answer() -> None:
    scene = Scene(calls(("echo", '{"query": "x"}')), says("ok"), maxTurns=2)
    assert await scene.answer() == "ok"
    assert [(c.must_answer, c.tools) for c in scene.asked] == [(False, ["echo"]), (True, ["echo"])]


async def test_a_model_that_asks_for_tools_to_the_end_has_reached_the_limit() -> None:
    scene = Scene(*[calls(("echo", '{"query": "x"}'))] * 2, maxTurns=2)
    with pytest.raises(LimitReached) as caught:
        await scene.answer()
    assert caught.value.metadata["limit"] == "maxTurns"
    assert len(scene.echo.heard) == 1


async def test_text_beside_the_last_tool_call_is_an_answer() -> None:
    scene = Scene(calls(("echo", '{"query": "x"}'), text="Well, yes."), maxTurns=1)
    assert await scene.answer() == "Well, yes."


async def test_after_the_last_tool_call_of_the_run_the_agent_must_answer() -> None:
    three = calls(*[("echo", f'{{"query": "{n}"}}') for n in range(3)])
    scene = Scene(three, says("ok"), maxToolCalls=2)
    assert await scene.answer() == "ok"
    assert scene.echo.heard == ["0", "1"]
    assert scene.asked[1].must_answer
    assert "had its 2 tool calls" in scene.asked[1].last
    assert scene.turn.usage.tool_calls == 2


async def test_a_model_without_tools_that_calls_one_is_a_bad_model() -> None:
    scene = Scene(calls(("echo", "{}")), tools=False)
    with pytest.raises(Internal) as caught:
        await scene.answer()
    assert "was given none" in caught.value.message
    assert not scene.asked[0].must_answer


async def test_a_long_result_is_cut() -> None:
    scene = Scene(calls(("echo", '{"query": "' + "x" * 20_000 + '"}')), says("ok"))
    await scene.answer()
    assert len(scene.asked[1].last) <= RESULT_LIMIT
    assert scene.asked[1].last.endswith("[cut: the result was longer]")


# --- model calls that break -------------------------------------------------


async def test_a_cut_stream_is_asked_for_again_and_followers_forget_the_first_part() -> None:
    scene = Scene([TextPart(text="Wro"), 1.0, MODEL_DOWN], says("Right."))
    deltas: list[TextDelta] = []

    async def follow() -> None:
        async for item in flat(scene.turn.log.follow(0)):
            if isinstance(item, TextDelta):
                deltas.append(item)

    follower = asyncio.create_task(follow())
    assert await scene.answer() == "Right."
    await asyncio.sleep(1)
    follower.cancel()
    assert [(d.offset, d.text) for d in deltas] == [(0, "Wro"), (0, "Right.")]
    assert len({d.message for d in deltas}) == 1
    (call,) = scene.steps(ModelCallFinished)
    assert call.attempts == 2


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (MODEL_DOWN, 3),
        (ResourceExhausted("slow down", reason="MODEL_RATE_LIMITED"), 3),
        (Internal("html", reason="MODEL_BAD_RESPONSE"), 3),
        (FailedPrecondition("no key", reason="MODEL_REJECTED"), 1),
        (ResourceExhausted("later", reason="MODEL_RATE_LIMITED", retry_after=timedelta(minutes=5)), 1),
    ],
)
async def test_what_may_pass_is_tried_again_and_what_may_not_is_told(
    error: ServiceError, attempts: int
) -> None:
    scene = Scene(*[[error]] * 5)
    with pytest.raises(ServiceError) as caught:
        await scene.answer()
    assert caught.value is error
    assert len(scene.asked) == attempts


async def test_the_endpoint_s_wish_to_wait_is_honoured() -> None:
    limited = ResourceExhausted("wait", reason="MODEL_RATE_LIMITED", retry_after=timedelta(seconds=7))
    scene = Scene([limited], says("ok"))
    began = asyncio.get_running_loop().time()
    assert await scene.answer() == "ok"
    assert asyncio.get_running_loop().time() - began >= 7


@pytest.mark.parametrize("nothing", ["", " \n"])
async def test_an_empty_answer_is_asked_for_again(nothing: str) -> None:
    scene = Scene(says(nothing), says("ok"))
    assert await scene.answer() == "ok"
    scene = Scene(*[says(nothing)] * 3)
    with pytest.raises(Internal) as caught:
        await scene.answer()
    assert caught.value.reason == "MODEL_BAD_RESPONSE"


async def test_tokens_are_counted_and_end_the_run() -> None:
    scene = Scene(calls(("echo", '{"query": "x"}')), [done("ok", tokens=200)], maxTokensPerRun=256)
    with pytest.raises(LimitReached) as caught:
        await scene.answer()
    assert caught.value.metadata == {"limit": "maxTokensPerRun", "value": "256", "used": "402"}


async def test_a_run_whose_log_has_failed_asks_no_model() -> None:
    scene = Scene(calls(("echo", '{"query": "x"}')), says("never"))
    scene.bench.store.failing = Internal("no", reason="INTERNAL")
    with pytest.raises(Internal):
        await scene.answer()
    assert len(scene.asked) == 1
