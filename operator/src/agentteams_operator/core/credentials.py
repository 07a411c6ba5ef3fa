"""The credentials of services that serve all tenants and may read no Secret of theirs.

Each has one Secret in the installation's namespace. The embedding service gets those keys that ModelConfigs
of type Embedding or Rerank name, the evaluation service those of the models that teams name as judge, and
neither any other.
"""

import asyncio
import base64
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import structlog

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import (
    CREDENTIALS_LABEL,
    MANAGED_BY,
    MANAGER,
    MODEL,
    SECRET,
    TEAM,
    Key,
    Stored,
    embeds,
    judge_of,
)
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiFailure, ApiServer
from agentteams_operator.core.references import secret_keys

NAME = "agentteams-model-credentials"
JUDGES_NAME = "agentteams-judge-credentials"
MAX_NAME = 253  # of a key of a Secret
# What the services read of a file, and what the API server takes of a Secret, with room to spare.
MAX_VALUE_BYTES, MAX_ALL_BYTES = 64 * 1024, 900 * 1024
_SIDE_BY_SIDE = 8
_AGAIN_S = 600.0

log = structlog.get_logger()

Named = tuple[str, str, str]
"""Namespace, Secret, key."""


def entry(namespace: str, secret: str, key: str) -> str:
    """The key within the one Secret: no namespace and no name of a Secret has an underscore."""
    return f"{namespace}__{secret}__{key}"


def named_by(model: Stored) -> Iterator[Named]:
    """What the embedding service needs for a ModelConfig."""
    if model.deleted_at is None and embeds(model):
        for secret, key in secret_keys(model.spec):
            yield model.key.namespace, secret, key


def of_embedding(cache: Cache) -> Iterator[Named]:
    """What the embedding service needs."""
    for key in cache.keys(MODEL):
        model = cache.get(key)
        if model is not None:
            yield from named_by(model)


def of_judges(cache: Cache) -> Iterator[Named]:
    """What the evaluation service needs."""
    for key in cache.keys(TEAM):
        team = cache.get(key)
        judge = judge_of(team)
        model = cache.get(Key(MODEL, key.namespace, judge)) if judge else None
        if team is not None and team.deleted_at is None and model is not None and model.deleted_at is None:
            for secret, name in secret_keys(model.spec):
                yield key.namespace, secret, name


def too_long(model: Stored) -> Iterator[tuple[str, str]]:
    """Names that the one Secret cannot have: reason and words."""
    for named in sorted(named_by(model)):
        over = len(entry(*named)) - MAX_NAME
        if over > 0:
            words = (
                f'the names of namespace, Secret "{named[1]}" and key "{named[2]}" are {over} characters too '
                "long together for the embedding service; give the Secret or the key a shorter name"
            )
            yield "SecretNameTooLong", words


def fitting(values: Mapping[Named, bytes]) -> dict[Named, bytes]:
    """Without what is too large; where all together are too much, the largest are left out.

    The keys of one tenant never stand in the way of another's: API keys are far smaller than the bound.
    """
    kept, room = {}, MAX_ALL_BYTES
    for named, value in sorted(values.items(), key=lambda item: (len(item[1]), item[0])):
        room -= len(value) + len(entry(*named))
        if len(value) > MAX_VALUE_BYTES or room < 0:
            continue
        kept[named] = value
    return kept


def secret_object(namespace: str, name: str, values: Mapping[Named, bytes]) -> dict[str, object]:
    """The Secret."""
    return {
        "apiVersion": "v1",
        "kind": SECRET,
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {MANAGED_BY: MANAGER, CREDENTIALS_LABEL: "models"},
        },
        "type": "Opaque",
        "data": {entry(*named): base64.b64encode(values[named]).decode() for named in sorted(values)},
    }


class Credentials:
    """Keeps the Secret of each of these services.

    Args:
        namespace: The installation's.
    """

    def __init__(self, *, cache: Cache, api: ApiServer, namespace: str) -> None:
        wanted = ((NAME, of_embedding), (JUDGES_NAME, of_judges))
        self._kept = [
            _Kept(cache=cache, api=api, key=Key(SECRET, namespace, name), named=named)
            for name, named in wanted
        ]

    async def look(self, one: Stored) -> Outcome:
        """What to do about the Secrets. Values are read only when one has changed, and not kept."""
        outcomes = [await kept.look() for kept in self._kept]
        return Outcome(gone=tuple(key for outcome in outcomes for key in outcome.gone), again_s=_AGAIN_S)


class _Kept:
    """One Secret: what is in it and what should be."""

    def __init__(
        self, *, cache: Cache, api: ApiServer, key: Key, named: Callable[[Cache], Iterable[Named]]
    ) -> None:
        self._cache = cache
        self._api = api
        self._key = key
        self._named = named
        self._written = ("", "")
        self._looked = False

    async def look(self) -> Outcome:
        """Writes it, or says that it is to go."""
        hashes = self._hashes()
        if not hashes:
            await self._remove_unseen()
            there = self._cache.get(self._key)
            self._written = ("", "")
            return Outcome(gone=(self._key,) if there is not None else (), again_s=_AGAIN_S)
        wanted, found = _digest(hashes), self._cache.get(self._key)
        if found is not None and self._written == (wanted, _digest(found.hashes)):
            return Outcome(again_s=_AGAIN_S)
        values = await self._values(hashes)
        kept = fitting(values)
        for namespace, secret, key in sorted(set(values) - set(kept)):
            log.warning("credential_left_out", namespace=namespace, secret=secret, key=key, why="too large")
        await self._write(secret_object(self._key.namespace, self._key.name, kept), wanted)
        return Outcome(again_s=_AGAIN_S)

    async def _write(self, wanted: Mapping[str, object], digest: str) -> None:
        self._cache.put(await self._api.apply(wanted))
        made = self._cache.get(self._key)
        self._written = (digest, _digest(made.hashes)) if made is not None else ("", "")

    async def _remove_unseen(self) -> None:
        """An operator that watches some namespaces only does not see what one before it left here."""
        if not self._looked and self._cache.get(self._key) is None:
            await self._api.delete(self._key)
        self._looked = True

    def _hashes(self) -> dict[Named, str]:
        """What is named and there."""
        found = {}
        for named in self._named(self._cache):
            secret = self._cache.get(Key(SECRET, named[0], named[1]))
            there = secret is not None and secret.deleted_at is None and named[2] in secret.hashes
            if secret is not None and there and len(entry(*named)) <= MAX_NAME:
                found[named] = secret.hashes[named[2]]
        return found

    async def _values(self, hashes: Mapping[Named, str]) -> dict[Named, bytes]:
        gate = asyncio.Semaphore(_SIDE_BY_SIDE)

        async def read(namespace: str, secret: str) -> Mapping[str, bytes]:
            async with gate:
                try:
                    return await self._api.secret(namespace, secret)
                except ApiFailure as error:
                    if error.code != 404:
                        raise
                    return {}  # it went in between: the watch tells so, and brings another look

        secrets = sorted({named[:2] for named in hashes})
        found = await asyncio.gather(*(read(*secret) for secret in secrets))
        read_now = dict(zip(secrets, found, strict=True))
        return {named: read_now[named[:2]][named[2]] for named in hashes if named[2] in read_now[named[:2]]}


def _digest(hashes: Mapping[Any, str]) -> str:
    text = "\n".join(f"{name}={hashes[name]}" for name in sorted(hashes))
    return hashlib.sha256(text.encode()).hexdigest()
