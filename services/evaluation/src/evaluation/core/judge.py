"""Asks a judge model about claims: remembered answers, bounded calls."""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable

from evaluation.core import prompts
from evaluation.core.model import Usage
from evaluation.core.ports import Answer, JudgeModel, Question

CALLS_PER_CLAIM = 2
"""At most: one where the judge is clear about it."""


class Memory:
    """Answers that are known already, the last used ones; keys are hashes, so no text is kept."""

    def __init__(self, *, most: int) -> None:
        self._most = most
        self._known: OrderedDict[bytes, float] = OrderedDict()

    def get(self, key: bytes) -> float | None:
        """What was answered."""
        if key in self._known:
            self._known.move_to_end(key)
        return self._known.get(key)

    def put(self, key: bytes, p_yes: float) -> None:
        """Remembers an answer; the one not used for longest is forgotten if there are too many."""
        self._known[key] = p_yes
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)


class Judge:
    """A judge model for one run.

    Args:
        model: Who is asked.
        memory: Shared by all runs.
        max_calls: Questions that are sent for this run; known answers cost nothing.
        parallel: Requests at a time.
        asked: Told of each answer that came.
    """

    def __init__(
        self,
        *,
        model: JudgeModel,
        memory: Memory,
        max_calls: int,
        parallel: int = 4,
        asked: Callable[[Answer], None] = lambda _: None,
    ) -> None:
        self._model = model
        self._memory = memory
        self._left = max_calls
        self._slots = asyncio.Semaphore(parallel)
        self._asked = asked
        self.usage = Usage(model_config=model.name)

    async def supports(self, evidence: str, claim: str) -> float | None:
        """P(yes) that the evidence supports the claim; None: no call is left.

        Small models say what they believe of a claim whatever the evidence says. Where the answer is not
        clear they are asked without any too, if a call is left, and half of those log-odds are taken off.
        """
        p_yes = await self._ask(prompts.supported(evidence, claim))
        if p_yes is None or abs(_log_odds(p_yes)) >= _CLEAR:
            return p_yes
        believed = await self._ask(prompts.believed(claim))
        return p_yes if believed is None else _less_belief(p_yes, believed)

    async def relevant(self, query: str, passage: str) -> float | None:
        """P(yes) that the passage helps to answer the query; None as above."""
        return await self._ask(prompts.relevant(query, passage))

    async def answers(self, question: str, answer: str) -> float | None:
        """P(yes) that the answer is about the question; None as above."""
        return await self._ask(prompts.answers(question, answer))

    async def _ask(self, question: Question) -> float | None:
        key = self._key(question)
        known = self._memory.get(key)
        if known is not None:
            self.usage.cached += 1
            return known
        if self._left == 0:
            return None
        self._left -= 1
        return await self._send(question, key)

    def _key(self, question: Question) -> bytes:
        text = "\0".join((self._model.fingerprint, prompts.PROMPTS, repr(question)))
        return hashlib.sha256(text.encode()).digest()

    async def _send(self, question: Question, key: bytes) -> float:
        async with self._slots:
            answer = await self._model.ask(question)
        self._memory.put(key, answer.p_yes)
        self._asked(answer)
        cost, currency = self._model.cost(answer)
        usage = self.usage
        usage.calls += 1
        usage.input_tokens += answer.input_tokens
        usage.output_tokens += answer.output_tokens
        usage.cost_micros += cost
        usage.currency = currency or usage.currency
        return answer.p_yes


_SURE = 1e-4  # so that log-odds have an end
# Log-odds. Below the first, what the model believes anyway is asked for and taken to be the second at most.
_CLEAR, _MOST_BELIEF, _BELIEF_SHARE = 3.0, 2.0, 0.5


def _less_belief(with_evidence: float, without: float) -> float:
    belief = max(-_MOST_BELIEF, min(_MOST_BELIEF, _log_odds(without)))
    return 1 / (1 + math.exp(_BELIEF_SHARE * belief - _log_odds(with_evidence)))


def _log_odds(share: float) -> float:
    p = min(max(share, _SURE), 1 - _SURE)
    return math.log(p / (1 - p))
