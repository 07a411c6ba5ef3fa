"""What is wrong with a workflow beyond its fields: names, expressions, definitions that call one another."""

from collections.abc import Iterator, Sequence

from manifests.base import Violation, dotted, duplicates
from manifests.expressions import Fault, Wanted, expression_fault, template_faults
from manifests.problems import closest
from manifests.workflow import Workflow
from manifests.workflow_plan import Block, Place, Plan, PlannedStep, Plans, plan

MAX_STEPS = 200
_WANTED: dict[str, Wanted] = {"condition": "bool", "loop": "bool", "router": "text"}


def workflow_violations(mode: str, workflow: Workflow | None, members: Sequence[str]) -> Iterator[Violation]:
    """All of them, relative to spec."""
    at: Place = ("workflow",)
    if workflow is None:
        if mode == "Workflow":
            yield Violation(at, "is required with mode Workflow", "add it, or change mode")
        return
    if mode != "Workflow":
        yield Violation(at, f"goes only with mode Workflow, not with {mode}", "remove it, or change mode")
        return
    plans = plan(workflow)
    at_definitions: Place = ("workflow", "definitions")
    yield from duplicates([d.name for d in workflow.definitions], *at_definitions)
    known = [d.name for d in workflow.definitions]
    yield from _plan_violations(plans.main, ("workflow",), members, known)
    for index, definition in enumerate(workflow.definitions):
        # By name: of two with the same name the later counts here, and the name is refused above.
        yield from _plan_violations(
            plans.definitions[definition.name], (*at_definitions, index), members, known
        )
    yield from _circles(workflow, plans)
    count = sum(1 for one in (plans.main, *plans.definitions.values()) for _ in one.walk())
    if count > MAX_STEPS:
        yield Violation(
            ("workflow",), f"has {count} steps; {MAX_STEPS} is the most", "make a part of it another team"
        )


def _plan_violations(
    of: Plan, at: Place, members: Sequence[str], definitions: Sequence[str]
) -> Iterator[Violation]:
    elsewhere = frozenset(step.name for step in of.walk())
    yield from _names(of.block, {})
    for step in of.walk():
        yield from _step_violations(step, members, definitions, elsewhere)
    if of.output is not None:
        fault = expression_fault(of.output, of.block.after, wanted="any", elsewhere=elsewhere)
        yield from _violations(fault, (*at, "output"))


def _names(block: Block, outer: dict[str, Place]) -> Iterator[Violation]:
    """A name that another step in sight has already would make `steps.<name>` mean two things."""
    seen = dict(outer)
    for step in block.steps:
        if step.name in seen:
            yield Violation(
                (*step.at, "name"),
                f'"{step.name}" is the name of {dotted(("spec", *seen[step.name]))} already',
                "give each its own name",
            )
        seen.setdefault(step.name, step.at)
    for step in block.steps:
        for inner in step.blocks:
            yield from _names(inner, seen)


def _step_violations(
    step: PlannedStep, members: Sequence[str], definitions: Sequence[str], elsewhere: frozenset[str]
) -> Iterator[Violation]:
    fields, at = step.fields, step.at
    if fields.member is not None and fields.member not in members:
        yield from _not_there("member", fields.member, members, (*at, "member"))
    if fields.workflow is not None and fields.workflow.name not in definitions:
        yield from _not_there("definition", fields.workflow.name, definitions, (*at, "workflow", "name"))
    if fields.input is not None:
        fault = expression_fault(fields.input, step.scope, wanted="any", elsewhere=elsewhere)
        yield from _violations(fault, (*at, "input"))
    for template, place in (
        (fields.task, (*at, "task")),
        (fields.approval.message if fields.approval else "", (*at, "approval", "message")),
    ):
        for found in template_faults(template, step.scope, elsewhere=elsewhere):
            yield from _violations(found, place)
    if step.expression is not None:
        scope, field = (step.blocks[0].after, "until") if step.kind == "loop" else (step.scope, "expression")
        fault = expression_fault(step.expression, scope, wanted=_WANTED[step.kind], elsewhere=elsewhere)
        yield from _violations(fault, (*at, step.kind, field))
    if step.kind == "router":
        labels = [block.label for block in step.blocks]
        for index, label in enumerate(labels):
            if label in labels[:index]:
                yield Violation(
                    (*at, "router", "choices", index, "when"), f'"{label}" is there already', "remove one"
                )


def _violations(fault: Fault | None, at: Place) -> Iterator[Violation]:
    if fault is not None:
        yield Violation(at, fault.message, fault.fix)


def _not_there(what: str, name: str, known: Sequence[str], at: Place) -> Iterator[Violation]:
    meant = closest(name, known)
    have = ", ".join(known) or "none yet"
    yield Violation(
        at,
        f'there is no {what} "{name}"; there are: {have}',
        f'did you mean "{meant}"?' if meant else "name one",
    )


def _circles(workflow: Workflow, plans: Plans) -> Iterator[Violation]:
    calls = {
        name: [step.fields.workflow.name for step in one.walk() if step.fields.workflow is not None]
        for name, one in plans.definitions.items()
    }
    for index, definition in enumerate(workflow.definitions):
        way = _way_back(definition.name, calls)
        if way:
            yield Violation(
                ("workflow", "definitions", index),
                f"calls itself: {' -> '.join(way)}",
                "break the circle; what shall be repeated is a loop",
            )


def _way_back(start: str, calls: dict[str, list[str]]) -> list[str]:
    """The calls that lead from a definition to itself; empty if none do."""
    waiting, seen = [[start]], {start}
    while waiting:
        way = waiting.pop(0)
        for called in calls.get(way[-1], []):
            if called == start:
                return [*way, called]
            if called not in seen:
                seen.add(called)
                waiting.append([*way, called])
    return []
