"""What the agents of one run share: its log, ledger, clock, limits and usage."""

import asyncio
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeVar

from manifests import AgentTeam, Limits, ModelConfig
from orchestrator.core.calling import ModelCall
from orchestrator.core.context.budget import Contexts
from orchestrator.core.gate import Gates
from orchestrator.core.ledger import Ledger
from orchestrator.core.log import RunLog, Text
from orchestrator.core.model import (
    Completion,
    Message,
    ModelCallFinished,
    Prompt,
    State,
    Tool,
    Usage,
)
from orchestrator.core.ports import Catalogue, ChatModels, Embedder, Knowledge
from orchestrator.core.recorded import Recorded, text_id
from orchestrator.core.stages import StageClock
from orchestrator.core.structured import Schema
from servicekit.errors import FailedPrecondition, NotFound, ServiceError

Result = TypeVar("Result")


class LimitReached(FailedPrecondition):
    """A limit of the team's manifest: ends the run, whichever agent reached it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What every run needs of the world."""

    catalogue: Catalogue
    models: ChatModels
    knowledge: Knowledge
    embedder: Embedder
    gates: Gates = field(default_factory=Gates)
    contexts: Contexts = field(default_factory=Contexts)


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
    deadline: float = math.inf  # when the run's time is up, on the event loop's clock
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

    def find_model(self, name: str) -> ModelConfig | None:
        """The ModelConfig of that name in the team's namespace, or None."""
        return self.world.catalogue.model(self.team.metadata.namespace, name)

    def model_config(self, name: str) -> ModelConfig:
        """The ModelConfig of that name. Raises NotFound."""
        config = self.find_model(name)
        if config is None:
            namespace = self.team.metadata.namespace
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

        See ModelCall for what happens when the model does not answer.

        Raises:
            LimitReached: The run has used up its tokens or its money.
            ServiceError: Neither the model nor one of its fallbacks answered.
            Exception: What the log failed with: the run is not ours any more.
        """
        if self.log.failure is not None:
            raise self.log.failure
        recorded = self.recorded.models.get(step)
        if recorded is not None:
            return self._completed_before(recorded.step, member)
        self.check_limits()
        call = ModelCall(
            self,
            prompts,
            tools=tools,
            must_answer=must_answer,
            # Not where tools are offered, too: many endpoints then write the form instead of a call.
            answer_schema=None if tools or member else self.answer_schema,
            step=step,
            member=member,
        )
        began = self.stages.elapsed_s
        with self.stages.stage("llm_inference"):
            done = await call.answer(config)
        self.usage.model_calls += 1
        self.log.emit(
            ModelCallFinished(
                model=done.model,
                input_tokens=call.input_tokens,
                output_tokens=call.output_tokens,
                seconds=self.stages.elapsed_s - began,
                first_token_seconds=call.first_token_s,
                finish_reason=done.finish_reason,
                attempts=call.attempts,
                step=step,
                text=done.text,
                tool_calls=done.tool_calls,
                model_config=call.answered_by,
                cost_micros=call.cost_micros,
                currency=call.currency,
                fallen_back_from=call.failed,
            ),
            member=member,
        )
        self.check_limits()
        return done

    def _completed_before(self, call: ModelCallFinished, member: str) -> Completion:
        if call.text and not member:
            self.answer = self.log.text(text_id(call.step))
        self.check_limits()
        return Completion(
            text=call.text,
            tool_calls=call.tool_calls,
            finish_reason=call.finish_reason,
            model=call.model,
            input_tokens=call.input_tokens,
            output_tokens=call.output_tokens,
            attempts=call.attempts,
        )

    def check_limits(self) -> None:
        """Raises LimitReached if the run has used more tokens or money than it may."""
        used = self.usage.input_tokens + self.usage.output_tokens
        limit = self.limits.max_tokens_per_run
        if used > limit:
            raise LimitReached(
                f"the run used {used} tokens; the team's limits.maxTokensPerRun is {limit}",
                reason="RUN_LIMIT_REACHED",
                metadata={"limit": "maxTokensPerRun", "value": str(limit), "used": str(used)},
            )
        most = self.limits.max_cost_per_run
        cost = Decimal(self.usage.cost_micros).scaleb(-6)
        if most is not None and cost > Decimal(most):
            raise LimitReached(
                f"the run cost {cost:f} {self.usage.currency}; the team's limits.maxCostPerRun is {most}",
                reason="RUN_LIMIT_REACHED",
                metadata={"limit": "maxCostPerRun", "value": most, "used": f"{cost:f}"},
            )


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
