"""Texts of AgentTeams that stand in ConfigMaps: read when a team is looked at, and not kept."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.objects import CONFIG_MAP, Key, Stored
from agentteams_operator.core.ports import ApiFailure
from manifests.base import dotted
from manifests.texts import MAX_TEXT, texts_from, with_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A team with all its texts.

    Attributes:
        one: The team, its spec as a revision has it; None: a text is missing.
        broken: Why: reason and words.
    """

    one: Stored | None
    broken: Sequence[tuple[str, str]] = ()


class ConfigMaps(Protocol):
    """What is needed of the API server."""

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str]:
        """The texts of a ConfigMap. Raises ApiFailure."""
        ...


class Texts:
    """Reads what `instructionsFrom` names."""

    def __init__(self, *, cache: Cache, api: ConfigMaps) -> None:
        self._cache = cache
        self._api = api

    async def compiled(self, team: Stored) -> Compiled:
        """The team with its texts. Raises ApiFailure."""
        named = list(texts_from(team.spec))
        if not named:
            return Compiled(one=team)
        namespace = team.key.namespace
        names = sorted({name for _, name, _ in named if self._there(namespace, name) is not None})
        read = await asyncio.gather(*(self._read(namespace, name) for name in names))
        maps = dict(zip(names, read, strict=True))
        broken = []
        for at, name, key in named:
            wrong = _wrong(maps.get(name), namespace, name, key)
            if wrong is not None:
                broken.append((wrong[0], f"{dotted(at)}: {wrong[1]}"))
        if broken:
            return Compiled(one=None, broken=broken)
        texts = {(name, key): maps[name][key] for _, name, key in named}
        spec = with_texts(team.spec, texts)
        return Compiled(one=replace(team, content={**team.content, "spec": spec}))

    def _there(self, namespace: str, name: str) -> Stored | None:
        found = self._cache.get(Key(CONFIG_MAP, namespace, name))
        return found if found is not None and found.deleted_at is None else None

    async def _read(self, namespace: str, name: str) -> Mapping[str, str]:
        try:
            return await self._api.config_map(namespace, name)
        except ApiFailure as error:
            if error.code != 404:
                raise
            return {}  # it went in between: the watch tells so, and brings another look


def _wrong(found: Mapping[str, str] | None, namespace: str, name: str, key: str) -> tuple[str, str] | None:
    if found is None:
        words = f'no ConfigMap "{name}" in namespace "{namespace}"; create it with the key "{key}"'
        return "ConfigMapNotFound", words
    if key not in found:
        have = ", ".join(sorted(found)[:8]) or "nothing"
        words = f'the ConfigMap "{name}" has no key "{key}", but {have}; add it, or name one of those'
        return "ConfigMapKeyNotFound", words
    if len(found[key]) > MAX_TEXT:
        words = f'key "{key}" of the ConfigMap "{name}" has {len(found[key])} characters'
        return "TextTooLong", f"{words}; shorten it to {MAX_TEXT} at most"
    return None
