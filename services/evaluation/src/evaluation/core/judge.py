"""Asks a judge model about claims: versioned prompts, remembered answers, bounded calls."""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable

from evaluation.core.model import Usage
from evaluation.core.ports import Answer, JudgeModel

PROMPTS = "1"
"""Version of the prompts below: change it with any of them."""

SUPPORTED_SYSTEM = (
    "You are a strict fact checker. You are given a passage and a claim. Answer yes only if the passage says "
    "that the claim is true; answer no if the passage contradicts it or says nothing about it. Answer with "
    "one word."
)
SUPPORTED = (
    "Passage:\n{evidence}\n\nClaim: {claim}\n\nIs the claim true according to the passage? Answer yes or no."
)
RELEVANT_SYSTEM = "You judge search results. Answer with one word: yes or no."
RELEVANT = (
    "Question: {query}\n\nPassage:\n{passage}\n\nDoes the passage help to answer the question, yes or no?"
)
ANSWERS_SYSTEM = "You judge answers by their topic, not by their truth. Answer with one word: yes or no."
ANSWERS = "Question: {question}\n\nAnswer:\n{answer}\n\nDoes the answer address the question, yes or no?"


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
        self.skipped = 0

    async def supports(self, evidence: str, claim: str) -> float | None:
        """P(yes) that the evidence supports the claim; None: no call is left for it."""
        return await self._ask(SUPPORTED_SYSTEM, SUPPORTED.format(evidence=evidence, claim=claim))

    async def relevant(self, query: str, passage: str) -> float | None:
        """P(yes) that the passage helps to answer the query; None as above."""
        return await self._ask(RELEVANT_SYSTEM, RELEVANT.format(query=query, passage=passage))

    async def answers(self, question: str, answer: str) -> float | None:
        """P(yes) that the answer is about the question; None as above."""
        return await self._ask(ANSWERS_SYSTEM, ANSWERS.format(question=question, answer=answer))

    async def _ask(self, system: str, user: str) -> float | None:
        text = "\0".join((self._model.fingerprint, PROMPTS, system, user))
        key = hashlib.sha256(text.encode()).digest()
        known = self._memory.get(key)
        if known is not None:
            self.usage.cached += 1
            return known
        if self._left <= 0:
            self.skipped += 1
            return None
        self._left -= 1
        async with self._slots:
            answer = await self._model.ask(system, user)
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
