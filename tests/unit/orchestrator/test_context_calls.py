"""Model calls whose prompts are made to fit: what is sent, what is logged, what a resumed run sends."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from manifests import ModelConfig
from orchestrator.core.context.budget import Contexts
from orchestrator.core.context.tokens import START_PERCENT
from orchestrator.core.model import (
    ContextTrimmed,
    Message,
    MessageCompleted,
    ModelCallFinished,
    RunFinished,
    SearchResult,
)
from orchestrator.core.turn import World
from tests.support.fake_knowledge import chunk
from tests.support.fake_models import Script, calls, done, says
from tests.support.one_run import play
from tests.support.orchestrator_fakes import Bench, knowledge, of_type, team

pytestmark = [pytest.mark.looptime, pytest.mark.usefixtures("as_ada")]

LONG = "The quick brown fox jumps over the lazy dog. " * 20
SEARCHES = team(
    {"name": "agent", "knowledge": ["docs"]},
    knowledge=knowledge(search="OnDemand"),
    session={"historyRuns": 3},
)
HISTORY = tuple(
    Message(role="user" if n % 2 == 0 else "assistant", content=f"message {n} {LONG}") for n in range(6)
)


def reads(context_tokens: int | None, *, provider: str = "OpenAICompatible", **more: Any) -> ModelConfig:
    """A chat model that reads so much."""
    spec: dict[str, Any] = {"type": "Chat", "provider": provider, "contextTokens": context_tokens, **more}
    if provider == "OpenAICompatible":
        spec |= {"model": "m", "endpoint": {"url": "http://127.0.0.1/v1"}}
    return ModelConfig.model_validate({"metadata": {"name": "chat"}, "spec": spec})


class Kit(Bench):
    """A bench whose model's context is known, and whose searches find four long chunks."""

    def __init__(self, config: ModelConfig, contexts: Contexts | None = None) -> None:
        super().__init__()
        self.catalogue.models = [config]
        self.contexts = contexts or Contexts()
        chunks = tuple(chunk(name, f"{name} {LONG}") for name in ("best", "good", "fair", "poor"))
        self.knowledge.results = [SearchResult(outcome="OK", chunks=chunks, ready_documents=1)]

    @property
    def world(self) -> World:
        return replace(super().world, contexts=self.contexts)

    async def play(self, *scripts: Script, of: Any = SEARCHES, before: Sequence[Any] = ()) -> list[Any]:
        """Runs to the end; `before` is what an earlier attempt has logged."""
        return await play(self, of, *scripts, history=HISTORY, before=before)


SEARCH = calls(("search_knowledge", '{"query": "why"}'))


async def test_a_prompt_that_does_not_fit_is_trimmed_and_the_log_says_how() -> None:
    kit = Kit(reads(1200, parameters={"maxOutputTokens": 200}))
    steps = await kit.play(SEARCH, says("Because [1]."))
    first, second = of_type(steps, ContextTrimmed)
    assert (first.step, first.budget_tokens, first.percent) == ("#1", 1000, START_PERCENT)
    assert [(t.kind, t.count) for t in first.trimmed] == [("history", 4)]
    assert [p.content[:9] for p in kit.models.calls[0].prompts[1:]] == ["message 4", "message 5", "Question "]
    assert (second.step, [t.kind for t in second.trimmed]) == ("#2", ["history", "evidence"])
    assert kit.models.calls[1].last.startswith("<evidence>\n(chunks left out for lack of room: ")
    assert "best" in kit.models.calls[1].last
    assert "poor" not in kit.models.calls[1].last
    # Logged before the call is made.
    places = [type(step) for step in steps]
    assert places.index(ContextTrimmed) < places.index(ModelCallFinished)


async def test_a_prompt_that_fits_leaves_no_trace() -> None:
    kit = Kit(reads(100_000))
    steps = await kit.play(SEARCH, says("Because [1]."))
    assert not list(of_type(steps, ContextTrimmed))
    assert len(kit.models.calls[0].prompts) == 8


async def test_what_cannot_be_made_to_fit_fails_with_numbers_and_the_fix() -> None:
    kit = Kit(reads(256))
    steps = await kit.play(of=team({"name": "agent", "instructions": LONG * 2}))
    error = steps[-1].error
    assert (error.reason, kit.models.calls) == ("CONTEXT_TOO_LARGE", [])
    assert error.metadata["budget_tokens"] == "128"
    assert int(error.metadata["needed_tokens"]) > 400
    assert f"about {error.metadata['needed_tokens']} tokens" in error.message
    assert "contextTokens 256, 128 kept for the answer" in error.message
    assert "name a model that reads more" in error.message


async def test_what_the_run_has_left_is_a_budget_too() -> None:
    of = team({"name": "agent"}, limits={"maxTokensPerRun": 1000}, session={"historyRuns": 3})
    kit = Kit(reads(None))
    steps = await kit.play(says("Because."), of=of)
    (trimmed,) = of_type(steps, ContextTrimmed)
    assert (trimmed.budget_tokens, [t.kind for t in trimmed.trimmed]) == (1000, ["history"])


async def test_a_run_that_has_too_little_left_stops_before_the_call() -> None:
    of = team({"name": "agent", "instructions": LONG * 8}, limits={"maxTokensPerRun": 256})
    kit = Kit(reads(None))
    error = (await kit.play(of=of))[-1].error
    assert (error.reason, error.metadata["limit"], kit.models.calls) == (
        "RUN_LIMIT_REACHED", "maxTokensPerRun", [],
    )  # fmt: skip


async def test_the_installation_says_what_its_own_model_reads() -> None:
    kit = Kit(reads(None, provider="BuiltIn"), Contexts(built_in_tokens=1000))
    (trimmed,) = of_type(await kit.play(says("Because."), of=team()), ContextTrimmed)
    assert trimmed.budget_tokens == 500  # half of it at most is kept for the answer


async def test_what_the_endpoint_counts_teaches_the_next_run() -> None:
    config, contexts = reads(4000), Contexts()
    few = replace(done("Because."), input_tokens=1500)
    for _ in range(30):
        await Kit(config, contexts).play([few], of=team())
    learnt = contexts.learnt.percent("default/chat")
    assert learnt < START_PERCENT
    guessed = replace(few, input_tokens=50_000, counted=False)
    await Kit(config, contexts).play([guessed], of=team())
    assert contexts.learnt.percent("default/chat") == learnt
    much = replace(few, input_tokens=50_000)
    await Kit(config, contexts).play([much], of=team())
    assert contexts.learnt.percent("default/chat") > learnt


async def test_a_resumed_run_sends_what_the_first_attempt_sent_whatever_was_learnt_meanwhile() -> None:
    config = reads(1200, parameters={"maxOutputTokens": 200})
    whole = Kit(config)
    await whole.play(SEARCH, says("Because [1]."))
    full = whole.store.log["runs/r1"]
    sent = [call.prompts for call in whole.models.calls]
    for kept in range(1, len(full)):
        before = full[:kept]
        if any(isinstance(e.step, MessageCompleted) for e in before):
            break
        contexts = Contexts()
        contexts.learnt.learn("default/chat", estimated=1000, counted=2000)
        made = sum(isinstance(e.step, ModelCallFinished) for e in before)
        trimmed = {e.step.step for e in before if isinstance(e.step, ContextTrimmed)}
        again = Kit(config, contexts)
        steps = await again.play(*[SEARCH, says("Because [1].")][made:], before=before)
        assert isinstance(steps[-1], RunFinished)
        assert steps[-1].state == "SUCCEEDED"
        for call, prompts, step in zip(again.models.calls, sent[made:], ["#1", "#2"][made:], strict=True):
            assert (call.prompts == prompts) == (step in trimmed)
        logged = [step.step for step in of_type(steps, ContextTrimmed)]
        assert logged == ["#1", "#2"]
