"""A workflow as a picture, in the language of Mermaid."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from manifests.team import AgentTeamSpec
from manifests.workflow_plan import Block, Place, Plan, PlannedStep, plan

_MAX_LABEL = 60
_SHAPES = {"condition": ("{", "}"), "router": ("{", "}"), "approval": ("[/", "/]"), "workflow": ("[[", "]]")}


def to_mermaid(spec: AgentTeamSpec) -> str:
    """A flowchart of spec.workflow and its definitions.

    Raises:
        ValueError: The team has no workflow.
    """
    if spec.workflow is None:
        raise ValueError(f"a team in mode {spec.mode} has no workflow")
    plans, drawing = plan(spec.workflow), _Drawing()
    drawing.whole(plans.main, "question", "answer")
    for name, definition in plans.definitions.items():
        drawing.lines.append(f'subgraph {drawing.new()}["{_text(name)}"]')
        drawing.whole(definition, "input", "output")
        drawing.lines.append("end")
    return "\n".join(["flowchart TD", *(f"  {line}" for line in drawing.lines)]) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """A node that the next one follows, and what stands on the line between them."""

    node: str
    label: str = ""


@dataclass(slots=True)
class _Drawing:
    lines: list[str] = field(default_factory=list)
    _nodes: dict[Place, str] = field(default_factory=dict)
    _count: int = 0

    def whole(self, what: Plan, first: str, last: str) -> None:
        """A workflow, from a node for what goes in to one for what comes out."""
        begin = self.new()
        self.lines.append(f"{begin}([{first}])")
        self._join(self._steps(what.block, [_End(node=begin)]), self.new(), f"([{last}])")

    def new(self) -> str:
        """A name that no other node has."""
        self._count += 1
        return f"n{self._count}"

    def _node(self, step: PlannedStep) -> str:
        """Where lines to a step lead: to the first step of a loop."""
        if step.kind == "loop":
            return self._node(step.blocks[0].steps[0])
        if step.at not in self._nodes:
            self._nodes[step.at] = self.new()
        return self._nodes[step.at]

    def _steps(self, block: Block, before: Sequence[_End]) -> Sequence[_End]:
        for step in block.steps:
            before = self._step(step, before)
        return before

    def _step(self, step: PlannedStep, before: Sequence[_End]) -> Sequence[_End]:
        node, fields = self._node(step), step.fields
        match step.kind:
            case "parallel":
                self._join(before, node, f'(["{_text(step.name)}"])')
                ends = [self._step(branch, [_End(node=node)]) for branch in step.blocks[0].steps]
                return [end for found in ends for end in found]
            case "loop":
                return self._loop(step, before)
            case "condition" | "router":
                self._box(before, node, step, step.expression or "")
                ways = [(block, _End(node=node, label=_way(step, block))) for block in step.blocks]
                return [end for block, way in ways for end in self._steps(block, [way])]
            case "approval":
                self._box(before, node, step, fields.approval.message if fields.approval else "")
            case "workflow":
                self._box(before, node, step, fields.workflow.name if fields.workflow else "")
            case "member":
                self._box(before, node, step, fields.member or "")
        return [_End(node=node)]

    def _loop(self, step: PlannedStep, before: Sequence[_End]) -> Sequence[_End]:
        """Its steps in a frame, with the way back."""
        until = f", until {step.expression}" if step.expression else ""
        title = f"{step.name}: {step.iterations} times at most{until}"
        self.lines.append(f'subgraph {self.new()}["{_text(title)}"]')
        ends = self._steps(step.blocks[0], [])
        first = self._node(step)
        for end in ends:
            again = f"{end.label}, again" if end.label else "again"
            self.lines.append(f'{end.node} -. "{_text(again)}" .-> {first}')
        self.lines.append("end")
        self.lines.extend(_line(end, first) for end in before)
        return ends

    def _box(self, before: Sequence[_End], node: str, step: PlannedStep, what: str) -> None:
        opening, closing = _SHAPES.get(step.kind, ("[", "]"))
        self._join(before, node, f'{opening}"{_text(f"{step.name}: {what}")}"{closing}')

    def _join(self, before: Sequence[_End], node: str, shape: str) -> None:
        self.lines.append(f"{node}{shape}")
        self.lines.extend(_line(end, node) for end in before)


def _line(end: _End, to: str) -> str:
    return f'{end.node} -- "{_text(end.label)}" --> {to}' if end.label else f"{end.node} --> {to}"


def _way(step: PlannedStep, block: Block) -> str:
    if step.kind == "condition":
        return "yes" if block.label == "then" else "no"
    return block.label or "else"


def _text(text: str) -> str:
    """Safe within quotes: Mermaid reads entities there."""
    line = " ".join(text.split())
    short = line if len(line) <= _MAX_LABEL else line[: _MAX_LABEL - 1] + "…"
    return short.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
