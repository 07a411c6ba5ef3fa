"""One call of a model in a run: fallbacks, time, tokens and money, and that the log answers it later."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from manifests import AgentTeam, ModelConfig
from orchestrator.core.calling import cost_micros
from orchestrator.core.chat import Completion, TextPart
from orchestrator.core.model import FailedModel, ModelCallFinished, RunFinished, TextDelta
from orchestrator.core.run import execute
from orchestrator.core.turn import Turn
from servicekit.errors import FailedPrecondition, Internal, ResourceExhausted, ServiceError, Unavailable
from tests.support.fake_models import Call, Script, calls, done, says
from tests.support.one_run import answer, taken_over
from tests.support.orchestrator_fakes import Bench, flat, of_type, team

pytestmark = pytest.mark.looptime

DOWN = Unavailable("no answer", reason="MODEL_UNAVAILABLE")
REJECTED = FailedPrecondition("too long", reason="MODEL_REJECTED")
USD = {"currency": "USD", "inputPerMillionTokens": "2.50", "outputPerMillionTokens": "10"}


def model(name: str, *fallbacks: str, **spec: Any) -> ModelConfig:
    body = {"type": "Chat", "provider": "BuiltIn", "fallbackRefs": tuple({"name": f} for f in fallbacks)}
    return ModelConfig.model_validate({"metadata": {"name": name}, "spec": {**body, **spec}})


@dataclass
class Scene:
    """Runs of one agent, whose models answer by name; the last script of each again and again."""

    models: list[ModelConfig]
    scripts: dict[str, list[Script]]
    of: AgentTeam = field(default_factory=team)
    bench: Bench = field(default_factory=Bench)

    def __post_init__(self) -> None:
        self.bench.catalogue.models = self.models
        self.bench.models.choose = self._choose
        self.world = self.bench.world  # one process: what its runs share

    def _choose(self, call: Call) -> Script:
        of_model = self.scripts[call.config]
        return of_model.pop(0) if len(of_model) > 1 else of_model[0]

    def turn(self, **fields: Any) -> Turn:
        turn = self.bench.turn(self.of)
        turn.world = self.world
        for name, value in fields.items():
            setattr(turn, name, value)
        return turn

    async def run(self) -> list[Any]:
        """The steps of a whole run."""
        turn = self.turn()
        self.bench.store.log.clear()
        try:
            await execute(turn)
        finally:
            await turn.log.close()
        return self.bench.store.steps()

    @property
    def asked(self) -> list[str]:
        return [call.config for call in self.bench.models.calls]


def end(steps: list[Any]) -> RunFinished:
    assert isinstance(steps[-1], RunFinished)
    return steps[-1]


def model_calls(steps: list[Any]) -> list[ModelCallFinished]:
    return list(of_type(steps, ModelCallFinished))


# --- fallbacks ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "asked_before"),
    [
        (DOWN, 3),
        (Internal("html", reason="MODEL_BAD_RESPONSE"), 3),
        (REJECTED, 1),
        (ResourceExhausted("slow", reason="MODEL_RATE_LIMITED"), 3),
        (ResourceExhausted("later", reason="MODEL_RATE_LIMITED", retry_after=timedelta(seconds=20)), 1),
    ],
    ids=["down", "nonsense", "rejected", "busy", "busy for longer than one waits"],
)
async def test_a_model_that_cannot_answer_is_followed_by_its_fallback(
    error: ServiceError, asked_before: int
) -> None:
    scene = Scene([model("chat", "small"), model("small")], {"chat": [[error]], "small": [says("Yes.")]})
    steps = await scene.run()
    assert answer(steps) == "Yes."
    assert scene.asked == ["chat"] * asked_before + ["small"]
    (call,) = model_calls(steps)
    assert (call.model_config, call.attempts) == ("small", asked_before + 1)
    assert [(f.model_config, f.error.reason) for f in call.fallen_back_from] == [("chat", error.reason)]
    assert asyncio.get_running_loop().time() < 5


async def test_a_text_that_was_begun_is_begun_anew_by_the_fallback() -> None:
    broken: Script = [TextPart(text="Wro"), 1.0, REJECTED]
    scene = Scene([model("chat", "small"), model("small")], {"chat": [broken], "small": [says("Right.")]})
    turn = scene.turn()
    deltas: list[TextDelta] = []

    async def follow() -> None:
        deltas.extend([item async for item in flat(turn.log.follow(0)) if isinstance(item, TextDelta)])

    follower = asyncio.create_task(follow())
    await execute(turn)
    await follower
    await turn.log.close()
    assert [(d.offset, d.text) for d in deltas] == [(0, "Wro"), (0, "Right.")]
    assert len({d.message for d in deltas}) == 1


async def test_fallbacks_of_fallbacks_are_asked_too_and_a_missing_one_is_passed_over() -> None:
    models = [model("chat", "gone", "b"), model("b", "c"), model("c", "chat")]
    scene = Scene(models, {"chat": [[REJECTED]], "b": [[REJECTED]], "c": [says("Yes.")]})
    (call,) = model_calls(await scene.run())
    assert scene.asked == ["chat", "b", "c"]
    reasons = [(f.model_config, f.error.reason) for f in call.fallen_back_from]
    assert reasons == [("chat", "MODEL_REJECTED"), ("gone", "MODEL_NOT_FOUND"), ("b", "MODEL_REJECTED")]


async def test_a_model_of_another_namespace_is_asked_and_its_fallbacks_are_its_owners() -> None:
    there = model("first", "second")
    abroad = [there, model("second"), model("home")]
    refs = ({"name": "second"}, {"name": "home", "namespace": "default"})
    for index, (found, namespace) in enumerate(zip(abroad, ("owner", "owner", "default"), strict=True)):
        spec = {
            **found.spec.model_dump(mode="json", by_alias=True),
            "fallbackRefs": refs if index == 0 else (),
        }
        metadata = {"name": found.metadata.name, "namespace": namespace}
        abroad[index] = ModelConfig.model_validate({"metadata": metadata, "spec": spec}, strict=False)
    of = team(modelConfigRef={"name": "first", "namespace": "owner"})
    scripts = {"first": [[REJECTED]], "second": [[REJECTED]], "home": [says("Yes.")]}
    scene = Scene(abroad, scripts, of)  # type: ignore[arg-type]
    (call,) = model_calls(await scene.run())
    assert scene.asked == ["first", "second", "home"]
    assert [f.model_config for f in call.fallen_back_from] == ["owner/first", "owner/second"]
    assert call.model_config == "home"


async def test_when_none_answers_all_are_named() -> None:
    later = ResourceExhausted("later", reason="MODEL_RATE_LIMITED", retry_after=timedelta(minutes=5))
    scene = Scene([model("chat", "small"), model("small")], {"chat": [[later]], "small": [[REJECTED]]})
    error = end(await scene.run()).error
    assert isinstance(error, ResourceExhausted)
    assert error.message == "no model could answer: chat: later; small: too long"
    assert (error.reason, error.retry_after) == ("MODEL_RATE_LIMITED", timedelta(minutes=5))


async def test_an_error_that_is_not_the_model_s_is_not_put_to_another() -> None:
    scene = Scene([model("chat", "small"), model("small")], {"chat": [[Internal("x", reason="INTERNAL")]]})
    assert end(await scene.run()).error is not None
    assert scene.asked == ["chat"]


async def test_a_model_known_to_be_broken_is_passed_over_at_once() -> None:
    chat = model("chat", "small", limits={"maxRetries": 4})
    scene = Scene([chat, model("small")], {"chat": [[DOWN]], "small": [says("Yes.")]})
    await scene.run()
    assert scene.asked == ["chat"] * 5 + ["small"]
    began = asyncio.get_running_loop().time()
    (call,) = model_calls(await scene.run())
    assert scene.asked[6:] == ["small"]
    assert asyncio.get_running_loop().time() == pytest.approx(began, abs=0.1)
    assert "is left alone for" in call.fallen_back_from[0].error.message
    await asyncio.sleep(6)
    scene.scripts["chat"] = [says("Back.")]
    assert answer(await scene.run()) == "Back."


async def test_without_a_fallback_a_broken_model_says_when_it_is_tried_again() -> None:
    scene = Scene([model("chat", limits={"maxRetries": 4})], {"chat": [[DOWN]]})
    await scene.run()
    error = end(await scene.run()).error
    assert isinstance(error, Unavailable)
    assert "after several failures, the last one: no answer" in error.message
    assert error.retry_after == timedelta(seconds=5)
    assert len(scene.asked) == 5


# --- time -----------------------------------------------------------------------


async def test_a_pause_that_one_run_is_asked_for_holds_for_all() -> None:
    limited = ResourceExhausted("wait", reason="MODEL_RATE_LIMITED", retry_after=timedelta(seconds=7))
    scene = Scene([model("chat")], {"chat": [[limited], says("Yes.")]})
    first = asyncio.create_task(execute(scene.turn()))
    await asyncio.sleep(1)
    began = asyncio.get_running_loop().time()
    await execute(scene.turn())
    assert asyncio.get_running_loop().time() - began == pytest.approx(6, abs=0.1)
    await first
    assert len(scene.asked) == 3


async def test_a_run_is_refused_when_its_turn_would_come_after_its_time() -> None:
    scene = Scene([model("chat", limits={"requestsPerMinute": 1})], {"chat": [says("Yes.")]})
    scene.of = team(limits={"runTimeoutSeconds": 30})
    assert end(await scene.run()).state == "SUCCEEDED"
    began = asyncio.get_running_loop().time()
    error = end(await scene.run()).error
    assert asyncio.get_running_loop().time() == pytest.approx(began, abs=0.3)
    assert isinstance(error, ResourceExhausted)
    assert "(limits.requestsPerMinute), and this one may wait 29.5 s" in error.message
    assert error.retry_after is not None
    assert error.retry_after.total_seconds() == pytest.approx(60, abs=1)


async def test_an_answer_that_takes_too_long_is_asked_for_again_though_it_is_never_silent() -> None:
    endless: Script = [part for n in range(30) for part in (TextPart(text=f"{n} "), 1.0)]
    chat = model("chat", limits={"timeoutSeconds": 5, "maxRetries": 1})
    scene = Scene([chat], {"chat": [endless, says("Short.")]})
    steps = await scene.run()
    assert answer(steps) == "Short."
    assert model_calls(steps)[0].attempts == 2
    scene = Scene([chat], {"chat": [endless]})
    error = end(await scene.run()).error
    assert error is not None
    assert error.message == "model chat did not end its answer within 5 s (limits.timeoutSeconds)"


# --- tokens and money -----------------------------------------------------------


def used(input_tokens: int, output_tokens: int) -> Completion:
    return Completion(
        text="x", tool_calls=(), finish_reason="stop", model="m",
        input_tokens=input_tokens, output_tokens=output_tokens,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("prices", "tokens", "cost"),
    [
        (("2.50", "10"), (1000, 100), 3500),
        (("0.1", "0.2"), (3, 0), 0),  # less than half of a millionth
        (("0.1", "0.2"), (1, 2), 1),
        (("0.000001", "100000"), (10**9, 10**9), 10**14 + 1000),  # a float would lose the last digits
    ],
)
def test_cost_is_exact(prices: tuple[str, str], tokens: tuple[int, int], cost: int) -> None:
    pricing = {"currency": "EUR", "inputPerMillionTokens": prices[0], "outputPerMillionTokens": prices[1]}
    assert cost_micros(model("chat", pricing=pricing), used(*tokens)) == cost
    assert cost_micros(model("chat"), used(*tokens)) == 0


async def test_each_call_and_the_run_say_what_they_cost() -> None:
    search = ("search_knowledge", "{}")
    small = model("small", pricing={**USD, "inputPerMillionTokens": "1", "outputPerMillionTokens": "1"})
    scripts: dict[str, list[Script]] = {
        "chat": [calls(search), [REJECTED]],
        "small": [[done("Yes.", tokens=100)]],
    }
    scene = Scene([model("chat", "small", pricing=USD), small], scripts)
    scene.of = team({"name": "a", "knowledge": ("docs",)}, knowledge=[_docs()])
    steps = await scene.run()
    costs = [(c.model_config, c.cost_micros, c.currency) for c in model_calls(steps)]
    assert costs == [("chat", 13, "USD"), ("small", 200, "USD")]  # 2.5 + 10 = 12.5, and 100 + 100
    usage = end(steps).summary.usage
    assert (usage.cost_micros, usage.currency) == (213, "USD")


async def test_empty_answers_are_paid_for_too() -> None:
    scene = Scene([model("chat", pricing=USD)], {"chat": [[done("", tokens=10)], [done("Yes.", tokens=20)]]})
    steps = await scene.run()
    (call,) = model_calls(steps)
    assert (call.input_tokens, call.output_tokens, call.cost_micros) == (30, 30, 375)
    usage = end(steps).summary.usage
    assert (usage.input_tokens, usage.cost_micros, usage.model_calls) == (30, 375, 1)


async def test_a_run_that_costs_too_much_ends_before_its_next_call() -> None:
    (wanted,) = calls(("search_knowledge", "{}"))
    assert isinstance(wanted, Completion)
    script = [replace(wanted, input_tokens=100_000, output_tokens=100_000)]
    scene = Scene([model("chat", pricing=USD)], {"chat": [script]})
    of: dict[str, Any] = {
        "knowledge": [_docs()],
        "limits": {"maxCostPerRun": "1.25", "maxTokensPerRun": 10**6},
    }
    scene.of = team({"name": "a", "knowledge": ("docs",)}, **of)
    steps = await scene.run()
    assert len(model_calls(steps)) == 2  # 1.25 is not more than the limit, 2.50 is
    error = end(steps).error
    assert error is not None
    assert error.reason == "RUN_LIMIT_REACHED"
    assert error.message == "the run cost 2.500000 USD; the team's limits.maxCostPerRun is 1.25"
    assert end(steps).summary.usage.cost_micros == 2_500_000


def _docs() -> dict[str, Any]:
    return {"name": "docs", "knowledgeBaseRef": {"name": "docs"}}


async def test_metrics_tell_calls_fallbacks_tokens_cost_and_the_breaker() -> None:
    def value(name: str, config: str, **labels: str) -> float:
        labels["model_config"] = f"default/{config}"
        return REGISTRY.get_sample_value(f"agentteams_model_{name}", labels) or 0.0

    # Names of their own: the registry is shared by all tests of the process.
    first = model("m-first", "m-second", limits={"maxRetries": 4})
    second = model("m-second", pricing=USD)
    scene = Scene([first, second], {"m-first": [[DOWN]], "m-second": [[done("Yes.", tokens=10)]]})
    scene.of = team(modelConfigRef={"name": "m-first"})
    for _ in range(2):
        await scene.run()
    assert value("calls_total", "m-first", outcome="unavailable") == 5
    assert value("calls_total", "m-first", outcome="refused") == 1
    assert value("calls_total", "m-second", outcome="ok") == 2
    assert value("fallbacks_total", "m-first") == 2
    assert value("tokens_total", "m-second", kind="input") == 20
    assert value("cost_micros_total", "m-second", currency="USD") == 250
    assert (value("breaker_state", "m-first"), value("breaker_state", "m-second")) == (2, 0)
    assert value("queue_seconds_count", "m-second") == 2
    assert value("queued_calls", "m-second") == 0


# --- from the log -----------------------------------------------------------------


async def test_a_call_that_fell_back_is_answered_from_the_log() -> None:
    scene = Scene(
        [model("chat", "small", pricing=USD), model("small", pricing=USD)],
        {"chat": [[REJECTED]], "small": [says("Yes.")]},
    )
    await scene.run()
    whole = scene.bench.store.log["runs/r1"]
    resumed = taken_over(scene.bench, scene.turn(), whole[:1])
    call = resumed.recorded.models["#1"].step
    (failed,) = call.fallen_back_from
    assert isinstance(failed, FailedModel)
    assert (failed.model_config, failed.error.message) == ("chat", "too long")
    assert (call.model_config, call.cost_micros, call.currency) == ("small", 13, "USD")
    scene.bench.models.calls.clear()
    await execute(resumed)
    await resumed.log.close()
    assert scene.asked == []
    steps = scene.bench.store.steps()
    assert answer(steps) == "Yes."
    assert end(steps).summary.usage.cost_micros == 13


async def test_a_resumed_run_that_has_cost_too_much_makes_no_call() -> None:
    scene = Scene([model("chat", pricing=USD)], {"chat": [says("never")]})
    scene.of = team(limits={"maxCostPerRun": "1"})
    turn = scene.turn()
    turn.usage.cost_micros = 1_000_001
    await execute(turn)
    await turn.log.close()
    assert scene.asked == []
    error = end(scene.bench.store.steps()).error
    assert error is not None
    assert error.reason == "RUN_LIMIT_REACHED"
