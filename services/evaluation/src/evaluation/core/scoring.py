"""The scores of one run."""

import asyncio
from collections.abc import Coroutine, Sequence
from statistics import fmean
from typing import Any, TypeVar

import numpy as np

from evaluation.core import prompts
from evaluation.core.claims import Sentence, sentences
from evaluation.core.grounding import GROUNDED, Closest, Evidence
from evaluation.core.judge import Judge
from evaluation.core.model import Chunk, ChunkScore, Record, Scores, SentenceScore, Usage, Verdict
from evaluation.core.ports import Embed

T = TypeVar("T")

ARITHMETIC = "1"
"""Version of what is done with similarities and answers: change it with any of it."""

SUPPORTED = 0.5
MAX_CHUNKS = 50  # whose relevance is looked at
_EXCERPT_CHARS = 1_500  # of evidence that a judge is shown: about 400 tokens
_ANSWER_CHARS = 2_000


def version(judged: bool) -> str:
    """What is stored with the scores."""
    return f"{ARITHMETIC}.{prompts.PROMPTS}" if judged else ARITHMETIC


async def score(record: Record, *, embed: Embed, judge: Judge | None) -> Scores:
    """Scores a run; without a judge by the local method.

    Raises:
        ServiceError: A model does not answer; nothing is known then.
    """
    found = sentences(record.answer)
    evidence = await Evidence.of(record.chunks, embed)
    claims = [sentence for sentence in found if sentence.claim]
    closest = await _closest(record, claims, evidence, embed)
    if judge is not None:
        asked = sum(not near.is_off_topic for near in closest)
        judge.plan(asked + 1 + min(len(record.chunks), MAX_CHUNKS))
    # Claims first, then the answer, then the chunks: where calls are short, they are spent in this order.
    scored = await _together(
        [_claim(one, near, evidence, judge) for one, near in zip(claims, closest, strict=True)]
    )
    relevant = await _answer_relevance(record, judge)
    chunks = await _chunks(record, embed=embed, judge=judge)
    by_start = {one.start: one for one in scored}
    faithful = [one.faithfulness for one in scored if one.faithfulness is not None]
    both = [(one.faithfulness >= SUPPORTED) == (one.grounding >= GROUNDED) for one in scored
            if one.faithfulness is not None]  # fmt: skip
    something = bool(scored or chunks) and bool(record.answer)
    return Scores(
        outcome="SCORED" if something else "NOTHING_TO_SCORE",
        evaluator="local" if judge is None else "judge",
        version=version(judge is not None),
        faithfulness=fmean(value >= SUPPORTED for value in faithful) if faithful else None,
        grounding=fmean(one.grounding for one in scored) if scored else None,
        retrieval_relevance=_mean_relevance(chunks),
        answer_relevance=relevant,
        agreement=fmean(both) if both else None,
        sentences=tuple(by_start.get(s.start) or _no_claim(s) for s in found),
        chunks=tuple(chunks),
        usage=Usage() if judge is None else judge.usage,
    )


async def _closest(
    record: Record, claims: Sequence[Sentence], evidence: Evidence, embed: Embed
) -> list[Closest]:
    if not claims:
        return []
    vectors = await embed([one.claim for one in claims])
    everything = sorted(record.chunks)
    return [
        evidence.closest(one.claim, vector, [n for n in one.cites if n in record.chunks] or everything)
        for one, vector in zip(claims, vectors, strict=True)
    ]


async def _claim(one: Sentence, near: Closest, evidence: Evidence, judge: Judge | None) -> SentenceScore:
    numbers = tuple(dict.fromkeys(evidence.sentences[i].number for i in near.ranked))
    verdict: Verdict = "UNCHECKED"
    faithfulness: float | None = None
    if near.is_off_topic:
        verdict = "UNSUPPORTED"
        # The judge's score of it, so to speak: it would say no, and need not be asked.
        faithfulness = None if judge is None else 0.0
    elif judge is not None:
        excerpt = evidence.excerpt(near, most_chars=_EXCERPT_CHARS)
        faithfulness = await judge.supports(excerpt, one.claim)
        if faithfulness is not None:
            verdict = "SUPPORTED" if faithfulness >= SUPPORTED else "UNSUPPORTED"
    return SentenceScore(
        start=one.start,
        end=one.end,
        verdict=verdict,
        grounding=near.score,
        faithfulness=faithfulness,
        evidence=numbers,
    )


def _no_claim(one: Sentence) -> SentenceScore:
    return SentenceScore(start=one.start, end=one.end, verdict="NO_CLAIM", grounding=0.0)


async def _answer_relevance(record: Record, judge: Judge | None) -> float | None:
    if judge is None or not record.question or not record.answer:
        return None
    return await judge.answers(record.question, record.answer[:_ANSWER_CHARS])


async def _chunks(record: Record, *, embed: Embed, judge: Judge | None) -> list[ChunkScore]:
    """Each chunk against the query that found it first; the best of each search first."""
    pairs: dict[int, str] = {}
    for search in record.searches:
        for number in search.found:
            if number in record.chunks and len(pairs) < MAX_CHUNKS:
                pairs.setdefault(number, search.query)
    if not pairs:
        return []
    queries = list(dict.fromkeys(pairs.values()))
    asked = await embed(queries, query=True)
    passages = await embed([record.chunks[number].text for number in pairs])
    similar = [
        float(np.clip(passage @ asked[queries.index(query)], 0.0, 1.0))
        for passage, query in zip(passages, pairs.values(), strict=True)
    ]

    async def one(chunk: Chunk, query: str, similarity: float) -> ChunkScore:
        judged = None if judge is None else await judge.relevant(query, chunk.text[:_EXCERPT_CHARS])
        if judged is None:
            return ChunkScore(chunk=chunk, relevance=similarity, judged=False)
        return ChunkScore(chunk=chunk, relevance=judged, judged=True)

    return await _together(
        [one(record.chunks[n], q, s) for (n, q), s in zip(pairs.items(), similar, strict=True)]
    )


def _mean_relevance(chunks: Sequence[ChunkScore]) -> float | None:
    """By one method: a mean of answers and similarities would be neither."""
    judged = [one.relevance for one in chunks if one.judged]
    if judged:
        return fmean(judged)
    return fmean(one.relevance for one in chunks) if chunks else None


async def _together(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results in order; the first failure cancels the others and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]
