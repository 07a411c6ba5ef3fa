"""Making it so: only what differs is written."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import Key, Stored, digest_of
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiServer

FINALIZERS = "agentteams.dev/"


@dataclass(frozen=True, slots=True)
class _Applied:
    wanted: str
    uid: str
    state: str


class Applier:
    """Remembers what it applied: an object that still is as it was then is not written again.

    After a start nothing is remembered, and each object is applied once; where nothing differs the API
    server changes nothing either.
    """

    def __init__(self, *, api: ApiServer, cache: Cache) -> None:
        self._api = api
        self._cache = cache
        self._applied: dict[Key, dict[Key, _Applied]] = {}

    async def apply(self, one: Stored, outcome: Outcome) -> None:
        """All of it. Raises ApiFailure.

        Finalizers first: what lives outside the cluster is never made for an object that could go
        without a trace. The status last: it speaks of what was done.
        """
        if outcome.finalizers is not None and outcome.finalizers != _ours(one):
            await self._api.set_finalizers(one, outcome.finalizers)
        for wanted in outcome.objects:
            await self._apply_one(one.key, wanted)
        for key in outcome.gone:
            found = self._cache.get(key)
            if found is not None and found.deleted_at is None:
                await self._api.delete(key)
                self._applied.get(one.key, {}).pop(key, None)
        if outcome.status is not None:
            if outcome.status == one.status:
                return
            self._cache.put(await self._api.apply_status(one, outcome.status))
        for event in outcome.events:
            await self._api.tell(one, event)

    def forget(self, key: Key) -> None:
        """The object is gone."""
        self._applied.pop(key, None)

    async def _apply_one(self, owner: Key, wanted: Mapping[str, Any]) -> None:
        metadata = wanted["metadata"]
        key = Key(wanted["kind"], metadata["namespace"], metadata["name"])
        applied = self._applied.setdefault(owner, {})
        digest = digest_of(wanted)
        found, known = self._cache.get(key), applied.get(key)
        if found is not None and known is not None and known == _Applied(digest, found.uid, _state(found)):
            return
        body = await self._api.apply(wanted)
        self._cache.put(body)
        made = self._cache.get(key)
        if made is not None:
            applied[key] = _Applied(digest, made.uid, _state(made))


def _state(one: Stored) -> str:
    """What changes with labels and with a spec: the generation, else what is kept of it, else each write."""
    spec = one.generation or one.content.get("written") or one.version
    return f"{spec} {sorted(one.labels.items())}"


def _ours(one: Stored) -> tuple[str, ...]:
    return tuple(name for name in one.finalizers if name.startswith(FINALIZERS))
