"""What the API server has, as the watches last told, and who must look again when it changes."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from agentteams_operator.core.objects import (
    ALL_CREDENTIALS,
    MODEL,
    NAMESPACE,
    OURS,
    POOL,
    REVISION,
    SHARED_KINDS,
    SHARED_MODELS,
    TEAM,
    Key,
    Stored,
    embeds,
    judge_of,
    owner_of,
    rolled_out,
    selects,
    stored,
)
from agentteams_operator.core.references import references

_REMEMBERED = 4096  # objects that are gone: for as long as an answer about them may be under way


class Cache:
    """Used from one event loop.

    Args:
        changed: Told each key that must be looked at again.
    """

    def __init__(self, changed: Callable[[Key], None]) -> None:
        self._changed = changed
        self._objects: dict[Key, Stored] = {}
        self._gone: OrderedDict[Key, int] = OrderedDict()
        self._names: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._named_by: defaultdict[Key, set[Key]] = defaultdict(set)
        self._owned: defaultdict[Key, set[Key]] = defaultdict(set)
        self._abroad: defaultdict[str, set[Key]] = defaultdict(set)

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, key: Key) -> Stored | None:
        return self._objects.get(key)

    def names(self, kind: str, namespace: str) -> list[str]:
        """The names of that kind in that namespace, in order."""
        return sorted(self._names.get((kind, namespace), ()))

    def keys(self, *kinds: str) -> Iterator[Key]:
        """All objects of these kinds."""
        return (key for key in list(self._objects) if key.kind in kinds)

    def everything(self) -> Iterator[Key]:
        """All that must be looked at once at the start."""
        yield ALL_CREDENTIALS
        for key, one in list(self._objects.items()):
            owner = owner_of(one)
            if owner is not None:
                yield owner
            if key.kind in OURS:
                yield key
            if key.kind == TEAM:
                yield Key(POOL, key.namespace, "")
        for namespace in list(self._abroad):
            yield Key(SHARED_MODELS, namespace, "")

    def users(self, key: Key) -> set[Key]:
        """Who names it."""
        return set(self._named_by.get(key, ()))

    def owned(self, owner: Key) -> list[Stored]:
        """What the operator made for it, by its label."""
        return [self._objects[key] for key in sorted(self._owned.get(owner, ())) if key in self._objects]

    def put(self, body: Mapping[str, Any]) -> None:
        """An object as it is now."""
        new = stored(body)
        old = self._objects.get(new.key)
        # Versions are numbers that grow: what a watch tells late does not undo what a write was answered,
        # and the answer to a write does not bring back what a watch has said is gone.
        if int(new.version) <= max(int(old.version) if old else 0, self._gone.get(new.key, 0)):
            return
        self._objects[new.key] = new
        self._names[new.key.kind, new.key.namespace].add(new.key.name)
        self._index(new.key, old, new)
        self._tell(new.key, old, new)

    def remove(self, key: Key, version: int = 0) -> None:
        """An object that was no longer there at that version; one of its name may have come since."""
        if version:
            self._gone[key] = version
            self._gone.move_to_end(key)
            if len(self._gone) > _REMEMBERED:
                self._gone.popitem(last=False)
        old = self._objects.get(key)
        if old is None or (version and int(old.version) > version):
            return
        del self._objects[key]
        self._names[key.kind, key.namespace].discard(key.name)
        self._index(key, old, None)
        self._tell(key, old, None)

    def retain(self, kind: str, namespace: str, there: Collection[Key], version: int) -> None:
        """Removes what a list of that version does not have. An empty namespace: all of them."""
        for key in list(self._objects):
            if key.kind != kind or key in there or (namespace and key.namespace != namespace):
                continue
            self.remove(key, version)

    def _affected(self, key: Key) -> set[Key]:
        """Who names it, and who names those: a fallback of a fallback, a team within a team."""
        seen, ahead = set[Key](), [key]
        while ahead:
            for user in self._named_by.get(ahead.pop(), ()):
                # An old revision may be what serves: its team must look.
                owner = owner_of(self._objects.get(user)) if user.kind == REVISION else user
                if owner is not None and owner not in seen:
                    seen.add(owner)
                    ahead.append(owner)
        return seen

    def _index(self, key: Key, old: Stored | None, new: Stored | None) -> None:
        if key.kind in (*OURS, REVISION):
            before = references(key.namespace, old.spec) if old else set()
            after = references(key.namespace, new.spec) if new else set()
            for gone in before - after:
                self._named_by[gone].discard(key)
                if not self._named_by[gone]:
                    del self._named_by[gone]
            for come in after - before:
                self._named_by[come].add(key)
            self._index_abroad(key, after)
        if key.kind in OURS:
            return
        for one, owner in ((old, owner_of(old)), (new, owner_of(new))):
            if owner is not None and one is not None:
                (self._owned[owner].add if one is new else self._owned[owner].discard)(key)
                if not self._owned[owner]:
                    del self._owned[owner]

    def _index_abroad(self, key: Key, named: Collection[Key]) -> None:
        if any(one.kind == MODEL and one.namespace != key.namespace for one in named):
            self._abroad[key.namespace].add(key)
        elif key.namespace in self._abroad:
            self._abroad[key.namespace].discard(key)
            if not self._abroad[key.namespace]:
                del self._abroad[key.namespace]

    def _tell(self, key: Key, old: Stored | None, new: Stored | None) -> None:
        if key.kind in OURS:
            self._changed(key)
            if key.kind == TEAM:
                self._tell_pool(key.namespace)
            served = any(self._has_credentials(one) for one in (old, new))
            if (served and _spec_differs(old, new)) or judge_of(old) != judge_of(new):
                self._changed(ALL_CREDENTIALS)
            if old is not None and _spec_differs(old, new):
                self._tell_over_quota(key)
        if key.kind == NAMESPACE:
            self._tell_namespace(key.name, old, new)
        owner = owner_of(new) or owner_of(old)
        for one in {owner, owner_of(old)}:  # somebody may have given it another owner by its label
            if one is not None:
                self._changed(one)
        if owner is not None and owner.kind == SHARED_MODELS and matters(old, new):
            self._changed(Key(POOL, key.namespace, ""))
            for name in self._names.get((TEAM, key.namespace), ()):
                self._changed(Key(TEAM, key.namespace, name))
        if owner is not None and owner.kind == POOL and _serves(old) != _serves(new):
            for name in self._names.get((TEAM, key.namespace), ()):
                self._changed(Key(TEAM, key.namespace, name))
        if matters(old, new):
            self._tell_users(key)

    def _tell_users(self, key: Key) -> None:
        for user in self._affected(key):
            self._changed(user)
            if user.kind == TEAM:
                self._tell_pool(user.namespace)
            if self._has_credentials(self._objects.get(user)):
                self._changed(ALL_CREDENTIALS)

    def _tell_pool(self, namespace: str) -> None:
        """The pods of a namespace, and what they must know of models of others."""
        self._changed(Key(POOL, namespace, ""))
        if self._abroad.get(namespace) or self._owned.get(Key(SHARED_MODELS, namespace, "")):
            self._changed(Key(SHARED_MODELS, namespace, ""))

    def _has_credentials(self, one: Stored | None) -> bool:
        """Whether it is a model whose keys a service of the installation needs."""
        if one is None or one.key.kind != MODEL:
            return False
        users = (self._objects.get(user) for user in self.users(one.key))
        return embeds(one) or any(judge_of(user) == one.key for user in users)

    def _tell_selectors(self) -> None:
        """Who lets namespaces in by their labels, and who refers to those."""
        for key in self.keys(*SHARED_KINDS):
            if selects(self._objects[key]):
                self._changed(key)
                if key.kind == TEAM:  # whose pods may be reached
                    self._changed(Key(POOL, key.namespace, ""))
                self._tell_users(key)
                if self._has_credentials(self._objects[key]):
                    self._changed(ALL_CREDENTIALS)

    def _tell_over_quota(self, key: Key) -> None:
        """One that goes, or takes less, makes room for those that wait."""
        for name in self._names.get((key.kind, key.namespace), ()):
            other = self._objects.get(Key(key.kind, key.namespace, name))
            if other is not None and other.condition("Accepted").get("reason") == "QuotaExceeded":
                self._changed(other.key)

    def _tell_namespace(self, namespace: str, old: Stored | None, new: Stored | None) -> None:
        """Its labels and annotations say what objects in it may, and who lets it in."""
        there = [one if one is not None and one.deleted_at is None else None for one in (old, new)]
        labels = [None if one is None else dict(one.labels) for one in there]
        notes = [None if one is None else dict(one.annotations) for one in there]
        if labels[0] != labels[1]:
            self._tell_selectors()
        elif notes[0] == notes[1]:
            return
        for kind in OURS:
            for name in self._names.get((kind, namespace), ()):
                self._changed(Key(kind, namespace, name))
        self._tell_pool(namespace)


def matters(old: Stored | None, new: Stored | None) -> bool:
    """Whether those that name it must look again. A count in a status is none of their business."""
    if old is None or new is None:
        return True
    return (
        old.generation != new.generation
        or old.uid != new.uid
        or dict(old.hashes) != dict(new.hashes)
        or old.deleted_at != new.deleted_at
        or _ready(old) != _ready(new)
        or old.status.get("secretHash") != new.status.get("secretHash")
    )


def _spec_differs(old: Stored | None, new: Stored | None) -> bool:
    if old is None or new is None:
        return True
    return old.generation != new.generation or old.uid != new.uid or old.deleted_at != new.deleted_at


def _serves(one: Stored | None) -> tuple[bool, bool]:
    """Of a Deployment: whether a pod is ready, and whether all are of the newest template."""
    if one is None or one.key.kind != "Deployment":
        return (False, False)
    return bool(one.status.get("availableReplicas")), rolled_out(one)


def _ready(one: Stored) -> tuple[Any, ...]:
    ready = one.condition("Ready")
    return tuple(ready.get(field) for field in ("status", "reason", "message", "observedGeneration"))
