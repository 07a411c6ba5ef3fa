"""What the agents of one run share: its log, ledger, clock, limits and usage."""

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from manifests import AgentTeam, Limits, ModelConfig
from orchestrator.core.ledger import Ledger
from orchestrator.core.log import RunLog, Text
from orchestrator.core.model import (
    Completion,
    Message,
    ModelCallFinished,
    Prompt,
    State,
    TextPart,
    Tool,
    Usage,
)
from orchestrator.core.ports import Catalogue, ChatModels, Embedder, Knowledge
from orchestrator.core.recorded import Recorded, text_id
from orchestrator.core.stages import StageClock
from orchestrator.core.structured import Schema
from servicekit.errors import (
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)

log = structlog.get_logger()

Result = TypeVar("Result")

_RETRY_S = 0.5
_RETRY_MAX_S = 30.0


class LimitReached(FailedPrecondition):
    """A limit of the team's manifest: ends the run, whichever agent reached it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What every run needs of the world."""

    catalogue: Catalogue
    models: ChatModels
    knowledge: Knowledge
    embedder: Embedder


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a run ends."""

    state: State
    error: ServiceError | None


@dataclass(slots=True, kw_only=True)
class Turn:
    """One run while it is worked on.

    Attributes:
        attempt: Which of the run's; 1 for the first.
        answer_schema: What the answer must satisfy; None: it is any text.
        recorded: What the attempts before have done, which is not done again.
    """

    team: AgentTeam
    question: str
    history: Sequence[Message]
    world: World
    log: RunLog
    ledger: Ledger
    stages: StageClock
    attempt: int = 1
    answer_schema: Schema | None = None
    recorded: Recorded = field(default_factory=Recorded)
    usage: Usage = field(init=False)
    answer: Text | None = None  # the team's own text as far as it is written
    end: End | None = None  # set when the run begins to end: nothing may end it otherwise
    concluded: bool = False  # its last event is in the log, stored or not

    def __post_init__(self) -> None:
        self.usage = self.recorded.usage(max_tool_calls=self.limits.max_tool_calls)
        for logged in self.recorded.models.values():
            if logged.step.text:
                text = self.begin_text(logged.step.step, logged.member)
                self.log.grow(text, logged.step.text)

    @property
    def limits(self) -> Limits:
        """The team's limits."""
        return self.team.spec.limits

    def model_config(self, name: str) -> ModelConfig:
        """The ModelConfig of that name. Raises NotFound."""
        namespace = self.team.metadata.namespace
        config = self.world.catalogue.model(namespace, name)
        if config is None:
            raise NotFound(
                f'ModelConfig "{name}" is not in namespace "{namespace}": apply it, or correct the '
                f"modelConfigRef of team {self.team.metadata.name}",
                reason="MODEL_NOT_FOUND",
                metadata={"model": name, "namespace": namespace},
            )
        return config

    def begin_text(self, step: str, member: str) -> Text:
        """A text of a model; hidden where only the checked answer is to be seen."""
        hidden = self.answer_schema is not None and not member
        return self.log.begin_text(text_id(step), member=member, hidden=hidden)

    @property
    def may_call_tools(self) -> bool:
        """Whether the run has tool calls left."""
        return self.usage.tool_calls < self.limits.max_tool_calls

    def count_tool_call(self) -> bool:
        """Counts a tool call; False if the run has had as many as it may."""
        if not self.may_call_tools:
            return False
        self.usage.tool_calls += 1
        return True

    async def complete(
        self,
        config: ModelConfig,
        prompts: Sequence[Prompt],
        *,
        tools: Sequence[Tool],
        must_answer: bool,
        step: str,
        member: str,
    ) -> Completion:
        """Calls a model, unless an earlier attempt of the run has.

        Shows its text as it comes, and calls again what broke.

        A model call has no side effects, so it may be repeated even after some
        text came; followers are told that the text begins anew.

        Raises:
            LimitReached: The run has used up its tokens.
            ServiceError: The model did not answer in 1 + maxRetries attempts.
            Exception: What the log failed with: the run is not ours any more.
        """
        if self.log.failure is not None:
            raise self.log.failure
        recorded = self.recorded.models.get(step)
        if recorded is not None:
            return self._completed_before(recorded.step, member)
        began = self.stages.elapsed_s
        with self.stages.stage("llm_inference"):
            done, attempts, first_token = await self._until_answered(
                config,
                prompts,
                tools=tools,
                must_answer=must_answer,
                # Not where tools are offered, too: many endpoints then write the form instead of a call.
                answer_schema=None if tools or member else self.answer_schema,
                draft=_Draft(turn=self, step=step, member=member),
            )
        self.usage.model_calls += 1
        self.usage.input_tokens += done.input_tokens
        self.usage.output_tokens += done.output_tokens
        self.log.emit(
            ModelCallFinished(
                model=done.model,
                input_tokens=done.input_tokens,
                output_tokens=done.output_tokens,
                seconds=self.stages.elapsed_s - began,
                first_token_seconds=first_token,
                finish_reason=done.finish_reason,
                attempts=attempts,
                step=step,
                text=done.text,
                tool_calls=done.tool_calls,
            ),
            member=member,
        )
        self._check_tokens()
        return done

    def _completed_before(self, call: ModelCallFinished, member: str) -> Completion:
        if call.text and not member:
            self.answer = self.log.text(text_id(call.step))
        self._check_tokens()
        return Completion(
            text=call.text,
            tool_calls=call.tool_calls,
            finish_reason=call.finish_reason,
            model=call.model,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            attempts=call.attempts,
        )

    async def _until_answered(
        self,
        config: ModelConfig,
        prompts: Sequence[Prompt],
        *,
        tools: Sequence[Tool],
        must_answer: bool,
        answer_schema: Schema | None,
        draft: "_Draft",
    ) -> tuple[Completion, int, float | None]:
        """The answer, the attempts it took, and seconds to the last attempt's first token."""
        attempts = 0
        while True:
            attempts += 1
            try:
                async with self.world.models.lease(config) as model:
                    parts = model.stream(
                        prompts, tools=tools, must_answer=must_answer, answer_schema=answer_schema
                    )
                    done = await draft.read(parts)
                if done is None:
                    raise Internal(
                        f"the model of {config.metadata.name} answered with neither text nor a tool call",
                        reason="MODEL_BAD_RESPONSE",
                        metadata={"model": config.metadata.name},
                    )
                return done, attempts, draft.first_token_s
            except ServiceError as error:
                if attempts > config.spec.limits.max_retries or not _worth_repeating(error):
                    raise
                delay = min(_RETRY_S * 2 ** (attempts - 1) * random.uniform(0.8, 1.2), _RETRY_MAX_S)
                if error.retry_after is not None:
                    if error.retry_after.total_seconds() > _RETRY_MAX_S:
                        raise
                    delay = max(delay, error.retry_after.total_seconds())
                log.warning("model_call_repeated", run=self.log.run, error=error.message, retry_s=delay)
            await asyncio.sleep(delay)
            draft.begin_anew()

    def _check_tokens(self) -> None:
        used = self.usage.input_tokens + self.usage.output_tokens
        limit = self.limits.max_tokens_per_run
        if used > limit:
            raise LimitReached(
                f"the run used {used} tokens; the team's limits.maxTokensPerRun is {limit}",
                reason="RUN_LIMIT_REACHED",
                metadata={"limit": "maxTokensPerRun", "value": str(limit), "used": str(used)},
            )


class _Draft:
    """The text of one model call, over all its attempts."""

    def __init__(self, *, turn: Turn, step: str, member: str) -> None:
        self._turn = turn
        self._step = step
        self._member = member
        self._text: Text | None = None
        self.first_token_s: float | None = None

    async def read(self, parts: AsyncIterator[TextPart | Completion]) -> Completion | None:
        """Shows the text as it comes; returns the answer, or None if it is empty."""
        began = self._turn.stages.elapsed_s
        done: Completion | None = None
        async for part in parts:
            if self.first_token_s is None:
                self.first_token_s = self._turn.stages.elapsed_s - began
            if isinstance(part, TextPart):
                if self._text is None:
                    self._text = self._turn.begin_text(self._step, self._member)
                    if not self._member:
                        self._turn.answer = self._text
                self._turn.log.grow(self._text, part.text)
            else:
                done = part
        return done if done and (done.text.strip() or done.tool_calls) else None

    def begin_anew(self) -> None:
        """Forgets the attempt that broke."""
        self.first_token_s = None
        if self._text is not None:
            self._turn.log.begin_anew(self._text)


async def together(works: Sequence[Coroutine[Any, Any, Result]]) -> list[Result]:
    """Their results in order; the first failure cancels the others and is raised as it is."""
    if len(works) == 1:
        return [await works[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


def _worth_repeating(error: ServiceError) -> bool:
    return isinstance(error, Unavailable | ResourceExhausted) or error.reason == "MODEL_BAD_RESPONSE"
