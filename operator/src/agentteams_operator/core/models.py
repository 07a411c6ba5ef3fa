"""Observes ModelConfigs."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from agentteams_operator.core.across import leads_back
from agentteams_operator.core.cache import Cache
from agentteams_operator.core.credentials import too_long_for_embedding
from agentteams_operator.core.decide.model_config import (
    PROBE_FAILED_S,
    PROBE_S,
    ObservedModel,
    decide_model,
    resolved_refs,
    secret_hash,
    secrets_of,
)
from agentteams_operator.core.objects import MODEL, Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiServer, Endpoints, Probe
from agentteams_operator.core.reading import Objects, Reader, loaded
from agentteams_operator.core.references import references, secret_keys
from agentteams_operator.core.sharing import allowed_tenants, may_use, refused
from manifests import ModelConfig
from manifests.references import reference_problems
from servicekit.clock import Clock

_SLACK_S = 1.0  # a timer may fire a little early


@dataclass(frozen=True, slots=True, kw_only=True)
class _Probed:
    of: tuple[str, int, str]
    at: float
    probe: Probe


class Models:
    """Looks at one ModelConfig at a time; remembers what endpoints answered.

    Args:
        probe_s: How long a good answer holds.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        reader: Reader,
        api: ApiServer,
        endpoints: Endpoints,
        clock: Clock,
        probe_s: float = PROBE_S,
    ) -> None:
        self._cache = cache
        self._reader = reader
        self._api = api
        self._endpoints = endpoints
        self._clock = clock
        self._probe_s = probe_s
        self._probed: dict[Key, _Probed] = {}

    async def look(self, one: Stored) -> Outcome:
        """What to do about a ModelConfig."""
        if one.deleted_at is not None:
            self._probed.pop(one.key, None)
            return Outcome()
        namespace = one.key.namespace
        read = self._reader.read(one)
        keys = sorted(secret_keys(one.spec))
        secrets = {
            key.name: found
            for key in secrets_of(keys, namespace)
            if (found := self._cache.get(key)) is not None and found.deleted_at is None
        }
        broken = [*too_long_for_embedding(one), *broken_references(self._cache, self._reader, one)]
        probe = None
        config = read.resource
        if isinstance(config, ModelConfig) and resolved_refs(namespace, secrets, keys, broken).holds:
            probe = await self._probe(one, config, secrets, keys)
        seen = ObservedModel(
            one=one, read=read, secrets=secrets, keys=keys, broken=broken, probe=probe,
            allowed=allowed_tenants(self._cache, one),
        )  # fmt: skip
        return decide_model(seen, self._clock.now())

    async def _probe(
        self,
        one: Stored,
        config: ModelConfig,
        secrets: Mapping[str, Stored],
        keys: Sequence[tuple[str, str]],
    ) -> Probe:
        of = (one.uid, one.generation, secret_hash(secrets, keys))
        known, now = self._probed.get(one.key), self._clock.monotonic()
        if known is not None and known.of == of:
            good_for = self._probe_s if known.probe.reached else min(PROBE_FAILED_S, self._probe_s)
            if now - known.at < good_for - _SLACK_S:
                return known.probe
        names = sorted({name for name, _ in keys})
        read = await asyncio.gather(*(self._api.secret(one.key.namespace, name) for name in names))
        values = dict(zip(names, read, strict=True))
        given = {(name, key): values[name][key] for name, key in keys if key in values[name]}
        probe = await self._endpoints.probe(config, given)
        self._probed[one.key] = _Probed(of=of, at=now, probe=probe)
        return probe


def broken_references(cache: Cache, reader: Reader, one: Stored) -> list[tuple[str, str]]:
    """References of a valid object that lead nowhere, or where they must not: reason and words."""
    resource = reader.read(one).resource
    if resource is None:
        return []
    own = one.key.namespace

    def there_to_stay() -> Iterator[Key]:
        """What can be named instead: nothing that is being deleted, the one that is missing least of all."""
        for key in cache.keys(*_NAMED):
            other = cache.get(key)
            if other is not None and other.deleted_at is None:
                yield key

    objects = Objects(reader, own, there_to_stay, visible=lambda key: may_use(cache, own, key))
    found, invalid = [*refused(cache, one), *leads_back(cache, one)], set()
    for key in sorted(references(one.key.namespace, one.spec)):
        if key.namespace != one.key.namespace:
            continue
        there = cache.get(key) if key.kind in _NAMED else None
        if there is not None and there.deleted_at is None and reader.resource(key) is None:
            invalid.add(f'no {key.kind} "{key.name}"')
            words = f'{key.kind} "{key.name}" is not valid; its condition Accepted says why'
            found.append(("ReferenceInvalid", words))
    for problem in reference_problems(loaded(resource), objects):
        if problem.message.startswith(tuple(invalid)):
            continue
        words = f"{problem.field}: {problem.message}"
        found.append((_reason(problem.message), f"{words}; {problem.fix}" if problem.fix else words))
    return found


_NAMED = (MODEL, "KnowledgeBase", "AgentTeam")
_REASONS = (
    ("no ModelConfig", "ModelConfigNotFound"),
    ("no KnowledgeBase", "KnowledgeBaseNotFound"),
    ("no AgentTeam", "TeamNotFound"),
    ("ModelConfig ", "WrongType"),
    ("the teams lie in a circle", "Circle"),
    ("at most ", "TooDeep"),
)


def _reason(message: str) -> str:
    return next((reason for start, reason in _REASONS if message.startswith(start)), "Contradiction")
