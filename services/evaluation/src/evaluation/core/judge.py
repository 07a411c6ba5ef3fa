"""Asks a judge model about claims: remembered answers, bounded calls."""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from evaluation.core import prompts
from evaluation.core.model import Usage
from evaluation.core.ports import JudgeModel, Question, Spent

S = TypeVar("S", bound=Spent)

_CALLS_FOR_LEAD = 4
CALLS_PER_CLAIM = 1 + _CALLS_FOR_LEAD
"""At most: one where the judge is clear about it, or has no likelihoods."""
_MOST_TOKENS = 160  # of an opposite: four times a long sentence


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
        max_calls: Calls that are made for this run; known answers cost nothing.
        parallel: Requests at a time.
        asked: Told of each call that was answered.
    """

    def __init__(
        self,
        *,
        model: JudgeModel,
        memory: Memory,
        max_calls: int,
        parallel: int = 4,
        asked: Callable[[Spent], None] = lambda _: None,
    ) -> None:
        self._model = model
        self._memory = memory
        self._left = max_calls
        self._planned = 0
        self._slots = asyncio.Semaphore(parallel)
        self._asked = asked
        self.usage = Usage(model_config=model.name)

    def plan(self, questions: int) -> None:
        """So many questions come: what makes single answers surer leaves them their calls."""
        self._planned = questions

    async def supports(self, evidence: str, claim: str) -> float | None:
        """P(yes) that the evidence supports the claim; None: no call is left.

        Small models do not notice well that evidence contradicts a claim, but they are less likely to write
        the claim then. Where the answer is not clear, that decides with it, if the model has likelihoods and
        enough calls are left.
        """
        p_yes = await self._ask(prompts.supported(evidence, claim))
        if p_yes is None or abs(_log_odds(p_yes)) >= _CLEAR:
            return p_yes
        lead = await self._lead(evidence, claim)
        return p_yes if lead is None else _moved(p_yes, lead)

    async def relevant(self, query: str, passage: str) -> float | None:
        """P(yes) that the passage helps to answer the query; None as above."""
        return await self._ask(prompts.relevant(query, passage))

    async def answers(self, question: str, answer: str) -> float | None:
        """P(yes) that the answer is about the question; None as above."""
        return await self._ask(prompts.answers(question, answer))

    async def _ask(self, question: Question) -> float | None:
        self._planned -= 1
        key = self._key(question)
        known = self._recall(key)
        if known is not None:
            return known
        if self._left == 0:
            return None
        self._left -= 1
        answer = await self._spend(self._model.ask(question))
        self._memory.put(key, answer.p_yes)
        return answer.p_yes

    async def _lead(self, evidence: str, claim: str) -> float | None:
        """How much likelier the claim is than its opposite, and than it was before the evidence was read.

        In nats; the lesser of the two. What is true anyway is also likely where the evidence is about
        something else, but then not likelier than before. None: that cannot be had.
        """
        key = self._key(prompts.conclusion(evidence), claim)
        known = self._recall(key)
        if known is not None:
            return known
        spare = self._left - max(0, self._planned)
        if spare < _CALLS_FOR_LEAD or not self._model.has_likelihoods:
            return None
        self._left -= _CALLS_FOR_LEAD
        lead, calls = await self._compared(evidence, claim)
        self._left += _CALLS_FOR_LEAD - calls
        if lead is not None:
            self._memory.put(key, lead)
        return lead

    async def _compared(self, evidence: str, claim: str) -> tuple[float | None, int]:
        """The lead, and how many calls it took."""
        unread = await self._likelihood(prompts.NOTHING, claim)
        if unread is None:
            return None, 1
        written = await self._spend(self._model.write(prompts.opposite(claim), most_tokens=_MOST_TOKENS))
        if written.text in ("", claim):
            return 0.0, 2  # there is nothing to compare with: the answer stays as it was
        # One after the other: the evidence, which they share, is in the prompt cache then.
        read = await self._likelihood(evidence, claim)
        if read is None:
            return None, 3
        contrary = await self._likelihood(evidence, written.text)
        return None if contrary is None else read - max(unread, contrary), 4

    async def _likelihood(self, evidence: str, text: str) -> float | None:
        return (await self._spend(self._model.likelihood(prompts.conclusion(evidence), text))).nats

    def _key(self, *asked: object) -> bytes:
        text = "\0".join((self._model.fingerprint, prompts.PROMPTS, repr(asked)))
        return hashlib.sha256(text.encode()).digest()

    def _recall(self, key: bytes) -> float | None:
        known = self._memory.get(key)
        if known is not None:
            self.usage.cached += 1
        return known

    async def _spend(self, call: Awaitable[S]) -> S:
        async with self._slots:
            spent = await call
        self._asked(spent)
        cost, currency = self._model.cost(spent)
        usage = self.usage
        usage.calls += 1
        usage.input_tokens += spent.input_tokens
        usage.output_tokens += spent.output_tokens
        usage.cost_micros += cost
        usage.currency = currency or usage.currency
        return spent


_SURE = 1e-4  # so that log-odds have an end
# Log-odds: an answer beyond the first is clear; a lead of one nat is worth the second, and all of a lead the
# third at most. Chosen on the train split (docs/evaluation.md).
_CLEAR, _LEAD_SHARE, _MOST_LEAD = 2.0, 0.3, 3.0


def _moved(p_yes: float, lead: float) -> float:
    by = max(-_MOST_LEAD, min(_MOST_LEAD, _LEAD_SHARE * lead))
    return 1 / (1 + math.exp(-_log_odds(p_yes) - by))


def _log_odds(share: float) -> float:
    p = min(max(share, _SURE), 1 - _SURE)
    return math.log(p / (1 - p))
