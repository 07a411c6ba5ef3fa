"""References into other namespaces: what their owners allow, and what the retrieval service is told of it.

By kind: what is not in `objects.SHARED_KINDS` is nobody's but its namespace's, whoever refers to it.
"""

from collections.abc import Iterator

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import NAMESPACE, Key, Stored, allowed_of
from agentteams_operator.core.references import references
from manifests.sharing import EVERYONE, not_permitted, permits

__all__ = ["EVERYONE", "allowed_tenants", "may_use", "refused"]


def allowed_tenants(cache: Cache, one: Stored) -> tuple[str, ...]:
    """Who besides its own namespace may use an object; EVERYONE for all."""
    allowed = allowed_of(one)
    if allowed.get("from") == "All":
        return (EVERYONE,)
    if allowed.get("from") != "Selector":
        return ()
    namespaces = [found for key in cache.keys(NAMESPACE) if (found := cache.get(key)) is not None]
    others = (n for n in namespaces if n.deleted_at is None and n.key.name != one.key.namespace)
    return tuple(sorted(n.key.name for n in others if permits(allowed, n.labels)))


def may_use(cache: Cache, namespace: str, key: Key) -> bool:
    """Whether objects of that namespace may refer to it; also to what is in their own, there or not."""
    if key.namespace == namespace:
        return True
    asking, target = cache.get(Key(NAMESPACE, "", namespace)), cache.get(key)
    if target is None or target.deleted_at is not None:
        return False
    return permits(allowed_of(target), asking.labels if asking is not None else {})


def refused(cache: Cache, one: Stored) -> Iterator[tuple[str, str]]:
    """References of an object into other namespaces that their owners do not allow: reason and words."""
    own = one.key.namespace
    for key in sorted(references(own, one.spec)):
        if may_use(cache, own, key):
            continue
        yield "RefNotPermitted", not_permitted(key.kind, key.namespace, key.name, own)
