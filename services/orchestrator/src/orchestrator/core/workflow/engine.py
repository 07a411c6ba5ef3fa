"""Runs a workflow: one step after the other, and goes on in the middle of it (docs/workflow.md)."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import get_args

from prometheus_client import Counter

from manifests.expressions import ExpressionError, Scope, Wanted, as_text, canonical, evaluate, render
from manifests.workflow_plan import Block, Kind, Plan, PlannedStep, plan
from orchestrator.core.chat import Prompt
from orchestrator.core.members import Members
from orchestrator.core.model import Evidence, StepFinished, StepStarted, ToolApproval
from orchestrator.core.tracing import step_span
from orchestrator.core.turn import LimitReached, Turn, together
from orchestrator.core.workflow import errors
from orchestrator.core.workflow.frame import NOTHING, Frame, Outcome, Seen
from orchestrator.core.workflow.paths import agent_path, attempt_path, is_within
from orchestrator.core.workflow.work import Given, MemberWork, given_to_member, own_input
from servicekit.counters import from_zero
from servicekit.errors import FailedPrecondition, ServiceError

STEPS = Counter(
    "agentteams_workflow_steps_total", "Attempts of workflow steps that ended", ["kind", "outcome"]
)
from_zero(STEPS, kind=get_args(Kind), outcome=("done", "failed"))

APPROVAL = "approval"  # what stands for the tool when a step asks for leave
MAX_STEPS = 1000  # steps that a run may begin, each attempt and iteration counted
MAX_VALUE_BYTES = 256 * 1024
_SIDE_BY_SIDE = 8
_MAX_BACKOFF_S = 3600
_ASKS: dict[str, Wanted] = {"condition": "bool", "router": "text"}


class Engine:
    """The workflow of one turn.

    Args:
        turn: The run.
        members: Who does the steps.
        history: The conversation before the question.
    """

    def __init__(self, turn: Turn, members: Members, history: Sequence[Prompt]) -> None:
        workflow = turn.team.spec.workflow
        if workflow is None:
            raise AssertionError("a manifest with mode Workflow has spec.workflow")
        self._turn = turn
        self._plans = plan(workflow)
        self._work = MemberWork(turn, members, history)
        self._prefix = f"{turn.path}@" if turn.path else ""

    async def answer(self) -> str:
        """The team's answer.

        Raises:
            NoDocuments: A member must search first and has nothing to search in.
            ServiceError: STEP_FAILED, or a limit of the run.
        """
        frame = Frame(input=self._turn.sought)
        outcome = await self._workflow(self._plans.main, self._prefix, frame, speaks=True)
        if not outcome.answer.strip():
            last = f"{self._prefix}{self._plans.main.block.steps[-1].name}"
            why = outcome.error.message if outcome.error else "its last step has no output"
            raise FailedPrecondition(
                f"the workflow came to no answer: {why}", reason="STEP_FAILED", metadata={"step": last}
            )
        return outcome.answer

    # --- steps in their order -----------------------------------------------------

    async def _workflow(self, what: Plan, prefix: str, frame: Frame, *, speaks: bool) -> Outcome:
        """A workflow, or a definition. With `speaks` its last step writes the team's answer."""
        outcome = await self._in_turn(what.block, prefix, frame, speaks=speaks and what.output is None)
        if what.output is None:
            return outcome
        try:
            output = self._value("workflow's output", what.output, what.block.after, frame, "any")
            return Outcome(output=_bounded("workflow's output", output))
        except ServiceError as error:
            raise errors.failed(f"{prefix}{what.block.steps[-1].name}", error) from error

    async def _in_turn(self, block: Block, prefix: str, frame: Frame, *, speaks: bool) -> Outcome:
        """Steps one after the other: what the last one came to."""
        outcome = NOTHING
        for step in block.steps:
            last = step is block.steps[-1]
            outcome = await self._step(step, prefix, frame, speaks=speaks and last)
            frame.outcomes[step.name] = outcome
            if outcome.output is not None and step.kind != "approval":
                frame.before = outcome
        return outcome

    async def _step(self, step: PlannedStep, prefix: str, frame: Frame, *, speaks: bool) -> Outcome:
        """A step with its attempts. Raises the failure of the last one, unless the workflow goes on."""
        path, retries = f"{prefix}{step.name}", step.fields.retries
        most = _most(step)
        refused = ""
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._attempt(
                    step, path, frame, attempt=attempt, last=attempt == most, speaks=speaks, refused=refused
                )
            except ServiceError as error:
                if retries is None or attempt == most or not errors.is_worth_repeating(error):
                    raise errors.failed(path, error) from error
                refused = error.message if error.reason == "ANSWER_INVALID" else ""
            if (path, attempt + 1) not in self._turn.recorded.step_starts:
                delay = min(retries.backoff_seconds * 2 ** (attempt - 1), _MAX_BACKOFF_S)
                with self._turn.stages.busy():  # a run with something to do does not wait for people alone
                    await asyncio.sleep(delay)

    async def _attempt(
        self,
        step: PlannedStep,
        path: str,
        frame: Frame,
        *,
        attempt: int,
        last: bool,
        speaks: bool,
        refused: str,
    ) -> Outcome:
        """One attempt of a step, from its first event to its last; from the log if that has both."""
        turn, own = self._turn, attempt_path(path, attempt)
        ended = turn.recorded.step_ends.get((path, attempt))
        if ended is not None:
            if ended.step.error is not None and not ended.step.continued:
                raise ended.step.error
            return Outcome(output=ended.step.output, error=ended.step.error, evidence=self._evidence(own))
        try:
            given, broken = self._given(step, frame), None
            _bounded("input", given.logged)
        except ServiceError as error:
            given, broken = Given(), error
        since = self._begin(step, path, attempt, given)
        try:
            if broken is not None:
                raise broken
            with step_span(turn.log.run, step.kind, path, attempt):
                outcome = await self._in_time(
                    step, own, frame, given, since=since, speaks=speaks, refused=refused
                )
            output = _bounded("output", outcome.output)
        except ServiceError as error:
            if turn.log.failure is not None:
                raise  # the run is somebody else's now
            over = last or not errors.is_worth_repeating(error)
            continued = over and step.fields.on_failure == "Continue" and not errors.is_fatal(error)
            self._end(
                step, StepFinished(path=path, output=None, attempt=attempt, error=error, continued=continued)
            )
            if not continued:
                raise
            return Outcome(error=error, evidence=self._evidence(own))
        self._end(
            step,
            StepFinished(
                path=path,
                output=output,
                attempt=attempt,
                error=outcome.error,
                continued=outcome.error is not None,
            ),
        )
        return Outcome(output=output, error=outcome.error, evidence=self._evidence(own))

    async def _in_time(
        self,
        step: PlannedStep,
        own: str,
        frame: Frame,
        given: Given,
        *,
        since: int,
        speaks: bool,
        refused: str,
    ) -> Outcome:
        seconds = step.fields.timeout_seconds
        limit = asyncio.timeout(None if step.kind == "approval" else seconds)
        try:
            async with limit:
                if step.kind == "member":
                    plain = speaks and step.fields.output is None and step.fields.on_failure == "Fail"
                    output = await self._work.do(
                        step.fields, given, path=agent_path(own), since=since, speaks=plain, refused=refused
                    )
                    return Outcome(output=output)
                return await self._block(step, own, frame, given, speaks=speaks)
        except TimeoutError:
            if seconds is None or not limit.expired():
                raise
            raise errors.timed_out(seconds) from None

    # --- kinds of steps -------------------------------------------------------------

    async def _block(
        self, step: PlannedStep, own: str, frame: Frame, given: Given, *, speaks: bool
    ) -> Outcome:
        match step.kind:
            case "parallel":
                return await self._side_by_side(step.blocks[0], f"{own}/", frame)
            case "loop":
                return await self._loop(step, own, frame)
            case "workflow":
                called = self._plans.definitions[step.fields.workflow.name if step.fields.workflow else ""]
                text = frame.input if given.value is None else as_text(given.value)
                return await self._workflow(called, f"{own}/", Frame(input=text), speaks=speaks)
            case "approval":
                return await self._approval(step, own, as_text(given.value))
            case _:
                way = step.way(given.value)
                if way is None:
                    raise errors.no_way(as_text(given.value))
                return await self._in_turn(way, f"{own}/", frame.inner(), speaks=speaks)

    async def _approval(self, step: PlannedStep, own: str, message: str) -> Outcome:
        """Waits until a person has decided. Raises if nobody agrees, and Parked if nothing else is to do."""
        seconds = step.fields.timeout_seconds
        provided = await self._turn.inputs.ask(
            agent_path(own),
            ToolApproval(tool=APPROVAL, arguments={"step": own, "message": message}),
            member=self._member(step),
            expire_after=timedelta(seconds=seconds) if seconds is not None else None,
        )
        said = provided.input
        if provided.expired:
            raise errors.refused("nobody has decided in time")
        if not said.approved:
            raise errors.refused(said.reason)
        return Outcome(output={"approved": True, "user": said.user, "reason": said.reason})

    async def _side_by_side(self, block: Block, prefix: str, frame: Frame) -> Outcome:
        places = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def one(step: PlannedStep) -> Outcome:
            async with places:
                return await self._step(step, prefix, frame.inner(), speaks=False)

        for step in block.steps:
            known = self._known_failure(step, f"{prefix}{step.name}")
            if known is not None:
                raise known  # before the others begin anything again
        done = await together([one(step) for step in block.steps])
        outcomes = {step.name: outcome for step, outcome in zip(block.steps, done, strict=True)}
        return Outcome(
            output={name: outcome.output for name, outcome in outcomes.items()},
            error=next((o.error for o in outcomes.values() if o.error is not None), None),
        )

    def _known_failure(self, step: PlannedStep, path: str) -> ServiceError | None:
        """What ended the block in an earlier attempt of the run."""
        for attempt in range(1, _most(step) + 1):
            ended = self._turn.recorded.step_ends.get((path, attempt))
            error = ended.step.error if ended is not None and not ended.step.continued else None
            if error is not None and (attempt == _most(step) or not errors.is_worth_repeating(error)):
                return errors.failed(path, error)
        return None

    async def _loop(self, step: PlannedStep, own: str, frame: Frame) -> Outcome:
        block, inner, outcome = step.blocks[0], frame.inner(), NOTHING
        for iteration in range(1, step.iterations + 1):
            inner.iteration = iteration
            outcome = await self._in_turn(block, f"{own}[{iteration}]/", inner, speaks=False)
            if step.expression is not None and self._value(
                "until", step.expression, block.after, inner, "bool"
            ):
                break
        return outcome

    # --- what goes in and out -------------------------------------------------------

    def _given(self, step: PlannedStep, frame: Frame) -> Given:
        """What a step works on. Raises what it fails with if that has no value."""
        fields, scope = step.fields, step.scope
        seen = self._seen(scope, frame)
        try:
            match step.kind:
                case "member":
                    return given_to_member(fields, scope, frame, seen)
                case "workflow":
                    return Given(value=own_input(fields, scope, frame, seen))
                case "approval":
                    return Given(
                        value=render(fields.approval.message if fields.approval else "", scope, seen)
                    )
        except ExpressionError as error:
            raise errors.unusable("task or input", error) from error
        if step.kind in _ASKS and step.expression is not None:
            return Given(value=self._value("expression", step.expression, scope, frame, _ASKS[step.kind]))
        return Given()

    def _value(self, field: str, expression: str, scope: Scope, frame: Frame, wanted: Wanted) -> object:
        try:
            return evaluate(expression, scope, self._seen(scope, frame), wanted=wanted)
        except ExpressionError as error:
            raise errors.unusable(field, error) from error

    def _seen(self, scope: Scope, frame: Frame) -> Seen:
        return Seen(scope, frame, run=self._turn.log.run, team=self._turn.team.metadata.name)

    def _evidence(self, own: str) -> tuple[Evidence, ...]:
        """What was found in an attempt of a step, by number."""
        found = {
            evidence.number: evidence
            for step, what in self._turn.ledger.by_step.items()
            if is_within(step, agent_path(own))
            for evidence in what
        }
        return tuple(found[number] for number in sorted(found))

    # --- the log --------------------------------------------------------------------

    def _count(self) -> None:
        usage = self._turn.usage
        usage.steps += 1
        if usage.steps > MAX_STEPS:
            raise LimitReached(
                f"the workflow began more than {MAX_STEPS} steps, attempts and iterations counted: "
                "give its loops a smaller maxIterations",
                reason="RUN_LIMIT_REACHED",
                metadata={"limit": "steps", "value": str(MAX_STEPS)},
            )

    def _begin(self, step: PlannedStep, path: str, attempt: int, given: Given) -> int:
        """The sequence of the event with which the attempt began, maybe in an earlier attempt of the run."""
        started = self._turn.recorded.step_starts.get((path, attempt))
        if started is not None:
            return started.sequence
        self._count()
        event = StepStarted(path=path, kind=step.kind, input=given.logged, attempt=attempt)
        return self._turn.log.emit(event, member=self._member(step))

    def _end(self, step: PlannedStep, event: StepFinished) -> None:
        STEPS.labels(step.kind, "failed" if event.error is not None else "done").inc()
        self._turn.log.emit(event, member=self._member(step))

    def _member(self, step: PlannedStep) -> str:
        name = step.fields.member
        return (
            self._turn.event_member(name)
            if name is not None
            else (self._turn.outer.member if self._turn.outer else "")
        )


def _most(step: PlannedStep) -> int:
    return step.fields.retries.max_attempts if step.fields.retries else 1


def _bounded(what: str, given: object) -> object:
    """An input or output as the log will give it back. Raises if it is too large."""
    try:
        value = canonical(given)
    except ValueError as error:
        raise errors.unusable(what, ExpressionError(str(error))) from error
    size = len(as_text(value).encode())
    if size > MAX_VALUE_BYTES:
        raise errors.too_large(what, size, MAX_VALUE_BYTES)
    return value
