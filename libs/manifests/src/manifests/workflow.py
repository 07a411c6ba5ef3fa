"""spec.workflow: the steps of a team that works in mode Workflow.

A Kubernetes structural schema cannot refer to itself, so steps nest three levels deep, one class a level;
what must go deeper is a definition of its own, which any step can call.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field, GetJsonSchemaHandler, StringConstraints, model_validator
from pydantic_core import CoreSchema

from manifests.base import STEP_NAME_PATTERN, Model, Name, Violation, refuse
from manifests.cel import BY_NAME, OPEN, Cel, Schema
from manifests.form import ACCEPTED, Form, JsonSchema

RESERVED_NAMES = ("in", "true", "false", "null")
MAX_EXPRESSION_CHARACTERS = 1024

BLOCKS = ("parallel", "condition", "loop", "router")
KINDS = ("member", *BLOCKS, "workflow", "approval")

StepName = Annotated[str, StringConstraints(pattern=STEP_NAME_PATTERN), Schema((("maxLength", 40),))]
Expression = Annotated[str, StringConstraints(min_length=1, max_length=MAX_EXPRESSION_CHARACTERS)]
Template = Annotated[str, StringConstraints(max_length=8192)]
Inner = TypeVar("Inner", bound="StepFields")

_STEPS = "In this order."


class Retries(Model):
    """How often a step is tried."""

    max_attempts: int = Field(default=3, ge=1, le=10, description="Attempts, the first one included.")
    backoff_seconds: int = Field(
        default=1,
        ge=0,
        le=3600,
        description="Pause before the second attempt; doubles with each further one.",
    )


class StepOutput(Form):
    """What a step must come to."""

    field: ClassVar[str] = "output"
    json_schema: JsonSchema = Field(
        description=f"{ACCEPTED} The member's answer must hold JSON that satisfies it; the output of the "
        "step is that JSON. Else the attempt has failed."
    )


class WorkflowRef(Model):
    """Calls a definition of this workflow."""

    name: Name = Field(description="Name of an item of spec.workflow.definitions.")


class Approval(Model):
    """Waits until a person agrees."""

    message: Annotated[str, StringConstraints(min_length=1, max_length=8192)] = Field(
        description="What the person is asked. {{ expression }} is replaced by its value."
    )


def _one_of(kinds: Sequence[str]) -> Cel:
    # A sum costs the API server a third of a filtered list, and there are many steps.
    count = " + ".join(f"(has(self.{kind}) ? 1 : 0)" for kind in kinds)
    return Cel(f"{count} == 1", f"give the step exactly one of {', '.join(kinds)}")


STEP_RULES = (
    Cel(
        f"!(self.name in {list(RESERVED_NAMES)})",
        "is a word of the expression language; give it another name",
        ".name",
    ),
    Cel(
        "has(self.member) || !has(self.task) || self.task == ''", "goes only with member; remove it", ".task"
    ),
    Cel("has(self.member) || !has(self.output)", "goes only with member; remove it", ".output"),
    Cel(
        "has(self.member) || has(self.workflow) || !has(self.input)",
        "goes only with member and workflow; remove it",
        ".input",
    ),
    Cel("!has(self.approval) || !has(self.retries)", "a person is asked once; remove it", ".retries"),
)


class _Steps(Model):
    """What holds steps of the level below."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        # A class made for one level has no words of its own.
        cls.__doc__ = cls.__doc__ or cls.__mro__[1].__doc__


class Parallel(_Steps, Generic[Inner]):
    """Steps that run side by side."""

    steps: tuple[Inner, ...] = Field(
        min_length=1,
        max_length=16,
        description="Side by side, eight at a time; none sees another's output. The output is an object with "
        "each one's output by name.",
    )


class Condition(_Steps, Generic[Inner]):
    """One of two ways."""

    expression: Expression = Field(description="CEL; true: then, false: else.")
    then: tuple[Inner, ...] = Field(min_length=1, max_length=32, description=_STEPS)
    else_: tuple[Inner, ...] = Field(
        default=(), alias="else", max_length=32, description="In this order. Default: nothing is done."
    )


class Loop(_Steps, Generic[Inner]):
    """Steps that run again and again."""

    until: Expression | None = Field(
        default=None,
        description="CEL, asked after each iteration; true: the loop ends. Sees the loop's own steps. "
        "Default: maxIterations alone ends it.",
    )
    max_iterations: int = Field(
        default=10, ge=1, le=100, description="The loop ends after so many, whatever `until` says."
    )
    steps: tuple[Inner, ...] = Field(min_length=1, max_length=32, description=_STEPS)


class Choice(_Steps, Generic[Inner]):
    """One of a router's ways."""

    when: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(
        description="The value of the router's expression that chooses this way."
    )
    steps: tuple[Inner, ...] = Field(min_length=1, max_length=32, description=_STEPS)


class Router(_Steps, Generic[Inner]):
    """One of several ways."""

    expression: Expression = Field(description="CEL that gives a text: the `when` of the way to take.")
    choices: tuple[Choice[Inner], ...] = Field(min_length=1, max_length=16, description="The ways.")
    default: tuple[Inner, ...] | None = Field(
        default=None, max_length=32, description="When no choice fits. Default: the step fails then."
    )


class StepFields(Model):
    """One step without steps of its own: a member, a definition or an approval."""

    cel: ClassVar[tuple[Cel, ...]] = STEP_RULES

    name: StepName = Field(description="Unique among its neighbours; expressions name it (steps.<name>).")
    member: Name | None = Field(
        default=None, description="The member (an agent, or a team by its teamRef) that does the step."
    )
    task: Template = Field(
        default="",
        description="With member: what to do. {{ expression }} is replaced by its value. Default: to answer "
        "the user's question.",
    )
    input: Expression | None = Field(
        default=None,
        description="With member: CEL, a value that the member is shown. With workflow: CEL, what `input` is "
        "within the definition. Default: the output of the step before, if there is one and `task` has no "
        "expression; without one, a definition gets the `input` of its caller.",
    )
    workflow: WorkflowRef | None = Field(default=None, description="Runs a definition.")
    approval: Approval | None = Field(
        default=None, description="Waits for a person. If the answer is no, the step fails."
    )
    retries: Retries | None = Field(
        default=None, description="How often the step is tried when it fails. Default: once."
    )
    timeout_seconds: int | None = Field(
        default=None,
        ge=1,
        le=86_400,
        description="Wall time of one attempt; then it has failed. Default: as long as the run may take.",
    )
    on_failure: Literal["Fail", "Continue"] = Field(
        default="Fail",
        description="When the last attempt failed. Fail: the run ends, naming the step. Continue: the "
        "workflow goes on; steps.<name>.error says why, and the output is null.",
    )
    output: StepOutput | None = Field(default=None, description="With member: what the answer must be.")

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    @property
    def kinds(self) -> list[str]:
        """The kinds that are given; a valid step has one."""
        return [kind for kind in KINDS if getattr(self, kind, None) is not None]

    def _violations(self) -> Iterator[Violation]:
        if self.name in RESERVED_NAMES:
            yield Violation(("name",), "is a word of the expression language", "give it another name")
        kinds = self.kinds
        offered = [kind for kind in KINDS if kind in type(self).model_fields]
        if len(kinds) != 1:
            have = f"has {' and '.join(kinds)}" if kinds else "does nothing"
            yield Violation((), f'the step "{self.name}" {have}', f"give it one of {', '.join(offered)}")
            return
        (kind,) = kinds
        if kind != "member":
            for field, value in (("task", self.task), ("output", self.output)):
                if value:
                    yield Violation((field,), f"goes only with member, not with {kind}", "remove it")
        if kind not in ("member", "workflow") and self.input is not None:
            yield Violation(("input",), f"goes only with member and workflow, not with {kind}", "remove it")
        if kind == "approval" and self.retries is not None:
            yield Violation(("retries",), "a person is asked once", "remove it")


class StepWithBlocks(StepFields, Generic[Inner]):
    """One step; a kind that has steps of its own holds them in the classes of the level below."""

    cel: ClassVar[tuple[Cel, ...]] = (_one_of(KINDS), *STEP_RULES)

    parallel: Parallel[Inner] | None = Field(default=None, description="Steps side by side.")
    condition: Condition[Inner] | None = Field(default=None, description="One of two ways.")
    loop: Loop[Inner] | None = Field(default=None, description="Steps again and again.")
    router: Router[Inner] | None = Field(default=None, description="One of several ways.")


class InnermostStep(StepFields):
    """A step of the third level: it has no steps of its own."""

    cel: ClassVar[tuple[Cel, ...]] = ()
    unchecked: ClassVar = "all of it: the API server knows a step of the third level by its name only"

    @model_validator(mode="before")
    @classmethod
    def _not_deeper(cls, value: Any) -> Any:
        if isinstance(value, dict):
            refuse(
                Violation(
                    (kind,),
                    "steps nest three levels deep, and this would be the fourth",
                    "move it into spec.workflow.definitions and call it with workflow: {name: …}",
                )
                for kind in BLOCKS
                if kind in value
            )
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        # Written out it would stand there 98 times, and its rules would cost more than the API server allows.
        reference = super().__get_pydantic_json_schema__(core_schema, handler)
        schema = handler.resolve_ref_schema(reference)
        words = (
            "Fields as of the steps above, without parallel, condition, loop and router. Checked by the "
            "operator, which says so in the condition Accepted."
        )
        schema.update({**OPEN, "description": words, "required": ["name"]})
        schema["properties"] = {"name": schema["properties"]["name"]}
        return reference


class InnerStep(StepWithBlocks[InnermostStep]):
    """A step of the second level."""


class Step(StepWithBlocks[InnerStep]):
    """A step of the first level."""


_UNIQUE = Cel(
    "self.steps.all(s, self.steps.exists_one(o, o.name == s.name))",
    "two steps have one name; give each its own name",
    ".steps",
)


class Definition(Model):
    """A workflow that steps can call by its name. It sees nothing of its caller but `input`."""

    cel: ClassVar[tuple[Cel, ...]] = (_UNIQUE,)

    name: Name = Field(description="Unique among the definitions.")
    steps: tuple[Step, ...] = Field(min_length=1, max_length=32, description=_STEPS)
    output: Expression | None = Field(
        default=None, description="CEL over its steps. Default: the output of the last one."
    )


class Workflow(Model):
    """What a team does, step by step."""

    cel: ClassVar[tuple[Cel, ...]] = (
        _UNIQUE,
        Cel(
            "self.steps.all(s, !has(s.workflow) || "
            "(has(self.definitions) && self.definitions.exists(d, d.name == s.workflow.name)))",
            "a step calls a definition that is not there; name one of spec.workflow.definitions",
            ".steps",
        ),
    )

    steps: tuple[Step, ...] = Field(min_length=1, max_length=32, description=_STEPS)
    output: Expression | None = Field(
        default=None, description="CEL over the steps: the team's answer. Default: that of the last step."
    )
    definitions: tuple[Definition, ...] = Field(
        default=(),
        max_length=16,
        description="Workflows that steps can call.",
        json_schema_extra={**BY_NAME},
    )
