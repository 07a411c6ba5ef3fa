"""The words of tuning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum

from retrieval.core.index import BuiltIndex
from retrieval.core.model import IndexType, KnowledgeBase, Place, Segments

K = 10  # recall at


class TuningState(IntEnum):
    """Where a tuning stands. Same numbers as on the wire."""

    PENDING = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4


class Kind(IntEnum):
    """How much is to be done."""

    CHECK = 1  # only if the recall has drifted or the segments are others
    TUNE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One search parameter. Recall is a share, latencies are seconds."""

    index: BuiltIndex
    search_params: Mapping[str, int]
    recall: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What was measured, and which parameters it chose.

    Attributes:
        collection: On which; the parameters hold for no other.
        recall: Of the chosen, on queries that the choice did not see.
        queries: Those that chose and those that promise.
    """

    collection: str
    index: BuiltIndex
    search_params: Mapping[str, int]
    chunk_count: int
    segments: int
    queries: int
    real_queries: int
    recall: float
    p50_s: float
    p99_s: float
    curve: tuple[CurvePoint, ...]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The newest tuning of a knowledge base.

    Attributes:
        measured: The last that succeeded; while another waits or runs, still the former one.
    """

    state: TuningState
    message: str
    finish_time: datetime | None = None
    measured: Measurement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is measured.

    Attributes:
        target: Recall, a share.
        search_params: Prescribed by the policy; empty: to be chosen.
    """

    tenant: str
    knowledge_base: str
    place: Place
    model_fingerprint: str
    target: float
    search_params: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A tuning that one worker may do until the lease ends.

    Attributes:
        kind: How much is to be done.
        reason: Why.
        attempts: Which try this is, from 1.
        shadow: A collection that a former try has left.
        former: The collection that was served before a swap that is not finished.
    """

    tenant: str
    knowledge_base: str
    token: str
    kind: Kind
    reason: str
    attempts: int
    shadow: str = ""
    former: str = ""
    measured: Measurement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A knowledge base, and what is known about its index.

    Attributes:
        policy: Its index policy as it was when it was last tuned; empty: never.
        check_time: When it is to be looked at again.
    """

    knowledge_base: KnowledgeBase
    chunks: int
    state: TuningState | None
    measured: Measurement | None
    policy: str
    check_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TuningLimits:
    """Bounds of a tuning.

    Attributes:
        queries: Those that choose, a third, and those that promise.
        check_queries: Of a check.
        batch: Queries in one call of the store.
        latency_queries: Timed in each round, for each point.
        latency_budget: All rounds together; one round is always made.
        min_chunks: With fewer, nothing is tuned by itself.
        index_wait: How long a new index may take.
        steady_wait: How long Milvus may take to put finished segments into use before they are measured.
        look_again: After a tuning, when Milvus may have put small segments together.
        settle: After this, no replica knows a former collection any more.
    """

    queries: int = 5_000
    check_queries: int = 200
    batch: int = 100
    latency_queries: int = 20
    rounds: int = 5
    latency_budget: timedelta = timedelta(seconds=30)
    min_chunks: int = 2_000
    lease: timedelta = timedelta(seconds=60)
    poll: timedelta = timedelta(seconds=2)
    sweep: timedelta = timedelta(seconds=60)
    check_every: timedelta = timedelta(hours=6)
    look_again: timedelta = timedelta(minutes=10)
    retry_after: timedelta = timedelta(hours=1)
    max_attempts: int = 3
    index_wait: timedelta = timedelta(hours=1)
    steady_wait: timedelta = timedelta(minutes=10)
    settle: timedelta = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Knob:
    """The search parameter of a type of index, and its bounds."""

    name: str
    low: int
    high: int


_MAX_EF = 4_096


def knob_of(index: BuiltIndex) -> Knob | None:
    """None: it has none, and is exact."""
    if index.type in (IndexType.HNSW, IndexType.HNSW_SQ):
        return Knob("ef", K, _MAX_EF)
    if index.type in (IndexType.IVF_FLAT, IndexType.IVF_SQ8):
        return Knob("nprobe", 1, index.build_params.get("nlist", 128))
    return None


def segment_rows(segments: Segments | None, chunks: int) -> int:
    """Rows of one segment as they are on average; Lite does not say."""
    if segments is None or not segments.count:
        return chunks
    return max(1, segments.rows // segments.count)
