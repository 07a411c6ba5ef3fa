"""The revision that serves a team, where that is not the newest: what it needs must be there too."""

from collections.abc import Iterator
from dataclasses import replace

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import KNOWLEDGE, MODEL, REVISION, TEAM, Key, Stored
from agentteams_operator.core.references import references
from agentteams_operator.core.sharing import refused

_REASONS = {
    MODEL: "ModelConfigNotFound",
    KNOWLEDGE: "KnowledgeBaseNotFound",
    TEAM: "TeamNotFound",
}


def serving(cache: Cache, team: Stored) -> Stored | None:
    """The team as `status.currentRevision` has it, with its references and nothing else; None: not there."""
    current = team.status.get("currentRevision")
    revision = cache.get(Key(REVISION, team.key.namespace, f"{team.key.name}-{current}"))
    if not current or revision is None or revision.deleted_at is not None:
        return None
    return replace(team, content={"spec": revision.spec, "status": team.status})


def broken(cache: Cache, served: Stored) -> Iterator[tuple[str, str]]:
    """What it refers to and can no longer use: reason and words."""
    yield from refused(cache, served)
    for key in sorted(references(served.key.namespace, served.spec)):
        if key.kind not in _REASONS or key.namespace != served.key.namespace:
            continue
        found = cache.get(key)
        if found is None or found.deleted_at is not None:
            yield _REASONS[key.kind], f'no {key.kind} "{key.name}" in namespace "{key.namespace}" any more'
        elif key.kind == MODEL and found.spec.get("type") != "Chat":
            yield "WrongType", f'ModelConfig "{key.name}" has no longer type Chat'
