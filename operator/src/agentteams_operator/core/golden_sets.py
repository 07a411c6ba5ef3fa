"""Golden sets out of ConfigMaps, into the service that measures with them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from agentteams_operator.core.objects import CONFIG_MAP, Key, Stored
from agentteams_operator.core.ports import ApiFailure, Knowledge, KnowledgeRefused, KnowledgeState
from agentteams_operator.core.texts import ConfigMaps
from manifests import KnowledgeBase
from manifests.config_maps import ConfigMapKeyRef
from manifests.golden import GoldenSetInvalid, parse_golden_set

Problem = tuple[str, str]
"""A reason and words."""
_GONE = 404
_FIELD = "spec.evaluation.goldenSetRef.configMapKeyRef"


@dataclass(frozen=True, slots=True)
class _Pushed:
    """What was made of a value.

    Attributes:
        of: The object, what the golden set is called, and the value by its hash.
        sha256: As the service calls it; empty: see `problem`.
    """

    of: tuple[str, str, str]
    sha256: str = ""
    problem: Problem | None = None


Send = Callable[[str], Awaitable[str]]
"""Sends a text that is a golden set; its hash. Raises GoldenSetInvalid, KnowledgeRefused."""


class Pushes:
    """Remembers what was pushed, by hashes: a golden set is read and sent once for each change.

    Args:
        find: Objects of the cache.
        form: How a golden set looks, for those whose is none.
    """

    def __init__(self, *, find: Callable[[Key], Stored | None], config_maps: ConfigMaps, form: str) -> None:
        self._find = find
        self._config_maps = config_maps
        self._form = form
        self._pushed: dict[Key, _Pushed] = {}

    def forget(self, key: Key) -> None:
        """The object is gone, or wants no golden set."""
        self._pushed.pop(key, None)

    async def push(
        self, one: Stored, ref: ConfigMapKeyRef, *, name: str, there: str, send: Send
    ) -> Problem | None:
        """Sends what the reference leads to; why not, if it cannot.

        Args:
            name: What the golden set is called.
            there: The hash of what the service has.
        """
        found = self._find(Key(CONFIG_MAP, one.key.namespace, ref.name))
        if found is None or found.deleted_at is not None:
            return _missing(one.key.namespace, ref)
        if ref.key not in found.hashes:
            return _without_key(ref, found)
        of = (one.uid, name, found.hashes[ref.key])
        known = self._pushed.get(one.key)
        if known is None or known.of != of or (known.sha256 and known.sha256 != there):
            known = await self._push(one, ref, of, send)
            self._pushed[one.key] = known
        return known.problem

    async def _push(self, one: Stored, ref: ConfigMapKeyRef, of: tuple[str, str, str], send: Send) -> _Pushed:
        try:
            text = (await self._config_maps.config_map(one.key.namespace, ref.name)).get(ref.key)
        except ApiFailure as error:
            if error.code != _GONE:
                raise
            text = None
        if text is None:  # gone since, or not text: the watch brings the next look
            return _Pushed(of, problem=_missing(one.key.namespace, ref))
        try:
            return _Pushed(of, sha256=await send(text))
        except (GoldenSetInvalid, KnowledgeRefused) as error:
            words = f'{_FIELD}: "{ref.key}" of ConfigMap "{ref.name}" is no golden set: {error}; {self._form}'
            return _Pushed(of, problem=("GoldenSetInvalid", words))


class GoldenSets:
    """Those of KnowledgeBases, into the retrieval service.

    Args:
        find: Objects of the cache.
    """

    def __init__(
        self, *, find: Callable[[Key], Stored | None], config_maps: ConfigMaps, knowledge: Knowledge
    ) -> None:
        form = "a golden set is `queries: [{query: ..., relevant: [PATH, ...]}, ...]`"
        self._pushes = Pushes(find=find, config_maps=config_maps, form=form)
        self._knowledge = knowledge

    def forget(self, key: Key) -> None:
        """The KnowledgeBase is gone."""
        self._pushes.forget(key)

    async def push(self, one: Stored, manifest: KnowledgeBase, state: KnowledgeState) -> Problem | None:
        """Gives the retrieval service the golden set that the manifest refers to; why not, if it cannot.

        Raises:
            KnowledgeUnavailable: It does not answer.
        """
        evaluation = manifest.spec.evaluation
        if evaluation is None or evaluation.golden_set_ref is None:
            self.forget(one.key)
            return None
        ref, name = evaluation.golden_set_ref.config_map_key_ref, evaluation.golden_set_name

        async def send(text: str) -> str:
            # A megabyte of YAML takes many seconds, and the lease is to be renewed each few.
            queries = await asyncio.to_thread(parse_golden_set, text, name=ref.key)
            return await self._knowledge.set_golden_set(*one.key[1:], queries=queries, called=name)

        there = state.quality.golden_set_sha256 if state.quality is not None else ""
        return await self._pushes.push(one, ref, name=name, there=there, send=send)


def _missing(namespace: str, ref: ConfigMapKeyRef) -> Problem:
    fix = f"kubectl create configmap {ref.name} --namespace={namespace} --from-file={ref.key}=golden.yaml"
    return "ConfigMapNotFound", f'{_FIELD}: no ConfigMap "{ref.name}" in namespace "{namespace}"; {fix}'


def _without_key(ref: ConfigMapKeyRef, found: Stored) -> Problem:
    have = ", ".join(sorted(found.hashes)) or "nothing"
    words = f'{_FIELD}: ConfigMap "{ref.name}" has no key "{ref.key}", but {have}; add it, or name one'
    return "ConfigMapKeyNotFound", words
