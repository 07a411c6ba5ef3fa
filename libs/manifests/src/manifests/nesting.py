"""Teams within teams: which ones a team reaches, and how deep that may go."""

from collections.abc import Iterator, Mapping

from manifests.loader import Key, LoadedObject
from manifests.problems import Complaint, Place
from manifests.team import AgentTeam

MAX_TEAM_DEPTH = 4
"""Teams one within the other, the outermost included."""


def nested_teams(team: AgentTeam, objects: Mapping[Key, LoadedObject]) -> dict[str, Place]:
    """The teams that a run of the team may ask, there or not, with the field that leads to each."""
    found: dict[str, Place] = {}
    for at, name in _nested_in(team):
        ahead = [name]
        while ahead:
            current = ahead.pop()
            if current not in found:
                found[current] = at
                inner = _find(objects, team.metadata.namespace, current)
                ahead.extend(name for _, name in _nested_in(inner))
    found.pop(team.metadata.name, None)
    return found


def nesting_rules(team: AgentTeam, objects: Mapping[Key, LoadedObject]) -> Iterator[Complaint]:
    """No team within itself, and not too many within one another."""
    for at, name in _nested_in(team):
        chain = _longest(objects, team.metadata.namespace, (team.metadata.name, name))
        shown = " > ".join(chain)
        if chain[-1] in chain[:-1]:
            yield at, f"the teams lie in a circle: {shown}", "remove one of these references"
        elif len(chain) > MAX_TEAM_DEPTH:
            message = f"at most {MAX_TEAM_DEPTH} teams may lie one within the other: {shown}"
            yield at, message, "let one of them do without a team below it"


def _longest(objects: Mapping[Key, LoadedObject], namespace: str, chain: tuple[str, ...]) -> tuple[str, ...]:
    """The longest way down from the end of a chain; ends where a circle closes or it is too long anyway."""
    if chain[-1] in chain[:-1] or len(chain) > MAX_TEAM_DEPTH:
        return chain
    longest = chain
    for _, name in _nested_in(_find(objects, namespace, chain[-1])):
        below = _longest(objects, namespace, (*chain, name))
        if below[-1] in below[:-1]:
            return below
        longest = max(longest, below, key=len)
    return longest


def _nested_in(team: AgentTeam | None) -> Iterator[tuple[Place, str]]:
    for index, member in enumerate(team.spec.members if team else ()):
        # One of another namespace works in a run of its own there: its call is refused if it comes back.
        if team and member.team_ref is not None and not member.team_ref.foreign_to(team.metadata.namespace):
            yield ("spec", "members", index, "teamRef", "name"), member.team_ref.name


def _find(objects: Mapping[Key, LoadedObject], namespace: str, name: str) -> AgentTeam | None:
    loaded = objects.get(("AgentTeam", namespace, name))
    return loaded.resource if loaded and isinstance(loaded.resource, AgentTeam) else None
