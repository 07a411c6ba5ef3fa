"""What a question, a run and its answer are to the gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from servicekit.errors import ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a request asks, checked.

    Attributes:
        team: Name of the team, without prefix; `namespace/name` of another namespace's.
        session: Stored conversation to go on with, `sessions/…`; empty: a new one.
        messages: The question last.
        stream: Whether the answer is wanted piece by piece.
        include_usage: Whether a stream ends with a chunk of token counts.
        answer_schema: JSON schema that the answer must satisfy; None: as the team says.
        wait_scores: How long the answer's scores are waited for, after the run; zero: not at all.
    """

    team: str
    session: str
    messages: tuple[Message, ...]
    stream: bool
    include_usage: bool
    answer_schema: Mapping[str, Any] | None = None
    wait_scores: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A team as the orchestrator sees it."""

    name: str
    description: str
    mode: str
    members: tuple[str, ...]
    revision: str
    ready: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that was accepted: `runs/…` of `sessions/…`; `namespace`: whose team works on it, if not ours."""

    name: str
    session: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of a text that the team itself writes; `offset` in characters."""

    message: str
    offset: int
    text: str


@dataclass(frozen=True, slots=True)
class ModelCallEnded:
    """The model has ended the text that it was writing for the team itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A piece of evidence that the answer rests on; `origin` is model or attributed."""

    number: int
    document: str
    document_title: str
    chunk: str
    text: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The team's answer, whole and stored."""

    text: str
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a run used."""

    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    searches: int = 0
    searches_saved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Wall time of one stage of a turn."""

    name: str
    duration: timedelta
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The run's end; `state` is succeeded, failed or cancelled."""

    state: str
    error: ServiceError | None = None
    usage: Usage = Usage()
    stages: tuple[Stage, ...] = ()
    sequence: int = 0  # of the event that said so


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """A sentence that the evidence does not support.

    Attributes:
        start: Where it begins in the answer, in characters; `end` is exclusive.
        faithfulness: Probability that it is supported, as a judge says; None: no judge looked.
        grounding: How much it resembles the evidence, 0 to 1.
        evidence: Numbers of the evidence that it was compared with.
    """

    start: int
    end: int
    faithfulness: float | None
    grounding: float
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What was found out about an answer (docs/evaluation.md).

    Attributes:
        outcome: scored, nothing_to_score, failed (`reason` says why) or expired.
        values: Scores by their names, 0 to 1; only those that there are.
        below: Names of those that are below the team's thresholds.
    """

    outcome: str
    evaluator: str
    version: str
    reason: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    below: tuple[str, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NoScores:
    """Why there are none: not_chosen (never), not_yet, or unavailable (`reason` says why)."""

    missing: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """A run as it is stored. Times as RFC 3339 writes them; empty: not yet."""

    name: str
    session: str
    team: str
    state: str
    create_time: str
    end_time: str
    error: ServiceError | None
    usage: Usage
    stages: tuple[Stage, ...]
    scores: Scores | NoScores


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message of a stored conversation; `scores` of an answer that was scored."""

    name: str
    role: str
    content: str
    run: str
    create_time: str
    citations: tuple[Citation, ...]
    scores: Scores | None


@dataclass(frozen=True, slots=True)
class PersonAsked:
    """The run needs a person; `what` says for what."""

    call_id: str
    what: str


@dataclass(frozen=True, slots=True)
class PersonAnswered:
    """It has its answer, or goes on without."""

    call_id: str


RunItem = TextPiece | ModelCallEnded | Answer | RunEnded | PersonAsked | PersonAnswered
