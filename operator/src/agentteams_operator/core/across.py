"""Teams of other namespaces that teams call: whom, and whether a call would come back."""

from collections.abc import Iterator, Sequence

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import TEAM, Key, Stored
from agentteams_operator.core.references import references
from agentteams_operator.core.sharing import allowed_tenants, may_use


def called_owners(cache: Cache, teams: Sequence[Stored]) -> list[str]:
    """The other namespaces whose teams these, or the revisions of them that serve, may call."""
    found = {key.namespace for team in teams for key in _called(cache, team)}
    return sorted(found)


def callers(cache: Cache, teams: Sequence[Stored]) -> list[str]:
    """The other namespaces that may call one of these; EVERYONE for all."""
    return sorted({tenant for team in teams for tenant in allowed_tenants(cache, team)})


def leads_back(cache: Cache, team: Stored) -> Iterator[tuple[str, str]]:
    """Calls that would come back to the namespace of the team, which are refused: reason and words."""
    own = team.key.namespace
    for first in sorted(set(_called(cache, team))):
        if _reaches(cache, first, own):
            # Who lies between is nothing that this namespace is told.
            yield (
                "Circle",
                f'AgentTeam "{first.name}" of namespace "{first.namespace}" leads back to namespace "{own}", '
                "and a call never comes back to where it came from; one of the two references must go",
            )


def _reaches(cache: Cache, first: Key, namespace: str) -> bool:
    seen, ahead = {first}, [first]
    while ahead:
        current = cache.get(ahead.pop())
        for key in _teams(cache, current) if current is not None else ():
            if key.namespace == namespace:
                return True
            if key not in seen:
                seen.add(key)
                ahead.append(key)
    return False


def _called(cache: Cache, team: Stored) -> Iterator[Key]:
    """Teams of other namespaces that it names, or one that it nests does."""
    own, seen, ahead = team.key.namespace, {team.key}, [team.key]
    while ahead:
        key = ahead.pop()
        current = team if key == team.key else cache.get(key)
        for other in _teams(cache, current) if current is not None else ():
            if other.namespace != own:
                yield other
            elif other not in seen:
                seen.add(other)
                ahead.append(other)


def _teams(cache: Cache, one: Stored) -> Iterator[Key]:
    for key in references(one.key.namespace, one.spec):
        if key.kind == TEAM and may_use(cache, one.key.namespace, key):
            yield key
