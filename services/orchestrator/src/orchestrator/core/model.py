"""What the orchestrator knows: messages, evidence, the events of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np
import numpy.typing as npt

from orchestrator.core.chat import ToolCall
from orchestrator.core.totals import Summary, Usage
from servicekit.errors import ServiceError

Vector = npt.NDArray[np.float32]


Role = Literal["system", "user", "assistant"]


Outcome = Literal["OK", "EMPTY", "DEGRADED", "FAILED"]


Grade = Literal["", "STRONG", "WEAK"]  # empty: nothing was found, or it was not graded


State = Literal["SUCCEEDED", "FAILED", "CANCELLED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A piece of evidence that an answer rests on; `by_model` if the model wrote its mark."""

    number: int
    chunk: "Chunk"
    by_model: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation, whole."""

    role: Role
    content: str
    name: str = ""
    citations: tuple[Citation, ...] = ()
    sequence: int = 0  # within the session; 0 while it is not stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a document.

    Attributes:
        text: With that of its neighbours, where the team wants them.
        score: Compares only within one search.
        similarity: Its cosine to the query, where vectors were compared; not logged.
    """

    id: str
    document: str
    title: str
    text: str
    score: float
    similarity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A chunk with its number in the run."""

    number: int
    chunk: Chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchQuery:
    """What to look for, where and how. `vector` spares the service the embedding."""

    knowledge_base: str
    text: str
    top_k: int
    mode: str | None = None
    min_similarity: float | None = None
    filter: str = ""
    max_per_document: int = 0
    neighbours: int = 0
    vector: Vector | None = None
    model_fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """How a search ended.

    Attributes:
        quarantined: Chunks that guardrails left out.
        revision: What the knowledge base held then.
        grade: How well the chunks fit the query.
        corrected_query: The other words of the second search whose result this is.
        stages: Seconds that the service spent, by stage.
    """

    outcome: Outcome
    reasons: tuple[str, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    ready_documents: int = 0
    quarantined: int = 0
    revision: str = ""
    grade: Grade = ""
    corrected_query: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """A query's vector, of length 1, and the fingerprint of the model that made it."""

    vector: Vector
    model_fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One thing that is remembered of a user. `name`: `memories/{memory}`."""

    name: str
    text: str


# --- the run's log ----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The run was accepted. Written by the session service; `answer_schema` is the caller's, if any.

    `trace_parent` names the run's span, `parent_span` the span that it is a child of; empty: there is none.
    """

    team_revision: str
    answer_schema: Mapping[str, object] | None = None
    trace_parent: str = ""
    parent_span: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResumed:
    """Another attempt began; the calls had begun and not finished, and are made again."""

    attempt: int
    repeated_calls: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberStarted:
    """A member began on a task."""

    call_id: str
    task: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberFinished:
    """A member ended; with `error`, `answer` is what it had until then."""

    call_id: str
    answer: str
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamCalled:
    """A team of another namespace works in a run of its own; with `state`, it has ended."""

    call_id: str
    namespace: str
    team: str
    run: str
    state: State | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedModel:
    """A ModelConfig that could not answer, so that the next one was asked."""

    model_config: str
    error: ServiceError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCallFinished:
    """A model answered: the ModelConfig `model_config`, after those of `fallen_back_from`.

    `cost_micros` are millionths of `currency`, which is empty where no price is known.
    """

    model: str
    input_tokens: int
    output_tokens: int
    seconds: float
    first_token_seconds: float | None
    finish_reason: str
    attempts: int
    step: str
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    model_config: str = ""
    cost_micros: int = 0
    currency: str = ""
    fallen_back_from: tuple[FailedModel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallStarted:
    """A tool was called; `attempt` of the run, if an earlier one had begun the call."""

    call_id: str
    tool: str
    arguments: Mapping[str, object]
    attempt: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallFinished:
    """A tool answered."""

    call_id: str
    result: str
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """A step of a workflow began, for the `attempt`th time."""

    path: str
    kind: str
    input: object
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """A step of a workflow ended; `continued`: with an error that the workflow goes on after."""

    path: str
    output: object
    attempt: int
    error: ServiceError | None = None
    continued: bool = False


Source = Literal["SEARCH", "LEDGER_EXACT", "LEDGER_SEMANTIC", "LEDGER_SESSION"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRetrieved:
    """A search ended, or the ledger answered it."""

    query: str
    knowledge_base: str
    source: Source
    outcome: Outcome
    reason: str
    evidence: Sequence[Evidence]
    step: str
    ready_documents: int
    quarantined: int = 0
    grade: Grade = ""
    corrected_query: str = ""
    knowledge_revision: str = ""
    similarity: float = 0.0
    reused_sequence: int = 0


TaskState = Literal["PENDING", "RUNNING", "DONE", "FAILED", "SKIPPED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeamTask:
    """A task of a list, as the log tells of it."""

    id: str
    text: str
    member: str
    depends_on: tuple[str, ...]
    state: TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class TasksChanged:
    """The task list of a team in mode Tasks, whole."""

    tasks: tuple[TeamTask, ...]

    @property
    def path(self) -> str:
        """Of the team whose list it is: its tasks are named after it."""
        return self.tasks[0].id.rpartition(":")[0]


GuardrailPlace = Literal["INPUT", "OUTPUT", "EVIDENCE", "TOOL_RESULT"]


GuardrailAction = Literal["WARN", "MASK", "BLOCK"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardrailTriggered:
    """A guardrail found something: kinds and counts, never what; `subject` is the chunk or the tool call."""

    guardrail: str
    place: GuardrailPlace
    action: GuardrailAction
    count: int
    kinds: tuple[str, ...]
    subject: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolApproval:
    """A tool call that is not made before somebody allows it."""

    tool: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Something that only a person knows; without choices any text answers it."""

    text: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInput:
    """What a person says to a run: a decision (`approved`) or an `answer`; the other is None."""

    call_id: str
    approved: bool | None = None
    reason: str = ""
    answer: str | None = None
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRequested:
    """The run needs a person for one of its tool calls."""

    call_id: str
    asked: ToolApproval | Question
    expire_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InputProvided:
    """A person has answered; or, with `expired`, nobody has in time."""

    input: RunInput
    expired: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageCompleted:
    """A message of the conversation is complete."""

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The run ended."""

    state: State
    summary: Summary
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trimmed:
    """One kind of what was left out of a prompt, or cut: pieces and their tokens."""

    kind: str
    count: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextTrimmed:
    """A prompt did not fit its budget. `percent` is what the count rests on; 0: the model's tokenizer."""

    step: str
    budget_tokens: int
    needed_tokens: int
    percent: int
    trimmed: tuple[Trimmed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HistorySummarized:
    """The conversation up to that message was summed up."""

    text: str
    through_sequence: int


Step = (
    RunStarted
    | RunResumed
    | MemberStarted
    | MemberFinished
    | ModelCallFinished
    | ToolCallStarted
    | ToolCallFinished
    | EvidenceRetrieved
    | TasksChanged
    | TeamCalled
    | StepStarted
    | StepFinished
    | GuardrailTriggered
    | InputRequested
    | InputProvided
    | MessageCompleted
    | ContextTrimmed
    | HistorySummarized
    | RunFinished
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A step with its place in the log; `member` is empty for the team itself."""

    sequence: int
    time: datetime
    member: str
    step: Step

    @property
    def is_last(self) -> bool:
        """Whether the run ends with it."""
        return isinstance(self.step, RunFinished)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as it came out of the store; `payload` is passed on, never read here.

    `step` is None for a kind that this version does not know.
    """

    sequence: int
    time: datetime
    member: str
    kind: str
    payload: object
    step: Step | None = None

    @property
    def is_last(self) -> bool:
        """Whether the run ends with it."""
        return self.kind == "run_finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextDelta:
    """A piece of a text that is being written; `offset` counts characters before it."""

    message: str
    offset: int
    text: str
    member: str
