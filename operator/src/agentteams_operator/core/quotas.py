"""How much of what a namespace may have: annotations of the Namespace, else the installation's default.

By level: in the order in which they were made, objects count until the limit is reached; the newest are over.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import KNOWLEDGE, NAMESPACE, TEAM, Key, Stored

NO_LIMIT = (1 << 31) - 1
"""More than there can be, and the most that the session service can be told."""
_DIGITS = 16
_MOST = 4096

log = structlog.get_logger()

Limited = Literal["teams", "knowledge-bases", "own-pools", "own-replicas", "concurrent-runs"]


@dataclass(frozen=True, slots=True)
class _What:
    """What is limited: objects of a kind, in words, and how one makes room."""

    kind: str
    words: str
    fix: str


# Of runs there are no objects: see run_quotas.
_LIMITED: Mapping[Limited, _What] = {
    "teams": _What(TEAM, "AgentTeams", "delete one"),
    "knowledge-bases": _What(KNOWLEDGE, "KnowledgeBases", "delete one"),
    "own-pools": _What(TEAM, "AgentTeams with spec.runtime", "remove spec.runtime of one"),
    "own-replicas": _What(
        TEAM, "pods of AgentTeams with spec.runtime", "lower replicas or maxReplicas of one"
    ),
}


def annotation(what: Limited) -> str:
    """The annotation of a Namespace that limits it."""
    return f"agentteams.dev/max-{what}"


@dataclass(frozen=True, slots=True)
class Limit:
    """How many there may be, and where that is said."""

    most: int
    source: str


class Quotas:
    """Asked for one object at a time.

    Args:
        defaults: Most of each, for namespaces that do not say it.
    """

    def __init__(self, *, cache: Cache, defaults: Mapping[Limited, int]) -> None:
        self._cache = cache
        self._defaults = defaults
        self._warned: dict[tuple[str, Limited], str] = {}

    def over(self, one: Stored) -> str:
        """Why an object is one too many, with the fix; empty: it is not."""
        return next(self._exceeded(one), "")

    def limit(self, namespace: str, what: Limited) -> Limit | None:
        """None: there is none."""
        found = self._cache.get(Key(NAMESPACE, "", namespace))
        value = found.annotations.get(annotation(what)) if found is not None else None
        if value is not None:
            if value.isascii() and value.isdigit():
                given = int(value) if len(value) < _DIGITS else NO_LIMIT
                return Limit(min(given, NO_LIMIT), f"the annotation {annotation(what)} of the Namespace")
            # The default holds: who cannot be understood does not lift a limit.
            self._warn(namespace, what, value)
        most = self._defaults.get(what)
        return None if most is None else Limit(most, f'"{what}" of the installation\'s quotas')

    def _warn(self, namespace: str, what: Limited, value: str) -> None:
        """Once for each value: a namespace is looked at again and again."""
        if self._warned.get((namespace, what)) == value:
            return
        if len(self._warned) >= _MOST:
            self._warned.clear()
        self._warned[namespace, what] = value
        log.warning("quota_not_understood", namespace=namespace, annotation=annotation(what), value=value)

    def _exceeded(self, one: Stored) -> Iterator[str]:
        namespace = one.key.namespace
        for name, what in _LIMITED.items():
            if what.kind != one.key.kind or not _counts(one, name):
                continue
            limit = self.limit(namespace, name)
            if limit is None:
                continue
            used = sum(_counts(other, name) for other in self._until(one))
            if used > limit.most:
                yield (
                    f'namespace "{namespace}" may have {limit.most} {what.words} ({limit.source}), and with '
                    f"this one it has {used}; {what.fix}, or have the limit raised"
                )

    def _until(self, one: Stored) -> Iterator[Stored]:
        """Those that were made before, and the object itself."""
        for name in self._cache.names(one.key.kind, one.key.namespace):
            other = self._cache.get(Key(one.key.kind, one.key.namespace, name))
            if other is not None and other.deleted_at is None and _age(other) <= _age(one):
                yield other


def _age(one: Stored) -> tuple[str, str]:
    return one.created, one.uid


def _counts(one: Stored, what: Limited) -> int:
    runtime: Any = one.spec.get("runtime")
    if what in ("teams", "knowledge-bases"):
        return 1
    if not isinstance(runtime, Mapping):
        return 0
    if what == "own-pools":
        return 1
    scaled = runtime.get("autoscaling")
    wanted = scaled.get("maxReplicas", 1) if isinstance(scaled, Mapping) else runtime.get("replicas", 1)
    return wanted if isinstance(wanted, int) else 1
