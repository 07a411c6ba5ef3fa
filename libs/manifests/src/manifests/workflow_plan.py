"""A workflow as a tree, whatever the level its steps stand on: for checks, for the engine, for pictures."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from manifests.expressions import Scope
from manifests.workflow import StepFields, StepWithBlocks, Workflow

Kind = Literal["member", "parallel", "condition", "loop", "router", "workflow", "approval"]
Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Steps that run one after the other (those of a parallel: side by side).

    Attributes:
        label: then, else, or a choice's `when`; empty for a router's default, and where there is one list.
        steps: In their order.
        at: Where the list stands in spec.
        after: What an expression sees when they have run.
    """

    label: str
    steps: tuple["PlannedStep", ...]
    at: Place
    after: Scope


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """A step in its place.

    Attributes:
        kind: Its one kind.
        fields: Its manifest.
        at: Where it stands in spec.
        scope: What its expressions see.
        blocks: The lists of steps within it.
    """

    name: str
    kind: Kind
    fields: StepFields
    at: Place
    scope: Scope
    blocks: tuple[Block, ...] = ()

    @property
    def expression(self) -> str | None:
        """What a condition, a router or a loop asks."""
        if not isinstance(self.fields, StepWithBlocks):
            return None
        chooser = self.fields.condition or self.fields.router
        if chooser is not None:
            return chooser.expression
        return self.fields.loop.until if self.fields.loop is not None else None

    @property
    def iterations(self) -> int:
        """Most iterations of a loop."""
        loop = self.fields.loop if isinstance(self.fields, StepWithBlocks) else None
        return loop.max_iterations if loop is not None else 1

    def way(self, value: object) -> Block | None:
        """The list that a condition or a router takes; None: it has none for this value."""
        label = value if self.kind == "router" else ("then" if value is True else "else")
        fitting = [block for block in self.blocks if block.label == label]
        return next(iter([*fitting, *(block for block in self.blocks if not block.label)]), None)

    def walk(self) -> Iterator["PlannedStep"]:
        """The step and all within it."""
        yield self
        for block in self.blocks:
            for step in block.steps:
                yield from step.walk()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A workflow or a definition of one; `output` is an expression or None."""

    block: Block
    output: str | None

    def walk(self) -> Iterator[PlannedStep]:
        """All steps."""
        for step in self.block.steps:
            yield from step.walk()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plans:
    """A workflow with its definitions by name."""

    main: Plan
    definitions: dict[str, Plan]


def plan(workflow: Workflow) -> Plans:
    """The tree of a workflow.

    An expression sees the steps that stand before its own in the same list and in the lists around it. They
    have surely run. Steps within a condition, a loop or another block are seen only within it: outside, the
    block's own output stands for them. Within a loop all of its steps are seen; those that have not run in
    this iteration have what they had in the one before (null and empty texts in the first).
    """
    main = _block("", workflow.steps, ("workflow", "steps"), Scope())
    definitions = {
        definition.name: Plan(
            block=_block("", definition.steps, ("workflow", "definitions", index, "steps"), Scope()),
            output=definition.output,
        )
        for index, definition in enumerate(workflow.definitions)
    }
    return Plans(main=Plan(block=main, output=workflow.output), definitions=definitions)


def _block(label: str, steps: Sequence[StepFields], at: Place, scope: Scope, *, apart: bool = False) -> Block:
    """`apart`: the steps do not see one another."""
    planned = []
    seen = scope
    for index, fields in enumerate(steps):
        planned.append(_step(fields, (*at, index), scope if apart else seen))
        seen = _with(seen, fields.name)
    return Block(label=label, steps=tuple(planned), at=at, after=scope if apart else seen)


def _with(scope: Scope, *names: str) -> Scope:
    return Scope(steps=tuple(dict.fromkeys((*scope.steps, *names))), loop=scope.loop)


def _step(fields: StepFields, at: Place, scope: Scope) -> PlannedStep:
    kind = cast(Kind, fields.kinds[0])
    return PlannedStep(
        name=fields.name,
        kind=kind,
        fields=fields,
        at=at,
        scope=scope,
        blocks=tuple(_blocks(fields, at, scope)),
    )


def _blocks(fields: StepFields, at: Place, scope: Scope) -> Iterator[Block]:
    if not isinstance(fields, StepWithBlocks):
        return
    if fields.parallel is not None:
        yield _block("", fields.parallel.steps, (*at, "parallel", "steps"), scope, apart=True)
    elif fields.condition is not None:
        yield _block("then", fields.condition.then, (*at, "condition", "then"), scope)
        yield _block("else", fields.condition.else_, (*at, "condition", "else"), scope)
    elif fields.loop is not None:
        names = [step.name for step in fields.loop.steps]
        inside = Scope(steps=_with(scope, *names).steps, loop=True)
        yield _block("", fields.loop.steps, (*at, "loop", "steps"), inside)
    elif fields.router is not None:
        for index, choice in enumerate(fields.router.choices):
            yield _block(choice.when, choice.steps, (*at, "router", "choices", index, "steps"), scope)
        if fields.router.default is not None:
            yield _block("", fields.router.default, (*at, "router", "default"), scope)
