"""Model calls whose prompts fit: what an agent calls instead of the model."""

from collections.abc import Sequence
from dataclasses import dataclass

from prometheus_client import Counter

from manifests import ModelConfig
from orchestrator.core.chat import Completion, Prompt, Tool
from orchestrator.core.context.budget import counting, model_key, reply_tokens
from orchestrator.core.context.fit import KINDS, Fitted, fit
from orchestrator.core.context.tokens import MIN_PERCENT, all_units, most_tokens
from orchestrator.core.model import ContextTrimmed
from orchestrator.core.turn import LimitReached, Turn
from servicekit.counters import from_zero
from servicekit.errors import FailedPrecondition

TRIMMED = Counter(
    "agentteams_context_trimmed_total", "Pieces left out of prompts that did not fit, or cut", ["kind"]
)
from_zero(TRIMMED, kind=KINDS)
TOO_LARGE = Counter("agentteams_context_too_large_total", "Model calls whose prompt could not be made to fit")

# Only a prompt that comes near its budget is counted, and teaches: the others cost nothing.
_NEAR = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Budget:
    """What a prompt may have.

    Attributes:
        tokens: So many, the answer's reserve not included.
        window: Of the model; None: not known.
        reserve: Of the window, for the answer.
        by_run: It is what the run has left, which is less than the model could read.
    """

    tokens: int
    window: int | None
    reserve: int
    by_run: bool


async def complete(
    turn: Turn,
    config: ModelConfig,
    prompts: Sequence[Prompt],
    *,
    tools: Sequence[Tool],
    must_answer: bool,
    step: str,
    member: str,
) -> Completion:
    """Calls a model as Turn.complete does, with a prompt that fits.

    Raises:
        FailedPrecondition: CONTEXT_TOO_LARGE: it cannot be made to fit.
        LimitReached: It does not fit into the tokens that the run has left.
    """
    near = False
    if step not in turn.recorded.models:
        with turn.stages.stage("context_assembly"):
            budget = _budget(turn, config)
            near = step in turn.recorded.trimmed or most_tokens(prompts, tools) > budget.tokens // _NEAR
            if near:
                prompts = await _fitted(turn, config, prompts, tools, budget, step=step, member=member)
    done = await turn.complete(
        config, prompts, tools=tools, must_answer=must_answer, step=step, member=member
    )
    # The local model reads the prompt twice where there are tools, and counts both.
    if near and done.counted and not (tools and config.spec.provider == "BuiltIn"):
        turn.world.contexts.learnt.learn(
            model_key(config), estimated=all_units(prompts, tools), counted=done.input_tokens
        )
    return done


def budget_tokens(turn: Turn, config: ModelConfig) -> int:
    """What a prompt of this run for this model may have now."""
    return _budget(turn, config).tokens


def _budget(turn: Turn, config: ModelConfig) -> _Budget:
    left = turn.limits.max_tokens_per_run - turn.usage.input_tokens - turn.usage.output_tokens
    window = turn.world.contexts.window(config)
    reserve = 0 if window is None else reply_tokens(config, window)
    if window is None or left <= window - reserve:
        return _Budget(tokens=left, window=window, reserve=0, by_run=True)
    return _Budget(tokens=window - reserve, window=window, reserve=reserve, by_run=False)


async def _fitted(
    turn: Turn,
    config: ModelConfig,
    prompts: Sequence[Prompt],
    tools: Sequence[Tool],
    budget: _Budget,
    *,
    step: str,
    member: str,
) -> Sequence[Prompt]:
    """What is sent. A call that an earlier attempt began is made with the prompt that it had."""
    before = turn.recorded.trimmed.get(step)
    if before is not None:
        again = before.step
        measure = again.percent or await turn.world.contexts.measure(config)
        fitted = await counting(
            measure, lambda: fit(prompts, tools, budget_tokens=again.budget_tokens, measure=measure)
        )
        return fitted.prompts
    measure = await turn.world.contexts.measure(config)
    percent = measure if isinstance(measure, int) else 0
    fitted = await counting(
        measure, lambda: fit(prompts, tools, budget_tokens=budget.tokens, measure=measure)
    )
    # What a run uses is counted, not estimated: only what surely goes beyond its limit is refused here.
    by_guess = budget.by_run and percent
    least = fitted.tokens * MIN_PERCENT // percent if by_guess else fitted.tokens
    if least > budget.tokens:
        TOO_LARGE.inc()
        raise _too_large(turn, config, fitted, budget, member)
    if fitted.trimmed:
        for done in fitted.trimmed:
            TRIMMED.labels(done.kind).inc(done.count)
        turn.log.emit(
            ContextTrimmed(
                step=step,
                budget_tokens=budget.tokens,
                needed_tokens=fitted.needed_tokens,
                percent=percent,
                trimmed=fitted.trimmed,
            ),
            member=member,
        )
    return fitted.prompts


def _too_large(
    turn: Turn, config: ModelConfig, fitted: Fitted, budget: _Budget, member: str
) -> FailedPrecondition:
    who, name = member or "the team", config.metadata.name
    needs = f"{who} must tell model {name} about {fitted.tokens} tokens, after all was left out that may be"
    if budget.by_run:
        limit = turn.limits.max_tokens_per_run
        used = turn.usage.input_tokens + turn.usage.output_tokens
        return LimitReached(
            f"{needs}; the run has used {used} of limits.maxTokensPerRun, {limit}",
            reason="RUN_LIMIT_REACHED",
            metadata={"limit": "maxTokensPerRun", "value": str(limit), "used": str(used)},
        )
    return FailedPrecondition(
        f"{needs}; there is room for {budget.tokens} (contextTokens {budget.window}, {budget.reserve} kept "
        "for the answer). Ask a shorter question, shorten the instructions or the tools, lower "
        "parameters.maxOutputTokens, or name a model that reads more",
        reason="CONTEXT_TOO_LARGE",
        metadata={
            "model": name,
            "needed_tokens": str(fitted.tokens),
            "budget_tokens": str(budget.tokens),
            "context_tokens": str(budget.window),
        },
    )
