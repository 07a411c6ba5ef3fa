"""A Secret that the operator makes of keys of other Secrets: written again when one of them changes."""

import asyncio
import base64
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import structlog

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import MANAGED_BY, MANAGER, SECRET, Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import ApiFailure, ApiServer
from agentteams_operator.core.references import secret_keys

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
    """What a ModelConfig takes from Secrets."""
    for secret, key in sorted(secret_keys(model.spec)):
        yield model.key.namespace, secret, key


def too_long(named: Iterable[Named], whom: str) -> Iterator[tuple[str, str]]:
    """Names that the one Secret cannot have: reason and words."""
    for one in named:
        over = len(entry(*one)) - MAX_NAME
        if over > 0:
            words = (
                f'the names of namespace, Secret "{one[1]}" and key "{one[2]}" are {over} characters too '
                f"long together for {whom}; give the Secret or the key a shorter name"
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


def secret_object(
    where: Key, label: str, values: Mapping[Named, bytes], texts: Mapping[str, bytes] | None = None
) -> dict[str, object]:
    """The Secret."""
    data = {entry(*named): value for named, value in values.items()} | dict(texts or {})
    return {
        "apiVersion": "v1",
        "kind": SECRET,
        "metadata": {
            "name": where.name,
            "namespace": where.namespace,
            "labels": {MANAGED_BY: MANAGER, label: "models"},
        },
        "type": "Opaque",
        "data": {name: base64.b64encode(data[name]).decode() for name in sorted(data)},
    }


class KeptSecret:
    """One Secret: what is in it and what should be.

    Args:
        label: By which it is found again.
    """

    def __init__(self, *, cache: Cache, api: ApiServer, key: Key, label: str) -> None:
        self._cache = cache
        self._api = api
        self._key = key
        self._label = label
        self._written = ("", "")
        self._looked = False

    async def keep(self, named: Iterable[Named], texts: Mapping[str, bytes] | None = None) -> Outcome:
        """Writes it, or says that it is to go. Values are read only when one has changed, and not kept.

        Args:
            named: Keys of Secrets, there or not.
            texts: What else is in it.
        """
        hashes = self._hashes(named)
        if not hashes and not texts:
            await self._remove_unseen()
            there = self._cache.get(self._key)
            self._written = ("", "")
            return Outcome(gone=(self._key,) if there is not None else (), again_s=_AGAIN_S)
        wanted, found = _digest({**hashes, **(texts or {})}), self._cache.get(self._key)
        if found is not None and self._written == (wanted, _digest(found.hashes)):
            return Outcome(again_s=_AGAIN_S)
        values = await self._values(hashes)
        kept = fitting(values)
        for namespace, secret, key in sorted(set(values) - set(kept)):
            log.warning("credential_left_out", namespace=namespace, secret=secret, key=key, why="too large")
        await self._write(secret_object(self._key, self._label, kept, texts), wanted)
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

    def _hashes(self, wanted: Iterable[Named]) -> dict[Named, str]:
        """What is named and there."""
        found = {}
        for named in wanted:
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


def _digest(content: Mapping[Any, str | bytes]) -> str:
    text = "\n".join(f"{name}={content[name]!r}" for name in sorted(content, key=str))
    return hashlib.sha256(text.encode()).hexdigest()
