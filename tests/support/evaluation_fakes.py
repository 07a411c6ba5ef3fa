"""What scoring needs, without models: vectors of words, and a judge that says what a test wants."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np

from evaluation.core.grounding import content_words
from evaluation.core.model import Chunk, Job, Record, Scores, Search
from evaluation.core.ports import (
    Answer,
    JudgeModel,
    Likelihood,
    Policy,
    Prompt,
    Question,
    Spent,
    Text,
    Vectors,
)

_DIMENSION = 512


async def embed(texts: Sequence[str], *, query: bool = False) -> Vectors:
    """A place for each word: texts that share words are near one another."""
    vectors = np.zeros((len(texts), _DIMENSION), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for word in content_words(text):
            row[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4]) % _DIMENSION] += 1.0
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.float32(1e-9)), dtype=np.float32)


@dataclass
class FakeJudge:
    """Says what `says` returns for the user's part of a question, and has the likelihoods of `likely`."""

    says: Callable[[str], float] = lambda user: 1.0
    name: str = "acme/judge"
    fingerprint: str = "judge-1"
    likely: Callable[[str, str], float] | None = None
    opposite: str = "The opposite."
    asked: list[str] = field(default_factory=list)
    error: Exception | None = None

    async def ask(self, question: Question) -> Answer:
        """See JudgeModel."""
        self.asked.append(question.user)
        if self.error is not None:
            raise self.error
        return Answer(p_yes=self.says(question.user), input_tokens=100, output_tokens=1)

    @property
    def has_likelihoods(self) -> bool:
        """See JudgeModel."""
        return self.likely is not None

    async def write(self, prompt: Prompt, *, most_tokens: int) -> Text:
        """See JudgeModel."""
        self.asked.append(prompt.user)
        return Text(text=self.opposite, input_tokens=100, output_tokens=10)

    async def likelihood(self, prompt: Prompt, text: str) -> Likelihood:
        """See JudgeModel."""
        self.asked.append(f"{prompt.user}: {text}")
        nats = None if self.likely is None else self.likely(prompt.user, text)
        return Likelihood(nats=nats, input_tokens=100, output_tokens=0)

    def cost(self, spent: Spent) -> tuple[int, str]:
        """See JudgeModel."""
        return 2, "EUR"

    @asynccontextmanager
    async def lease(self, tenant: str, name: str) -> AsyncIterator[JudgeModel]:
        """See Judges."""
        yield self


@dataclass
class FakeRuns:
    """Runs that wait, and what was stored of them."""

    records: dict[str, Record] = field(default_factory=dict)
    waiting: list[Job] = field(default_factory=list)
    stored: list[tuple[Job, Scores]] = field(default_factory=list)
    claims: int = 0
    error: Exception | None = None

    async def claim(self, *, most: int) -> tuple[Sequence[Job], int]:
        """See Runs."""
        self.claims += 1
        if self.error is not None:
            raise self.error
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken, len(self.waiting)

    async def record(self, run: str) -> Record:
        """See Runs."""
        return self.records[run]

    async def put(self, job: Job, scores: Scores) -> bool:
        """See Runs."""
        new = all(job.run != known.run for known, _ in self.stored)
        if new:
            self.stored.append((job, scores))
        return new


@dataclass
class FakeTeams:
    """One policy for all."""

    wanted: Policy = field(default_factory=Policy)

    def policy(self, tenant: str, team: str) -> Policy:
        """See Teams."""
        return self.wanted

    def revision(self, tenant: str, team: str) -> str | None:
        """See Teams."""
        return "r1"


@dataclass
class FakeReport:
    """Remembers what it was told."""

    told: list[tuple[Job, Scores]] = field(default_factory=list)

    def scored(self, job: Job, scores: Scores, *, seconds: float) -> None:
        """See Report."""
        self.told.append((job, scores))


def chunk(number: int, text: str, title: str = "handbook.md") -> Chunk:
    return Chunk(
        number=number,
        knowledge_base="knowledgeBases/docs",
        chunk=f"c{number}",
        document="knowledgeBases/docs/documents/d1",
        title=title,
        text=text,
    )


def record(
    answer: str, *passages: str, run: str = "runs/r1", query: str = "How long is the warranty?"
) -> Record:
    chunks = {number: chunk(number, text) for number, text in enumerate(passages, 1)}
    return Record(
        run=run,
        team="helpdesk",
        question=query,
        answer=answer,
        chunks=chunks,
        searches=[Search(query=query, found=tuple(chunks))] if chunks else [],
    )


def job(run: str = "runs/r1", *, attempt: int = 1) -> Job:
    return Job(run=run, tenant="acme", user="ada", team="helpdesk", selection="SAMPLED", attempt=attempt)
