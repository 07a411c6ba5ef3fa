"""Models of other namespaces that teams may use: what pods must know of them, in one Secret of the namespace.

The owner's permission is the consent that these pods use the credential
(docs/adr/0016-models-of-other-namespaces.md). The Secret holds the
spec of each such ModelConfig and the keys that it names, and nothing else of the owner's.
"""

import json
from collections.abc import Iterator

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.kept_secret import KeptSecret, named_by
from agentteams_operator.core.objects import SECRET, SHARED_MODELS_LABEL, TEAM, Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiServer
from agentteams_operator.core.reach import asked
from agentteams_operator.core.serving import serving
from manifests.endpoints import SHARED_MODELS, shared_model_key


def shared_with(cache: Cache, namespace: str) -> list[Stored]:
    """The Chat models of others that runs of the namespace may use, in order."""
    found: dict[Key, Stored] = {}
    for team in _teams(cache, namespace):
        found |= {one.key: one for one in asked(cache, team) if one.key.namespace != namespace}
    return [found[key] for key in sorted(found)]


def described(models: list[Stored]) -> dict[str, bytes]:
    """The spec of each, without whom else its owner allows."""
    return {
        shared_model_key(model.key.namespace, model.key.name): json.dumps(
            {field: value for field, value in model.spec.items() if field != "allowedNamespaces"},
            sort_keys=True,
        ).encode()
        for model in models
    }


class SharedModels:
    """Keeps that Secret of each namespace that needs one."""

    def __init__(self, *, cache: Cache, api: ApiServer) -> None:
        self._cache = cache
        self._api = api
        self._kept: dict[str, KeptSecret] = {}

    async def look(self, one: Stored) -> Outcome:
        """What to do about the Secret of a namespace."""
        namespace = one.key.namespace
        models = shared_with(self._cache, namespace)
        where = Key(SECRET, namespace, SHARED_MODELS)
        if not models:
            self._kept.pop(namespace, None)
            return Outcome(gone=(where,))
        kept = self._kept.get(namespace)
        if kept is None:
            kept = self._kept[namespace] = KeptSecret(
                cache=self._cache, api=self._api, key=where, label=SHARED_MODELS_LABEL
            )
        return await kept.keep([n for model in models for n in named_by(model)], described(models))


def _teams(cache: Cache, namespace: str) -> Iterator[Stored]:
    """Each team as it is wanted, and as it serves."""
    for name in cache.names(TEAM, namespace):
        team = cache.get(Key(TEAM, namespace, name))
        if team is None or team.deleted_at is not None:
            continue
        yield team
        served = serving(cache, team)
        if served is not None:
            yield served
