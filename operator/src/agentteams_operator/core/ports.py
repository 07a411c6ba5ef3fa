"""What the core needs of the world."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Event
from manifests import KnowledgeBase, ModelConfig
from manifests.golden import GoldenQuery
from manifests.golden_questions import GoldenQuestion


class ApiServer(Protocol):
    """The API server, for writing. Reading is the cache's. All raise ApiFailure."""

    async def apply(self, wanted: Mapping[str, Any]) -> Mapping[str, Any]:
        """Server-side apply, with force; the object as it is then."""
        ...

    async def apply_status(self, one: Stored, status: Mapping[str, Any]) -> Mapping[str, Any]:
        """The whole status; the object as it is then."""
        ...

    async def set_finalizers(self, one: Stored, ours: tuple[str, ...]) -> None:
        """Ours, beside those of others."""
        ...

    async def delete(self, key: Key) -> None:
        """That object and what it owns; nothing if it is gone."""
        ...

    async def tell(self, one: Stored, event: Event) -> None:
        """An event about it. Never raises: an event is not worth a failure."""
        ...

    async def secret(self, namespace: str, name: str) -> Mapping[str, bytes]:
        """The values of a Secret, for one use."""
        ...


class ApiFailure(Exception):
    """The API server did not do it.

    Attributes:
        code: HTTP's; 0: it was not reached.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


ProbeReason = Literal["Answered", "BuiltIn", "Refused", "NoAnswer", "ModelNotServed", "BadAnswer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How an endpoint answered.

    Attributes:
        message: What was asked and what came, without a word of the answer.
        dimensions: Of a vector.
    """

    reason: ProbeReason
    message: str
    dimensions: int | None = None

    @property
    def reached(self) -> bool:
        return self.reason in ("Answered", "BuiltIn")


class Endpoints(Protocol):
    """Model endpoints."""

    async def probe(self, config: ModelConfig, secrets: Mapping[tuple[str, str], bytes]) -> Probe:
        """Asks the endpoint; `secrets` by name and key. Never raises for what it answers."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityState:
    """What was last measured with the golden set.

    Attributes:
        reason: As of a condition.
        message: Names each score, its value and its threshold, or why there are none.
        golden_set: What it is called.
        evaluated_at: None: it was not evaluated with this golden set.
        scores: By their names in the status.
    """

    verdict: Literal["Good", "Degraded", "Unknown"]
    reason: str
    message: str
    golden_set: str = ""
    golden_set_sha256: str = ""
    evaluated_at: datetime | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    queries: int = 0
    missing_documents: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexState:
    """What searches go through.

    Attributes:
        tuned_at: When it was measured; None: never.
    """

    type: str
    build_params: Mapping[str, int] = field(default_factory=dict)
    search_params: Mapping[str, int] = field(default_factory=dict)
    recall_percent: float = 0.0
    p50_milliseconds: float = 0.0
    p99_milliseconds: float = 0.0
    tuned_at: datetime | None = None
    tuned_at_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeState:
    """What the retrieval service says of a knowledge base.

    Attributes:
        tuning: Its index is being measured.
        capacity_advice: What to do, since it does not fit, or soon will not; empty if it does.
        index: None: it is not known.
        segments: 0: the store does not say.
        memory_bytes: What it takes of Milvus' memory.
        milvus_memory_bytes: All that there is; 0: nobody says.
        quality: None: it is not watched.
    """

    model: str
    dimensions: int
    fingerprint: str
    deployment: str
    documents: int
    chunks: int
    pending: int
    failed: int
    last_error: str = ""
    tuning: bool = False
    tuning_failure: str = ""
    capacity_advice: str = ""
    index: IndexState | None = None
    segments: int = 0
    memory_bytes: int = 0
    milvus_memory_bytes: int = 0
    quality: QualityState | None = None


class KnowledgeRefused(Exception):
    """The retrieval service refuses the spec; the text says why."""


class KnowledgeUnavailable(Exception):
    """The retrieval service, or what it needs, does not answer; the text says which."""


class Knowledge(Protocol):
    """The retrieval service. All raise KnowledgeUnavailable."""

    async def ensure(self, manifest: KnowledgeBase, allowed: Sequence[str] = ()) -> KnowledgeState:
        """Creates or updates it; other namespaces that may search it. Raises KnowledgeRefused too."""
        ...

    async def get(self, namespace: str, name: str) -> KnowledgeState | None:
        """As it is; None: it is not there."""
        ...

    async def set_golden_set(
        self, namespace: str, name: str, *, queries: Sequence[GoldenQuery], called: str
    ) -> str:
        """In place of the former one; its hash. Raises KnowledgeRefused too."""
        ...

    async def delete(self, namespace: str, name: str) -> None:
        """Deletes it with all its documents; nothing if it is not there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunScores:
    """Means over the sampled runs of one revision of a team.

    Attributes:
        means: By their names in the manifest; one that no run has is missing.
        newest_at: When the last of the scores was stored.
    """

    runs: int
    means: Mapping[str, float]
    newest_at: datetime


class ScoresUnavailable(Exception):
    """The session service does not answer; the text says why."""


class Scores(Protocol):
    """The session service."""

    async def by_revision(self, namespace: str, team: str, *, window: timedelta) -> Mapping[str, RunScores]:
        """Those of a team whose runs were scored within the window. Raises ScoresUnavailable."""
        ...


class RunLimitsUnavailable(Exception):
    """The session service did not take the limit; the text says why."""


class RunLimits(Protocol):
    """The session service."""

    async def tell(self, namespace: str, most: int | None, *, source: str) -> None:
        """How many runs the namespace may have at a time; None: nothing is said of it.

        Raises:
            RunLimitsUnavailable: It may be told or not; tell it again.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenScores:
    """What came of a golden set. `means`: by their names in the manifest, as far as there are some."""

    revision: str
    evaluated_at: datetime
    means: Mapping[str, float] = field(default_factory=dict)
    failed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenState:
    """A team's golden set that it is asked by schedule, and how that gets on.

    Attributes:
        running: It is being asked; `done` of its questions are answered.
        failures: In a row, with the last one's words.
        newest: None: it was not asked yet.
        former: The newest of another revision.
    """

    name: str
    sha256: str
    questions: int
    running: bool = False
    done: int = 0
    failures: int = 0
    failure: str = ""
    newest: GoldenScores | None = None
    former: GoldenScores | None = None


class TeamGoldenSets(Protocol):
    """The session service. Both raise ScoresUnavailable."""

    async def get(self, namespace: str, team: str) -> GoldenState | None:
        """As it is; None: it has none."""
        ...

    async def put(
        self, namespace: str, team: str, *, name: str, questions: Sequence[GoldenQuestion]
    ) -> GoldenState:
        """In place of the former one. Raises KnowledgeRefused too."""
        ...
