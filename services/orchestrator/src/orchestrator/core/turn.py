"""What the agents of one run share: its log, ledger, clock, limits and usage."""

import asyncio
import copy
import math
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

from manifests import AgentTeam, Guardrails, Limits, ModelConfig, ModelConfigRef
from manifests.base import owner_and_name
from orchestrator.core.calling import ModelCall
from orchestrator.core.calls import CalledTeams, Calls, NoCalls
from orchestrator.core.chat import Completion, Prompt, Tool
from orchestrator.core.context.background import Background
from orchestrator.core.context.budget import Contexts
from orchestrator.core.gate import Gates
from orchestrator.core.guardrails.outlet import Outlet
from orchestrator.core.guardrails.screen import WITHHELD, Screen
from orchestrator.core.guardrails.turns import blocked
from orchestrator.core.inputs import Inputs
from orchestrator.core.ledger import Ledger
from orchestrator.core.log import RunLog, Text
from orchestrator.core.model import Message, ModelCallFinished, State
from orchestrator.core.ports import Catalogue, ChatModels, Embedder, Knowledge, Memories, NoMemories
from orchestrator.core.recorded import Recorded, is_own, text_id
from orchestrator.core.stages import StageClock
from orchestrator.core.structured import Schema
from orchestrator.core.tools import NoTools, Tools
from orchestrator.core.totals import Usage
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
    tools: Tools = field(default_factory=NoTools)
    memories: Memories = field(default_factory=NoMemories)
    calls: Calls = field(default_factory=NoCalls)


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a run ends."""

    state: State
    error: ServiceError | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer:
    """What a team that is a member of another was given by it.

    Attributes:
        turn: The other team's.
        path: The delegation: what the steps of the team within begin with.
        member: Whose its events are, with the names of the teams around it: `desk/clerk`.
        speaks_as: Whose its leader's texts are; empty if they may become the run's answer.
        task: What it was asked to do; empty for the user's question.
        since: Sequence of the event that it began with.
        reports: What it is shown of the other team's members.
    """

    turn: "Turn"
    path: str
    member: str
    speaks_as: str
    task: str
    since: int
    reports: tuple[tuple[str, str], ...]


@dataclass(slots=True, kw_only=True)
class Turn:
    """One run while it is worked on; or the part of it that a team within the team does.

    The turn of a team within another is a copy with its own `team`, `history`
    and `outer`: whatever else changes during a run is shared, and so is kept in
    objects, never in a field that is set anew.

    Attributes:
        attempt: Which of the run's; 1 for the first.
        answer_schema: What the answer must satisfy; None: it is any text.
        recorded: What the attempts before have done, which is not done again.
        outer: Of a team that is a member of another; None for the team that was asked.
    """

    team: AgentTeam
    question: str
    history: Sequence[Message]
    world: World
    background: Background = Background()  # noqa: RUF009  frozen
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
    outer: Outer | None = None

    inputs: Inputs = field(init=False)
    called: CalledTeams = field(init=False)

    def __post_init__(self) -> None:
        self.inputs = Inputs(
            log=self.log,
            stages=self.stages,
            recorded=self.recorded,
            expire_after=timedelta(hours=self.team.spec.approvals.expire_after_hours),
        )
        self.called = CalledTeams(self.recorded)
        self.usage = self.recorded.usage(max_tool_calls=self.limits.max_tool_calls)
        for logged in self.recorded.models.values():
            if logged.step.text and logged.step.text != WITHHELD:
                text = self.begin_text(logged.step.step, logged.member)
                self.log.grow(text, logged.step.text)

    def nested(self, team: AgentTeam, outer: Outer, history: Sequence[Message]) -> "Turn":
        """The part of the run that another team does, as a member of this one."""
        inner = copy.copy(self)
        inner.team, inner.outer, inner.history = team, outer, history
        return inner

    @property
    def limits(self) -> Limits:
        """The limits of the team that was asked; a team within it may have fewer turns."""
        own = self.team.spec.limits
        if self.outer is None:
            return own
        outer = self.outer.turn.limits
        return outer.model_copy(update={"max_turns": min(own.max_turns, outer.max_turns)})

    @property
    def path(self) -> str:
        """What the steps of this team begin with."""
        return self.outer.path if self.outer else ""

    @property
    def speaks_as(self) -> str:
        """Whose the texts of this team are; empty for those that may become the run's answer."""
        return self.outer.speaks_as if self.outer else ""

    @property
    def since(self) -> int:
        """Sequence of the event that this team began with."""
        return self.outer.since if self.outer else 0

    @property
    def sought(self) -> str:
        """What the team is to answer: its task, or the user's question."""
        return (self.outer.task if self.outer else "") or self.question

    @property
    def teams(self) -> list[str]:
        """The names of the teams around this one, and its own: the outermost first."""
        return [*(self.outer.turn.teams if self.outer else ()), self.team.metadata.name]

    def event_member(self, member: str) -> str:
        """What the events of a member of this team are filed under."""
        return f"{self.outer.member}/{member}" if self.outer else member

    def wrote(self, text: Text) -> None:
        """Remembers what the team itself writes: it may become the run's answer."""
        self.answer = text
        if self.outer is not None:
            self.outer.turn.wrote(text)

    def find_model(self, name: str) -> ModelConfig | None:
        """The ModelConfig that the team calls so, or None."""
        return self.world.catalogue.model(*owner_and_name(self.team.metadata.namespace, name))

    def model_of(self, ref: ModelConfigRef) -> ModelConfig:
        """The ModelConfig that the team refers to. Raises NotFound."""
        return self.model_config(ref.of(self.team.metadata.namespace))

    def model_config(self, name: str) -> ModelConfig:
        """The ModelConfig that the team calls so. Raises NotFound."""
        config = self.find_model(name)
        if config is None:
            namespace, found = owner_and_name(self.team.metadata.namespace, name)
            foreign = namespace != self.team.metadata.namespace
            fix = "let its owner allow it" if foreign else "apply it"
            raise NotFound(
                f'ModelConfig "{found}" is not in namespace "{namespace}"{" or not for this one" * foreign}: '
                f"{fix}, or correct the modelConfigRef of team {self.team.metadata.name}",
                reason="MODEL_NOT_FOUND",
                metadata={"model": name, "namespace": namespace},
            )
        return config

    def begin_text(self, step: str, member: str) -> Text:
        """A text of a model; hidden where only the checked answer is to be seen."""
        hidden = is_own(step) or (self.answer_schema is not None and not member)
        return self.log.begin_text(text_id(step), member=member, hidden=hidden)

    @property
    def guardrails(self) -> list[Guardrails]:
        """Of the team and of those around it: all of them hold."""
        around = self.outer.turn.guardrails if self.outer else []
        return [*around, self.team.spec.guardrails]

    def outlet(self, member: str) -> Outlet | None:
        """What guards the answer while it is written; None: nothing does, or it is a member's text."""
        screen = Screen(self.guardrails, "OUTPUT")
        return Outlet(screen) if screen and not member else None

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
            answer_schema=None if tools or member or is_own(step) else self.answer_schema,
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
        if done.text == WITHHELD:
            raise blocked("the answer", ())
        return done

    def _completed_before(self, call: ModelCallFinished, member: str) -> Completion:
        if call.text == WITHHELD:
            raise blocked("the answer", ())
        if call.text and not member:
            self.wrote(self.log.text(text_id(call.step)))
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
