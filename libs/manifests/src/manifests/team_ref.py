"""A team as a member of another."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from pydantic import Field

from manifests.base import Model, Name, Violation

# What makes a member an agent of its own.
_AGENT_FIELDS = {
    "instructions": "instructions",
    "instructions_from": "instructionsFrom",
    "model_config_ref": "modelConfigRef",
    "knowledge": "knowledge",
    "tools": "tools",
}


class TeamRef(Model):
    """Refers to an AgentTeam."""

    name: Name = Field(description="Name of an AgentTeam.")
    namespace: Name | None = Field(
        default=None,
        description="Its namespace, if that is another one: its spec.allowedNamespaces must allow this one. "
        "It is then asked for a run of its own there, under its own limits. Default: the team's.",
    )

    def foreign_to(self, namespace: str) -> bool:
        """Whether it is in another namespace."""
        return self.namespace is not None and self.namespace != namespace


class _Member(Protocol):
    @property
    def team_ref(self) -> TeamRef | None: ...

    @property
    def model_fields_set(self) -> set[str]: ...


def team_member_rules(members: Sequence[_Member]) -> Iterator[Violation]:
    """A member is a team or an agent, not both; a team has another member beside a team."""
    for index, member in enumerate(members):
        if member.team_ref is None:
            continue
        at = ("members", index, "teamRef")
        both = [name for field, name in _AGENT_FIELDS.items() if field in member.model_fields_set]
        if both:
            yield Violation(
                at,
                f"the member is another team, and has {', '.join(both)} of its own",
                "remove one or the other: the other team works as its own manifest says",
            )
        if len(members) == 1:
            yield Violation(
                at,
                f'team "{member.team_ref.name}" would be the only member',
                "ask that team itself, or add a member",
            )
