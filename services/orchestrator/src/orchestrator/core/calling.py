"""One call of a model: repeated while that helps, then put to its fallbacks (docs/models.md)."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

import structlog

from manifests import ModelConfig, fallback_chain
from manifests.base import owner_and_name, said_in
from orchestrator.core.chat import Completion, Prompt, TextPart, Tool
from orchestrator.core.gate import Gate
from orchestrator.core.guardrails.turns import report
from orchestrator.core.log import Text
from orchestrator.core.metrics import FIRST_TOKEN_SECONDS, MODEL_SECONDS
from orchestrator.core.model import FailedModel
from orchestrator.core.model_metrics import CALLS, COST, FALLBACKS, TOKENS, outcome_of
from orchestrator.core.recorded import is_own
from orchestrator.core.structured import Schema
from orchestrator.core.tracing import chat_span, note_chat
from servicekit.errors import Internal, ResourceExhausted, ServiceError, Unavailable
from servicekit.spans import mark, observe

if TYPE_CHECKING:
    from orchestrator.core.turn import Turn

log = structlog.get_logger()

_RETRY_S = 0.5
_RETRY_MAX_S = 30.0
_FALL_BACK_AFTER_S = 5.0  # nobody waits longer for a busy model while another may be asked
_RUN_MARGIN_S = 0.5  # a wait ends before the run's time does, so that the run can say what it waited for
_CHARS_PER_TOKEN = 4


class ModelCall:
    """One step of an agent, whichever models it takes.

    Attributes:
        attempts: Requests made so far, over all models.
        answered_by: The model that answered in the end.
        failed: Those before it.
        input_tokens, output_tokens, cost_micros: Of all requests that were answered, empty answers too.
    """

    def __init__(
        self,
        turn: "Turn",
        prompts: Sequence[Prompt],
        *,
        tools: Sequence[Tool],
        must_answer: bool,
        answer_schema: Schema | None,
        step: str,
        member: str,
    ) -> None:
        self._turn = turn
        self._prompts = prompts
        self._tools = tools
        self._must_answer = must_answer
        self._answer_schema = answer_schema
        self._draft = _Draft(turn=turn, step=step, member=member)
        self._tokens = sum(len(prompt.content) for prompt in prompts) // _CHARS_PER_TOKEN
        self.attempts = 0
        self.answered_by = ""
        self.failed: tuple[FailedModel, ...] = ()
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_micros = 0
        self.currency = ""

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the last request to its first token."""
        return self._draft.first_token_s

    async def answer(self, config: ModelConfig) -> Completion:
        """Asks the model, then its fallbacks.

        Raises:
            ServiceError: None could answer; with one model its own error, else one that names them all.
        """
        find, namespace = self._turn.find_model, self._turn.team.metadata.namespace
        first = said_in(namespace, config.metadata.namespace, config.metadata.name)
        chain = [first, *fallback_chain(config, find, namespace)]
        for position, name in enumerate(chain):
            try:
                asked = config if position == 0 else self._turn.model_config(name)
                done = await self._ask(asked, is_last=position == len(chain) - 1)
            except ServiceError as error:
                if not error.reason.startswith("MODEL_"):
                    raise
                self.failed = (*self.failed, FailedModel(model_config=name, error=error))
                if position < len(chain) - 1:
                    log.warning("model_fell_back", run=self._turn.log.run, model=name, error=error.message)
                    mark("fallback")
                    FALLBACKS.labels(self._turn.world.gates.label(*owner_and_name(namespace, name))).inc()
            else:
                self.answered_by = name
                return done if position == 0 else replace(done, counted=False)
        raise self._none_answered()

    async def _ask(self, config: ModelConfig, *, is_last: bool) -> Completion:
        gate = self._turn.world.gates.of(config)
        attempt = 0
        while True:
            attempt += 1
            try:
                passed = await gate.enter(tokens=self._tokens, patience_s=self._patience_s(is_last))
            except ServiceError:
                CALLS.labels(gate.label, "refused").inc()
                raise
            self.attempts += 1
            self._draft.begin_anew()
            began = self._turn.stages.elapsed_s
            try:
                with passed, chat_span(config, gate.label) as span:
                    done = await self._read(config)
                    note_chat(span, done, first_token_s=self._draft.first_token_s, prompts=self._prompts)
                    observe(MODEL_SECONDS.labels(gate.label), self._turn.stages.elapsed_s - began)
                    if self._draft.first_token_s is not None:
                        observe(FIRST_TOKEN_SECONDS.labels(gate.label), self._draft.first_token_s)
                    passed.tokens = done.input_tokens + done.output_tokens
                    self._count(config, gate, done)
                if not done.text.strip() and not done.tool_calls:
                    raise _empty(config, done)
            except ServiceError as error:
                CALLS.labels(gate.label, outcome_of(error)).inc()
                if attempt > config.spec.limits.max_retries or not _worth_repeating(error):
                    raise
                if gate.paused_s() > min(self._patience_s(is_last), _RETRY_MAX_S):
                    raise
                # What the endpoint asked for (Retry-After) is the gate's to wait for, with all other calls.
                delay = min(_RETRY_S * 2 ** (attempt - 1) * random.uniform(0.8, 1.2), _RETRY_MAX_S)
                log.warning("model_call_repeated", run=self._turn.log.run, error=error.message, retry_s=delay)
            else:
                CALLS.labels(gate.label, "ok").inc()
                return done
            await asyncio.sleep(delay)

    async def _read(self, config: ModelConfig) -> Completion:
        limit_s = config.spec.limits.timeout_seconds
        try:
            async with asyncio.timeout(limit_s), self._turn.world.models.lease(config) as model:
                parts = model.stream(
                    self._prompts,
                    tools=self._tools,
                    must_answer=self._must_answer,
                    answer_schema=self._answer_schema,
                )
                return await self._draft.read(parts)
        except TimeoutError as error:
            name = config.metadata.name
            raise Unavailable(
                f"model {name} did not end its answer within {limit_s} s (limits.timeoutSeconds)",
                reason="MODEL_UNAVAILABLE",
                metadata={"model": name, "limit": "timeoutSeconds", "value": str(limit_s)},
            ) from error

    def _count(self, config: ModelConfig, gate: Gate, done: Completion) -> None:
        usage, pricing = self._turn.usage, config.spec.pricing
        self.input_tokens += done.input_tokens
        self.output_tokens += done.output_tokens
        usage.input_tokens += done.input_tokens
        usage.output_tokens += done.output_tokens
        TOKENS.labels(gate.label, "input").inc(done.input_tokens)
        TOKENS.labels(gate.label, "output").inc(done.output_tokens)
        if pricing is not None:
            cost = cost_micros(config, done)
            self.cost_micros += cost
            usage.cost_micros += cost
            self.currency = usage.currency = pricing.currency
            COST.labels(gate.label, pricing.currency).inc(cost)

    def _patience_s(self, is_last: bool) -> float:
        """How long the call may wait for its model."""
        left_s = self._turn.deadline - asyncio.get_running_loop().time() - _RUN_MARGIN_S
        return max(0.0, left_s if is_last else min(left_s, _FALL_BACK_AFTER_S))

    def _none_answered(self) -> ServiceError:
        first = self.failed[0].error
        if len(self.failed) == 1:
            return first
        said = "; ".join(f"{failed.model_config}: {failed.error.message}" for failed in self.failed)
        delays = [failed.error.retry_after for failed in self.failed if failed.error.retry_after is not None]
        return type(first)(
            f"no model could answer: {said}",
            reason=first.reason,
            metadata={"models": ", ".join(failed.model_config for failed in self.failed)},
            retry_after=min(delays) if delays else None,
        )


class _Draft:
    """The text of one model call, over all its attempts."""

    def __init__(self, *, turn: "Turn", step: str, member: str) -> None:
        self._turn = turn
        self._step = step
        self._member = member
        self._text: Text | None = None
        self.first_token_s: float | None = None

    async def read(self, parts: AsyncIterator[TextPart | Completion]) -> Completion:
        """Shows the text as it comes; returns the answer."""
        began = self._turn.stages.elapsed_s
        done: Completion | None = None
        outlet = self._turn.outlet(self._member)
        async for part in parts:
            if self.first_token_s is None:
                self.first_token_s = self._turn.stages.elapsed_s - began
            if isinstance(part, TextPart):
                self._show(part.text if outlet is None else outlet.feed(part.text))
            else:
                done = part
        if done is None:
            raise AssertionError("a model's stream ends with its Completion")
        if outlet is None:
            return done
        rest = outlet.end()
        report(self._turn, outlet.triggered, member=self._member)
        if not outlet.blocked:
            self._show(rest)
        return replace(done, text=outlet.text)

    def _show(self, piece: str) -> None:
        if not piece:
            return
        if self._text is None:
            self._text = self._turn.begin_text(self._step, self._member)
            if not self._member and not is_own(self._step):
                self._turn.wrote(self._text)
        self._turn.log.grow(self._text, piece)

    def begin_anew(self) -> None:
        """Forgets the attempt that broke, if there was one."""
        self.first_token_s = None
        if self._text is not None:
            self._turn.log.begin_anew(self._text)


def cost_micros(config: ModelConfig, done: Completion) -> int:
    """What an answer cost in millionths of the price's currency; 0 without a price."""
    pricing = config.spec.pricing
    if pricing is None:
        return 0
    # A price is for a million tokens, so that price times tokens is in millionths.
    cost = done.input_tokens * Decimal(pricing.input_per_million_tokens)
    cost += done.output_tokens * Decimal(pricing.output_per_million_tokens)
    return int(cost.to_integral_value(ROUND_HALF_UP))


def _worth_repeating(error: ServiceError) -> bool:
    return isinstance(error, Unavailable | ResourceExhausted) or error.reason == "MODEL_BAD_RESPONSE"


def _empty(config: ModelConfig, done: Completion) -> Internal:
    cut = " until its parameters.maxOutputTokens were used up" if done.finish_reason == "length" else ""
    return Internal(
        f"the model of {config.metadata.name} answered with neither text nor a tool call{cut}",
        reason="MODEL_BAD_RESPONSE",
        metadata={"model": config.metadata.name},
    )
