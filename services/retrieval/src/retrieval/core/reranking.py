"""The rerank stage: the best once more, by a model that reads query and chunk together.

It is the first thing to go when time is short. How long a model takes for a
passage is known from the calls before; if that does not fit into what is left,
half of the candidates are looked at, half of those, and none in the end.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from retrieval.core.candidates import Candidate
from retrieval.core.fusion import in_order
from retrieval.core.model import ReasonCode
from retrieval.core.ports import Reranker
from retrieval.core.search_options import Rerank
from retrieval.core.search_plan import Plan
from retrieval.core.search_progress import Progress
from servicekit.clock import Clock
from servicekit.context import current_caller, remaining_s
from servicekit.errors import DeadlineExceeded, NotFound, ServiceError

_SHARE = 0.8  # of the time that is left; the rest is for neighbours and the answer
_LEAST_S = 0.02  # no model answers sooner
_MAX_MODELS = 64
# Then a model is tried again, however long it took: it may be quicker by now.
_REMEMBERED_S = 30.0
_ORDER_OF_SEARCH = "the order is that of the search"


@dataclass(frozen=True, slots=True)
class _Pace:
    seconds_per_passage: float
    known_at: float


class Reranking:
    """Reranks within the time that is left.

    Args:
        timeout: Of one call, when the deadline is not shorter.
    """

    def __init__(self, *, reranker: Reranker, clock: Clock, timeout: timedelta) -> None:
        self._reranker = reranker
        self._clock = clock
        self._timeout_s = timeout.total_seconds()
        self._paces: OrderedDict[tuple[str, str], _Pace] = OrderedDict()  # by tenant and model

    async def run(
        self, plan: Plan, rerank: Rerank, candidates: Sequence[Candidate], progress: Progress
    ) -> list[Candidate]:
        """The candidates by the model's scores, or as they are and the reason.

        Raises:
            NotFound: The request names a model that is not there. One that the knowledge base names is
                only given up.
        """
        if not candidates:
            return []
        left_s = remaining_s()
        bound_s = self._timeout_s if left_s is None else min(self._timeout_s, left_s * _SHARE)
        model = rerank.model
        count = self._that_fit(model, len(candidates), min(plan.top_k, len(candidates)), bound_s)
        if not count:
            progress.give_up(
                ReasonCode.DEADLINE,
                f"{_milliseconds(left_s)} were left, too few to rerank by {model}",
                instead=_ORDER_OF_SEARCH,
            )
            return list(candidates)
        looked_at = candidates[:count]
        try:
            with progress.stage("rerank"):
                scores = await self._scores(model, plan.query.text, looked_at, bound_s)
        except ServiceError as error:
            if isinstance(error, NotFound) and plan.query.rerank is not None:
                raise
            late = isinstance(error, DeadlineExceeded) and bound_s < self._timeout_s
            progress.give_up(
                ReasonCode.DEADLINE if late else ReasonCode.RERANK_UNAVAILABLE,
                f"{model} did not rerank in the {_milliseconds(bound_s)} that it had"
                if late
                else f"{model} did not rerank ({error.message})",
                instead=_ORDER_OF_SEARCH,
            )
            return list(candidates)
        if count < len(candidates):
            progress.give_up(
                ReasonCode.DEADLINE,
                f"{_milliseconds(left_s)} were left, too few to rerank {len(candidates)} chunks by {model}",
                instead=f"the best {count} were",
            )
        by_id = {candidate.hit.id: candidate for candidate in looked_at}
        scored = in_order((c.hit.id, score) for c, score in zip(looked_at, scores, strict=True))
        return [Candidate(by_id[id_].hit, score, by_id[id_].similarity) for id_, score in scored]

    async def _scores(
        self, model: str, query: str, candidates: Sequence[Candidate], bound_s: float
    ) -> Sequence[float]:
        started = self._clock.monotonic()
        passages = [candidate.hit.text for candidate in candidates]
        try:
            return await self._reranker.rerank(model, query, passages, timeout=timedelta(seconds=bound_s))
        finally:
            self._remember(model, (self._clock.monotonic() - started) / len(passages))

    def _that_fit(self, model: str, count: int, least: int, bound_s: float) -> int:
        if bound_s < _LEAST_S:
            return 0
        pace = self._paces.get(_key(model))
        if pace is None or self._clock.monotonic() - pace.known_at > _REMEMBERED_S:
            return count
        while count * pace.seconds_per_passage > bound_s:
            if count == least:
                return 0
            count = max(least, count // 2)
        return count

    def _remember(self, model: str, seconds_per_passage: float) -> None:
        self._paces[_key(model)] = _Pace(seconds_per_passage, self._clock.monotonic())
        self._paces.move_to_end(_key(model))
        if len(self._paces) > _MAX_MODELS:
            self._paces.popitem(last=False)


def _key(model: str) -> tuple[str, str]:
    return current_caller().tenant, model


def _milliseconds(seconds: float | None) -> str:
    return f"{max(0, round((seconds or 0) * 1000))} ms"
