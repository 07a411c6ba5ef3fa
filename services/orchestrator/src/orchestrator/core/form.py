"""The answer in the form that the team or the caller asked for."""

from orchestrator.core import prompts
from orchestrator.core.chat import Prompt
from orchestrator.core.context.assembly import complete
from orchestrator.core.recorded import model_step
from orchestrator.core.structured import Checked, strings, validate
from orchestrator.core.turn import Turn
from servicekit.errors import FailedPrecondition, Internal

MAX_REPAIRS = 2
_PATH = "=answer"  # of no agent: the place of the repairs in the run
_MAX_CHARS = 60_000  # of an answer that is shown for its repair


async def in_form(turn: Turn, content: str) -> str:
    """The JSON in an answer; a model repairs what does not satisfy the schema, so often.

    Raises:
        Internal: ANSWER_INVALID; the last text is kept as the run's answer.
        ServiceError: As `Turn.complete`.
    """
    schema = turn.answer_schema
    if schema is None:
        raise AssertionError("the answer has no form")
    checked = validate(content, schema)
    conversation = prompts.in_form(
        [
            Prompt(role="system", content=prompts.REPAIR),
            Prompt(role="user", content=turn.question),
        ],
        schema,
    )
    config = turn.model_of(turn.team.spec.model_config_ref)
    for number in range(1, MAX_REPAIRS + 1):
        if not checked.problems:
            return checked.text
        conversation += [
            Prompt(role="assistant", content=content[:_MAX_CHARS]),
            Prompt(role="user", content=prompts.repair(checked.problems)),
        ]
        completion = await complete(
            turn, config, conversation, tools=[], must_answer=True, step=model_step(_PATH, number), member=""
        )
        content = completion.text
        checked = validate(content, schema)
    if checked.problems:
        raise _invalid(checked)
    return checked.text


def no_answer() -> FailedPrecondition:
    """What ends a run that has nothing to put into the form."""
    return FailedPrecondition(
        "there is no answer that could have the form of the JSON schema", reason="ANSWER_INVALID"
    )


def _invalid(checked: Checked) -> Internal:
    return Internal(
        f"the answer does not satisfy the JSON schema, also after {MAX_REPAIRS} repairs: "
        + " ".join(checked.problems),
        reason="ANSWER_INVALID",
        metadata={"repairs": str(MAX_REPAIRS)},
    )


def prose(turn: Turn, content: str) -> str:
    """What of an answer can hold marks like [1]: in JSON, a list of numbers is none."""
    if turn.answer_schema is None:
        return content
    return "\n".join(strings(validate(content, turn.answer_schema).value))
