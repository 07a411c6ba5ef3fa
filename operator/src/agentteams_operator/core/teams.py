"""Observes AgentTeams, and the pool that those of a namespace share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from agentteams_operator.core.across import called_owners, callers
from agentteams_operator.core.cache import Cache
from agentteams_operator.core.decide.model_config import secret_hash, secrets_of
from agentteams_operator.core.decide.team import ObservedServing, ObservedTeam, decide_team
from agentteams_operator.core.kept_secret import Named, named_by, too_long
from agentteams_operator.core.models import broken_references
from agentteams_operator.core.objects import KNOWLEDGE, MODEL, TEAM, Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.quotas import Quotas
from agentteams_operator.core.reach import asked, mounted_keys, reached
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.references import references, secret_keys
from agentteams_operator.core.served import Served
from agentteams_operator.core.serving import broken, serving
from agentteams_operator.core.sharing import allowed_tenants
from agentteams_operator.core.texts import Texts
from agentteams_operator.specs.calls import calls_policy
from agentteams_operator.specs.pool import (
    APP,
    NAME_LABEL,
    PORT,
    Pool,
    digest,
    namespace_objects,
    one_scaler,
    pool_objects,
)
from agentteams_operator.specs.scaling import SCALED_OBJECT
from agentteams_operator.specs.settings import PoolSettings
from manifests import SHARED_POOL, AgentTeam, pool_name
from servicekit.clock import Clock

_AGAIN_S = 600.0


class TenantKey(Protocol):
    """Makes the keys of tenants."""

    def __call__(self, tenant: str, *, calls_of: str = "") -> bytes:
        """A tenant's own key, or its key for calls of another one's teams, as a file."""
        ...


class Teams:
    """Looks at one AgentTeam, or at one namespace's pool, at a time.

    Args:
        tenant_key: What the Secret of a tenant's keys holds.
    """

    def __init__(
        self,
        *,
        cache: Cache,
        reader: Reader,
        texts: Texts,
        quotas: Quotas,
        settings: PoolSettings,
        served: Served,
        tenant_key: TenantKey,
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._reader = reader
        self._texts = texts
        self._quotas = quotas
        self._kinds = served
        self._settings = settings
        self._tenant_key = tenant_key
        self._clock = clock

    async def look(self, one: Stored) -> Outcome:
        """What to do about an AgentTeam."""
        if one.deleted_at is not None:
            return Outcome()
        namespace = one.key.namespace
        keys = sorted(secret_keys(one.spec))
        found = reached(self._cache, one)
        own = one.spec.get("runtime") is not None
        name = pool_name(one.key.name) if own else SHARED_POOL
        compiled = await self._texts.compiled(one)
        whole = compiled.one
        read = self._reader.read(one) if whole is None or whole is one else self._reader.read_as(whole)
        read = replace(read, over=self._quotas.over(one))
        known = isinstance(read.resource, AgentTeam) and whole and not read.over
        wanted = read.resource.revision if known and isinstance(read.resource, AgentTeam) else ""
        current = one.status.get("currentRevision")
        served = self._served(one) if current and current != wanted else None
        mounted = {*keys, *mounted_keys(self._cache, one), *(served[1] if served else ())} if own else ()
        pool_secrets = sorted(mounted)
        seen = ObservedTeam(
            one=one,
            read=read,
            secrets=self._secrets(namespace, keys),
            keys=keys,
            broken=[
                *compiled.broken,
                *_local_only(one),
                *broken_references(self._cache, self._reader, one),
                *too_long(self._foreign_keys(one), "the copy in this namespace"),
            ],
            models=self._needed_models(one, found),
            knowledge=[other for other in found if other.key.kind == KNOWLEDGE],
            owned=self._cache.owned(one.key),
            pool=self._cache.get(Key("Deployment", namespace, name)),
            pool_secrets=pool_secrets,
            pool_secrets_hash=self._hash(namespace, pool_secrets),
            serving=served[0] if served else None,
            compiled=whole,
            incomplete=whole is None,
            missing={key.kind for key in references(namespace, one.spec) - {other.key for other in found}},
            allowed=allowed_tenants(self._cache, one),
            keda=own and await self._keda(one.spec["runtime"].get("autoscaling") or {}),
        )
        return decide_team(seen, self._settings, self._clock.now())

    async def look_at_pool(self, one: Stored) -> Outcome:
        """What to do about the pool that a namespace shares, and what all its pools need."""
        namespace = one.key.namespace
        teams = [
            found
            for name in self._cache.names(TEAM, namespace)
            if (found := self._cache.get(Key(TEAM, namespace, name))) is not None
            and found.deleted_at is None
            and (found.status.get("currentRevision") or not self._quotas.over(found))
        ]
        identity = self._tenant_key(namespace)
        owners = called_owners(self._cache, self._with_served(teams))
        calls = {owner: self._tenant_key(namespace, calls_of=owner) for owner in owners}
        objects = list(namespace_objects(namespace, identity, calls)) if teams else []
        if self._settings.network.enabled:  # alone it would let nothing else through
            objects += calls_policy(
                namespace,
                pods={NAME_LABEL: APP},
                port=PORT,
                callers=callers(self._cache, teams),
                owners=owners,
            )
        shared = [team for team in teams if team.spec.get("runtime") is None]
        if shared:
            keys = {key for team in shared for key in secret_keys(team.spec)}
            for team in shared:
                keys.update(mounted_keys(self._cache, team))
                keys.update(self._served(team)[1])
            secrets = sorted(keys)
            pool = Pool(
                namespace=namespace,
                secrets=secrets,
                secrets_hash=self._hash(namespace, secrets),
                identity_hash=digest(identity.decode()),
                keda=await self._keda({}),
            )
            objects += one_scaler(pool_objects(pool, self._settings), self._cache.owned(one.key))
        made = {(o["kind"], o["metadata"]["name"]) for o in objects}
        gone = [o.key for o in self._cache.owned(one.key) if (o.key.kind, o.key.name) not in made]
        return Outcome(objects=tuple(objects), gone=tuple(gone), again_s=_AGAIN_S)

    def _with_served(self, teams: Sequence[Stored]) -> list[Stored]:
        """They, and the revisions of them that serve."""
        return [*teams, *(found for team in teams if (found := serving(self._cache, team)) is not None)]

    async def _keda(self, autoscaling: Mapping[str, Any]) -> bool:
        """Whether KEDA is asked for and there."""
        if (autoscaling.get("type") or self._settings.scaler) != "KEDA":
            return False
        return await self._kinds.has(SCALED_OBJECT)

    def _served(self, team: Stored) -> tuple[ObservedServing, set[tuple[str, str]]]:
        """The revision that serves, and all that it takes from Secrets."""
        found = serving(self._cache, team)
        if found is None:
            name = f"{team.key.name}-{team.status.get('currentRevision')}"
            lost = ("RevisionNotFound", f"the ControllerRevision {name} is not there any more")
            return ObservedServing(secrets={}, keys=(), broken=[lost], models=(), knowledge=()), set()
        keys, uses = sorted(secret_keys(found.spec)), reached(self._cache, found)
        seen = ObservedServing(
            secrets=self._secrets(team.key.namespace, keys),
            keys=keys,
            broken=list(broken(self._cache, found)),
            models=self._needed_models(found, uses),
            knowledge=[one for one in uses if one.key.kind == KNOWLEDGE],
        )
        return seen, {*keys, *mounted_keys(self._cache, found)}

    def _needed_models(self, team: Stored, found: Sequence[Stored]) -> list[Stored]:
        """Those that agents name, without those for which a fallback stands in."""
        named = references(team.key.namespace, team.spec)
        for nested in self._nested(team):
            named |= references(nested.key.namespace, nested.spec)
        return [
            one
            for one in found
            if one.key.kind == MODEL and one.key in named and not self._stood_in(one, team.key.namespace)
        ]

    def _nested(self, team: Stored) -> list[Stored]:
        seen, ahead = {team.key}, [team]
        found = []
        while ahead:
            current = ahead.pop()
            for key in references(current.key.namespace, current.spec):
                within = key.kind == TEAM and key.namespace == current.key.namespace
                other = self._cache.get(key) if within and key not in seen else None
                if other is not None:
                    seen.add(key)
                    found.append(other)
                    ahead.append(other)
        return found

    def _stood_in(self, model: Stored, namespace: str) -> bool:
        if model.condition("Ready").get("status") == "True":
            return False
        others = [one for one in reached(self._cache, model, namespace) if one.key.kind == MODEL]
        return any(one.condition("Ready").get("status") == "True" for one in others)

    def _foreign_keys(self, team: Stored) -> list[Named]:
        foreign = (one for one in asked(self._cache, team) if one.key.namespace != team.key.namespace)
        return [named for one in foreign for named in named_by(one)]

    def _secrets(self, namespace: str, keys: Sequence[tuple[str, str]]) -> dict[str, Stored]:
        return {
            key.name: found
            for key in secrets_of(keys, namespace)
            if (found := self._cache.get(key)) is not None and found.deleted_at is None
        }

    def _hash(self, namespace: str, keys: Sequence[tuple[str, str]]) -> str:
        return secret_hash(self._secrets(namespace, keys), keys) if keys else ""


def _local_only(one: Stored) -> Iterator[tuple[str, str]]:
    for index, source in enumerate(one.spec.get("tools") or ()):
        if "python" in source:
            words = "what a module does this process would do; serve it as an MCP server, or use local mode"
            yield "LocalModeOnly", f"spec.tools[{index}].python: {words}"
