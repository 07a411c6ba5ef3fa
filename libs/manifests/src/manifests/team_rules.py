"""The rules of an AgentTeam in CEL; their twins are AgentTeamSpec._violations and what it calls."""

from manifests.cel import Cel
from manifests.texts import INSTRUCTIONS_RULE

_TEAM_MEMBER_RULES = tuple(
    Cel(
        f"!has(self.teamRef) || !has(self.{field})",
        f"the member is another team, and has {field} of its own; remove one or the other: the other team "
        "works as its own manifest says",
        ".teamRef",
    )
    for field in ("instructions", "instructionsFrom", "modelConfigRef", "knowledge", "tools")
)
MEMBER_RULES = (*_TEAM_MEMBER_RULES, INSTRUCTIONS_RULE)


def _named(field: str) -> Cel:
    """What members name of spec.knowledge or spec.tools is there."""
    there = f"has(self.{field}) && self.{field}.exists(x, x.name == n)"
    return Cel(
        f"self.members.all(m, !has(m.{field}) || m.{field}.all(n, {there}))",
        f"a member's {field} has a name that is not in spec.{field}; add it there, or name one that is there",
        ".members",
    )


TEAM_RULES = (
    INSTRUCTIONS_RULE,
    _named("knowledge"),
    _named("tools"),
    Cel(
        "self.members.size() > 1 || !self.members.exists(m, has(m.teamRef))",
        "another team would be the only member; ask that team itself, or add a member",
        ".members",
    ),
    Cel(
        "self.mode != 'Workflow' || has(self.workflow)",
        "is required with mode Workflow; add it, or change mode",
        ".workflow",
    ),
    Cel(
        "self.mode == 'Workflow' || !has(self.workflow)",
        "goes only with mode Workflow; remove it, or change mode",
        ".workflow",
    ),
    Cel(
        "!has(self.workflow) || self.workflow.steps.all(s, !has(s.member) || "
        "self.members.exists(m, m.name == s.member))",
        "a step names a member that is not in spec.members; name one that is there",
        ".workflow.steps",
    ),
)
