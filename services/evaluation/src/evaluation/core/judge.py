"""Asks a judge model about claims: versioned prompts, remembered answers, bounded calls."""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from statistics import fmean

from evaluation.core.model import Usage
from evaluation.core.ports import Answer, JudgeModel, Question

PROMPTS = "2"
"""Version of the prompts below: change it with any of them."""

SUPPORTED = (
    "Passage:\n{evidence}\n\nClaim: {claim}\n\n"
    "According to the passage, is the claim true or false? Answer true or false."
)
TAUGHT_SYSTEM = "You check claims against passages."
# What small models get wrong: the opposite direction, negations, numbers, swapped subjects.
TAUGHT_BY = (
    (
        "In a randomised trial of 412 adults with hypertension, a daily glass of beetroot juice lowered "
        "systolic pressure by 6 mmHg compared with placebo.",
        "Beetroot juice reduces blood pressure in people with hypertension.",
        True,
    ),
    (
        "Mice that lacked the receptor showed a marked decrease in bone density.",
        "Loss of the receptor increases bone density in mice.",
        False,
    ),
    (
        "Vitamin K supplements had no effect on the number of fractures.",
        "Vitamin K supplements prevent fractures.",
        False,
    ),
    (
        "When the gene was deleted, T cells no longer released the cytokine.",
        "T cells need the gene to release the cytokine.",
        True,
    ),
    (
        "Sleep apnoea was found in 31% of lorry drivers and in 12% of office workers.",
        "Office workers have sleep apnoea more often than lorry drivers.",
        False,
    ),
    (
        "Of all measures, only the number of steps a day failed to predict the outcome.",
        "The number of steps a day is not associated with the outcome.",
        True,
    ),
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
        """P(yes) that the evidence supports the claim; None: fewer calls are left than it takes.

        It is asked in CALLS_PER_CLAIM ways; the mean of their log-odds counts.
        """
        found = await self._ask(support_questions(evidence, claim))
        return None if found is None else _together(found)

    async def relevant(self, query: str, passage: str) -> float | None:
        """P(yes) that the passage helps to answer the query; None as above."""
        user = RELEVANT.format(query=query, passage=passage)
        found = await self._ask([Question(system=RELEVANT_SYSTEM, user=user)])
        return None if found is None else found[0]

    async def answers(self, question: str, answer: str) -> float | None:
        """P(yes) that the answer is about the question; None as above."""
        user = ANSWERS.format(question=question, answer=answer)
        found = await self._ask([Question(system=ANSWERS_SYSTEM, user=user)])
        return None if found is None else found[0]

    async def _ask(self, questions: Sequence[Question]) -> list[float] | None:
        """P(yes) of each; None if a call is missing for any: then none is made."""
        keys = [self._key(question) for question in questions]
        known = [self._memory.get(key) for key in keys]
        calls = known.count(None)
        if calls > self._left:
            self.skipped += 1
            return None
        self._left -= calls
        self.usage.cached += len(known) - calls
        return [
            await self._send(question, key) if p_yes is None else p_yes
            for question, key, p_yes in zip(questions, keys, known, strict=True)
        ]

    def _key(self, question: Question) -> bytes:
        text = "\0".join((self._model.fingerprint, PROMPTS, repr(question)))
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


def support_questions(evidence: str, claim: str) -> tuple[Question, ...]:
    """Whether the evidence supports the claim, asked in several ways: CALLS_PER_CLAIM."""
    user, words = SUPPORTED.format(evidence=evidence, claim=claim), ("true", "false")
    examples = tuple(
        (SUPPORTED.format(evidence=passage, claim=said), verdict) for passage, said, verdict in TAUGHT_BY
    )
    return (
        Question(user=user, words=words),
        Question(system=TAUGHT_SYSTEM, user=user, words=words, examples=examples),
    )


CALLS_PER_CLAIM = len(support_questions("", ""))
_SURE = 1e-4  # so that one certain answer does not outvote all others


def _together(shares: Sequence[float]) -> float:
    log_odds = fmean(math.log(p / (1 - p)) for p in (min(max(p, _SURE), 1 - _SURE) for p in shares))
    return 1 / (1 + math.exp(-log_odds))
