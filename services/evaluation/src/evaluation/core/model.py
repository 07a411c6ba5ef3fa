"""What a run said and found, and what is found out about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Selection = Literal["SAMPLED", "SUSPICIOUS", "ASKED"]
Outcome = Literal["SCORED", "NOTHING_TO_SCORE", "FAILED", "EXPIRED"]
Verdict = Literal["SUPPORTED", "UNSUPPORTED", "NO_CLAIM", "UNCHECKED"]

FAITHFULNESS, GROUNDING = "faithfulness", "grounding"
RETRIEVAL_RELEVANCE, ANSWER_RELEVANCE = "retrieval_relevance", "answer_relevance"
SCORES = (FAITHFULNESS, GROUNDING, RETRIEVAL_RELEVANCE, ANSWER_RELEVANCE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One retrieved chunk; `number`: what the answer cites it by."""

    number: int
    knowledge_base: str
    chunk: str
    document: str
    title: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A query, and the numbers of what it found, best first."""

    query: str
    found: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run as its log tells of it. `answer` is empty if it has none; `question` if it is not known."""

    run: str
    team: str
    question: str
    answer: str
    chunks: Mapping[int, Chunk]
    searches: Sequence[Search]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run to be scored, and for whom."""

    run: str
    tenant: str
    user: str
    team: str
    selection: Selection
    suspicions: tuple[str, ...] = ()
    traceparent: str = ""
    attempt: int = 1
    ended: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceScore:
    """What was found out about one sentence; `faithfulness` is None if no judge looked."""

    start: int
    end: int
    verdict: Verdict
    grounding: float
    faithfulness: float | None = None
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkScore:
    """Relevance of a chunk to the query that found it."""

    chunk: Chunk
    relevance: float
    judged: bool


@dataclass(slots=True, kw_only=True)
class Usage:
    """What a judge was asked for one run."""

    model_config: str = ""
    calls: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_micros: int = 0
    currency: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What was found out about one run. Each score is None where it could not be."""

    outcome: Outcome
    evaluator: Literal["judge", "local"]
    version: str
    reason: str = ""
    faithfulness: float | None = None
    grounding: float | None = None
    retrieval_relevance: float | None = None
    answer_relevance: float | None = None
    agreement: float | None = None
    sentences: tuple[SentenceScore, ...] = ()
    chunks: tuple[ChunkScore, ...] = ()
    usage: Usage = field(default_factory=Usage)
    below: tuple[str, ...] = ()

    def named(self) -> list[tuple[str, float | None]]:
        """The scores by their names."""
        return [
            (FAITHFULNESS, self.faithfulness),
            (GROUNDING, self.grounding),
            (RETRIEVAL_RELEVANCE, self.retrieval_relevance),
            (ANSWER_RELEVANCE, self.answer_relevance),
        ]
