"""What a run of a team may use: its own, and what other namespaces let it."""

from collections.abc import Iterator
from dataclasses import replace

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.kept_secret import entry, named_by
from agentteams_operator.core.objects import KNOWLEDGE, MODEL, TEAM, Stored
from agentteams_operator.core.references import references
from agentteams_operator.core.sharing import may_use
from manifests.endpoints import SHARED_MODELS, shared_model_key


def reached(cache: Cache, one: Stored, namespace: str = "") -> list[Stored]:
    """ModelConfigs and KnowledgeBases that a team or a model may use: fallbacks and nested teams too.

    A fallback of another namespace's model is reached only if its own owner allows it.

    Args:
        namespace: Who uses them; empty: the namespace of `one`.
    """
    namespace = namespace or one.key.namespace
    seen, ahead = {one.key}, [one]
    found = []
    while ahead:
        current = ahead.pop()
        for key in sorted(references(current.key.namespace, current.spec)):
            other = cache.get(key)
            if key in seen or other is None or other.deleted_at is not None:
                continue
            if not may_use(cache, namespace, key):
                continue  # how it is doing is nothing that this namespace is told
            if key.kind == TEAM and key.namespace != namespace:
                continue  # it works with what is its own namespace's
            seen.add(key)
            if key.kind in (MODEL, KNOWLEDGE):
                found.append(other)
            if key.kind in (MODEL, TEAM):
                ahead.append(other)
    return found


def asked(cache: Cache, team: Stored) -> list[Stored]:
    """The Chat models that pods of the team ask. The judge is not among them: other pods ask that."""
    spec = {field: value for field, value in team.spec.items() if field != "evaluation"}
    found = reached(cache, replace(team, content={**team.content, "spec": spec}))
    return [one for one in found if one.key.kind == MODEL and one.spec.get("type") == "Chat"]


def mounted_keys(cache: Cache, team: Stored) -> Iterator[tuple[str, str]]:
    """Secret and key of all that pods of the team need for models."""
    for one in asked(cache, team):
        if one.key.namespace == team.key.namespace:
            yield from (named[1:] for named in named_by(one))
        else:
            yield SHARED_MODELS, shared_model_key(one.key.namespace, one.key.name)
            yield from ((SHARED_MODELS, entry(*named)) for named in named_by(one))
