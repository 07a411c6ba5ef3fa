"""Where a step of a workflow stands in its run.

Names of steps joined by `/`: `refine[2]/draft` is the step draft in the second iteration of the loop
refine. In the workflow of a team within the team that team's own path and `@` come before. What an attempt of
a step does (its model calls, tool calls, searches) has names that begin with `@`, the step's path, and from
the second attempt on its number: `@find`, `@find~2`. They depend only on what the workflow did.
"""

import re
from collections.abc import Iterable

from manifests import AgentTeamSpec
from manifests.workflow_plan import Block, PlannedStep, Plans, plan

_PLACE = re.compile(r"^([A-Za-z0-9_]+)(?:~\d+)?(?:\[\d+\])?$")


def attempt_path(path: str, attempt: int) -> str:
    """What the paths of the steps within an attempt of a step begin with."""
    return path if attempt == 1 else f"{path}~{attempt}"


def agent_path(path: str, attempt: int = 1) -> str:
    """The path of an agent, or a team, that does a step: what the names of its own steps begin with."""
    own = attempt_path(path, attempt)
    return own if "@" in own else f"@{own}"


def is_within(step: str, path: str) -> bool:
    """Whether a search belongs to what an attempt did."""
    return step.startswith(path) and step[len(path) : len(path) + 1] in ("#", "?", "@", "/", "[")


def missing_steps(spec: AgentTeamSpec, steps: Iterable[tuple[str, str]]) -> list[str]:
    """Those of the log's steps, by path within the team and kind, that are none of the team's workflow."""
    begun = sorted(set(steps))
    if spec.workflow is None or not begun:
        return [path for path, _ in begun]
    plans = plan(spec.workflow)
    return [path for path, kind in begun if _kind(plans, path) != kind]


def _kind(plans: Plans, path: str) -> str:
    """The kind of the step at a path; empty if there is none."""
    blocks: tuple[Block, ...] = (plans.main.block,)
    step: PlannedStep | None = None
    for part in path.split("/"):
        place = _PLACE.match(part)
        name = place[1] if place else ""
        step = next((s for block in blocks for s in block.steps if s.name == name), None)
        if step is None:
            return ""
        blocks = _inner_blocks(step, plans)
    return step.kind if step is not None else ""


def _inner_blocks(step: PlannedStep, plans: Plans) -> tuple[Block, ...]:
    if step.fields.workflow is not None:
        return (plans.definitions[step.fields.workflow.name].block,)
    return step.blocks
