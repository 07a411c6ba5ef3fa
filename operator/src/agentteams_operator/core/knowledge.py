"""Observes KnowledgeBases."""

from dataclasses import replace

from agentteams_operator.core.cache import Cache
from agentteams_operator.core.decide.knowledge import (
    FINALIZER,
    ObservedKnowledge,
    decide_deletion,
    decide_knowledge,
    wants_deletion,
)
from agentteams_operator.core.golden_sets import GoldenSets
from agentteams_operator.core.models import broken_references
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import (
    Knowledge,
    KnowledgeRefused,
    KnowledgeState,
    KnowledgeUnavailable,
)
from agentteams_operator.core.quotas import Quotas
from agentteams_operator.core.reading import Reader
from agentteams_operator.core.sharing import allowed_tenants
from manifests import KnowledgeBase
from servicekit.clock import Clock


class KnowledgeBases:
    """Looks at one KnowledgeBase at a time; remembers which specs the retrieval service has taken."""

    def __init__(
        self,
        *,
        cache: Cache,
        reader: Reader,
        quotas: Quotas,
        knowledge: Knowledge,
        golden_sets: GoldenSets,
        clock: Clock,
    ) -> None:
        self._cache = cache
        self._golden_sets = golden_sets
        self._reader = reader
        self._quotas = quotas
        self._knowledge = knowledge
        self._clock = clock
        self._taken: dict[Key, tuple[str, int, tuple[str, ...]]] = {}

    async def look(self, one: Stored) -> Outcome:
        """What to do about a KnowledgeBase."""
        now = self._clock.now()
        if one.deleted_at is not None:
            self._taken.pop(one.key, None)
            self._golden_sets.forget(one.key)
            return (
                decide_deletion(one, await self._delete(one), now)
                if FINALIZER in one.finalizers
                else Outcome()
            )
        read = replace(self._reader.read(one), over=self._quotas.over(one))
        broken = broken_references(self._cache, self._reader, one)
        manifest = read.resource
        if not isinstance(manifest, KnowledgeBase) or broken or read.over:
            return decide_knowledge(ObservedKnowledge(one=one, read=read, broken=broken), now)
        if wants_deletion(one) and FINALIZER not in one.finalizers:
            # First the finalizer: else what is made now could be left behind by a deletion just after.
            return Outcome(finalizers=(FINALIZER,), again_s=0.2)
        try:
            state = await self._state(one, manifest)
            unset = await self._golden_sets.push(one, manifest, state)
            seen = ObservedKnowledge(one=one, read=read, state=state, golden_set_problem=unset)
        except KnowledgeRefused as error:
            seen = ObservedKnowledge(one=one, read=read, refused=str(error))
        except KnowledgeUnavailable as error:
            seen = ObservedKnowledge(one=one, read=read, silent=str(error))
        return decide_knowledge(seen, now)

    async def _state(self, one: Stored, manifest: KnowledgeBase) -> KnowledgeState:
        allowed = allowed_tenants(self._cache, one)
        version = (one.uid, one.generation, allowed)
        if self._taken.get(one.key) == version:
            known = await self._knowledge.get(one.key.namespace, one.key.name)
            if known is not None:
                return known
        state = await self._knowledge.ensure(manifest, allowed)
        self._taken[one.key] = version
        return state

    async def _delete(self, one: Stored) -> str:
        """Why it was not deleted; empty if it was."""
        try:
            if wants_deletion(one):
                await self._knowledge.delete(one.key.namespace, one.key.name)
        except (KnowledgeRefused, KnowledgeUnavailable) as error:
            return str(error)
        return ""
