"""References into other namespaces: what their owners allow, and what the retrieval service is told of it."""

from collections.abc import Iterator

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import KNOWLEDGE, NAMESPACE, Key, Stored
from agentteams_operator.core.references import references
from manifests.sharing import permits

EVERYONE = "*"


def allowed_tenants(cache: Cache, one: Stored) -> tuple[str, ...]:
    """Who besides its own namespace may search a KnowledgeBase; EVERYONE for all."""
    allowed = one.spec.get("allowedNamespaces") or {}
    if allowed.get("from") == "All":
        return (EVERYONE,)
    if allowed.get("from") != "Selector":
        return ()
    namespaces = [found for key in cache.keys(NAMESPACE) if (found := cache.get(key)) is not None]
    others = (n for n in namespaces if n.deleted_at is None and n.key.name != one.key.namespace)
    return tuple(sorted(n.key.name for n in others if permits(allowed, n.labels)))


def refused(cache: Cache, one: Stored) -> Iterator[tuple[str, str]]:
    """References of an object into other namespaces that their owners do not allow: reason and words."""
    own = one.key.namespace
    namespace = cache.get(Key(NAMESPACE, "", own))
    labels = namespace.labels if namespace is not None else {}
    for key in sorted(references(own, one.spec)):
        if key.namespace == own or key.kind != KNOWLEDGE:
            continue
        target = cache.get(key)
        there = target is not None and target.deleted_at is None
        if target is not None and there and permits(target.spec.get("allowedNamespaces") or {}, labels):
            continue
        # The same words whether it is there or not: else one could try names.
        yield (
            "RefNotPermitted",
            f'{key.kind} "{key.name}" of namespace "{key.namespace}" is not there, or does not allow '
            f'namespace "{own}"; its owner allows it by spec.allowedNamespaces, such as {{from: All}}',
        )
