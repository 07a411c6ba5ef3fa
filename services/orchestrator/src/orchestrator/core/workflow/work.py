"""A member's step: what it is asked, and what its answer comes to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manifests.expressions import Scope, as_text, evaluate, expressions_in, render
from manifests.workflow import StepFields
from orchestrator.core import prompts
from orchestrator.core.chat import Prompt
from orchestrator.core.members import Members
from orchestrator.core.structured import validate
from orchestrator.core.turn import Turn
from orchestrator.core.workflow.errors import invalid_answer
from orchestrator.core.workflow.frame import Frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What a step works on, as it is known before it begins.

    Attributes:
        value: The value of its `input`, of the condition or of the router; a person's question.
        task: What a member is to do.
    """

    value: object = None
    task: str = ""

    @property
    def logged(self) -> object:
        """For the log."""
        if not self.task:
            return self.value
        return {"task": self.task} | ({} if self.value is None else {"input": self.value})


def given_to_member(fields: StepFields, scope: Scope, frame: Frame, seen: Mapping[str, object]) -> Given:
    """What a member is asked. Raises ExpressionError."""
    return Given(task=render(fields.task, scope, seen), value=own_input(fields, scope, frame, seen))


def own_input(fields: StepFields, scope: Scope, frame: Frame, seen: Mapping[str, object]) -> object:
    """The step's `input`: unless it says what it needs, what was there last. Raises ExpressionError."""
    if fields.input is not None:
        return evaluate(fields.input, scope, seen)
    if frame.before is None or expressions_in(fields.task):
        return None
    return frame.before.output


class MemberWork:
    """Lets members do steps."""

    def __init__(self, turn: Turn, members: Members, history: Sequence[Prompt]) -> None:
        self._turn = turn
        self._by_name = {member.name: member for member in turn.team.spec.members}
        self._members = members
        self._history = history

    async def do(
        self, fields: StepFields, given: Given, *, path: str, since: int, speaks: bool, refused: str
    ) -> object:
        """The output of a member's step.

        Args:
            fields: The step.
            given: What it works on.
            path: Of this attempt.
            since: Sequence of the event that it began with.
            speaks: What the member writes is the team's answer.
            refused: Why the attempt before was not accepted; the member is told.

        Raises:
            NoDocuments: It must search first and has nothing to search in.
            ServiceError: ANSWER_INVALID, the run's limits, or a model that cannot be had.
        """
        member = self._by_name[fields.member or ""]
        schema = fields.output.json_schema if fields.output else None
        answer = await self._members.work(
            member,
            path=path,
            speaks_as=self._turn.speaks_as if speaks else self._turn.event_member(member.name),
            task=prompts.step_task(
                given.task,
                given="" if given.value is None else as_text(given.value),
                schema="" if schema is None else as_text(schema),
                refused=refused,
            ),
            since=since,
            history=self._history,
        )
        if schema is None:
            return answer
        checked = validate(answer, schema)
        if checked.problems:
            raise invalid_answer(checked.problems)
        return checked.value
