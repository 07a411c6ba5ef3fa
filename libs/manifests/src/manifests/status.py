"""What the operator writes into the objects. In local mode nobody does."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from manifests.base import Model
from manifests.cel import BY_TYPE, SET

Time = Annotated[str, StringConstraints(max_length=64)]


class Condition(Model):
    """One thing that is so or not."""

    type: Annotated[str, StringConstraints(max_length=316)] = Field(
        description="What it is about; docs/operator.md has them all."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it is so.")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=1024)] = Field(
        description="Why, in a word, for programs."
    )
    message: Annotated[str, StringConstraints(max_length=32_768)] = Field(
        description="Why, for people, with what to do about it."
    )
    observed_generation: int = Field(ge=0, description="The generation of the object that this is about.")
    last_transition_time: Time = Field(
        description="When status last changed.", json_schema_extra={"format": "date-time"}
    )


class Status(Model):
    """What all kinds have."""

    observed_generation: int | None = Field(
        default=None, ge=0, description="The generation of the object that this is about."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=32,
        description="What is so, and why. Ready sums up.",
        json_schema_extra={**BY_TYPE},
    )


class ModelConfigStatus(Status):
    """What became of a ModelConfig."""

    secret_hash: str | None = Field(
        default=None, description="Of the Secrets' keys that it names: changes when one of them does."
    )
    probed_dimensions: int | None = Field(
        default=None, description="Elements of a vector, as the endpoint answered. Only with type Embedding."
    )
    allowed_tenants: tuple[Annotated[str, StringConstraints(max_length=63)], ...] = Field(
        default=(),
        max_length=1000,
        description="Namespaces that may use it besides its own, by spec.allowedNamespaces and their labels; "
        "* for all. The services go by it.",
        json_schema_extra={**SET},
    )


class EmbeddingStatus(Model):
    """What made the vectors."""

    model: str = Field(description="The ModelConfig.")
    dimensions: int = Field(description="Elements of a vector.")
    fingerprint: str = Field(description="Of the model; another one means other vectors.")


class IngestionStatus(Model):
    """How indexing gets on."""

    pending: int = Field(description="Documents that wait or are in work.")
    failed: int = Field(description="Documents that could not be indexed; each says why.")
    last_error: str = Field(default="", description="The newest of those reasons.")


class IndexFigures(Model):
    """What searches go through."""

    type: str = Field(description="Such as HNSW.")
    build_params: dict[str, str] | None = Field(default=None, description="How it was built.")
    search_params: dict[str, str] | None = Field(default=None, description="How it is searched.")
    measured_recall_percent: str | None = Field(
        default=None, description="Of the exact ten, on queries that the choice of parameters did not see."
    )
    measured_p50_milliseconds: str | None = Field(
        default=None,
        alias="measuredP50Milliseconds",
        description="Median of a search in Milvus, one at a time.",
    )
    measured_p99_milliseconds: str | None = Field(
        default=None, alias="measuredP99Milliseconds", description="99th percentile, likewise."
    )
    tuned_at: Time | None = Field(
        default=None,
        description="When it was measured; absent: never.",
        json_schema_extra={"format": "date-time"},
    )
    tuned_at_rows: int | None = Field(default=None, description="Chunks that it had then.")


class SegmentFigures(Model):
    """Pieces of the collection, each with an index of its own."""

    sealed: int = Field(description="How many are full.")
    rows_per_segment: int = Field(description="Chunks of one of them, on average.")


class MemoryFigures(Model):
    """What it takes of Milvus' memory."""

    estimated: str = Field(description="As a quantity, such as 480Mi.")
    limit_percent: int | None = Field(
        default=None,
        description="Of the memory of all of Milvus' nodes with collections; absent: nobody says how much.",
    )


class QualityFigures(Model):
    """Scores as last measured with its golden set."""

    verdict: Literal["Good", "Degraded", "Unknown"] = Field(
        description="Whether they are what spec.evaluation.thresholds wants; QualityDegraded says why."
    )
    golden_set: str | None = Field(default=None, description="Name of the golden set.")
    evaluated_at: Time | None = Field(
        default=None, description="When it was measured.", json_schema_extra={"format": "date-time"}
    )
    ndcg_at_10: str | None = Field(
        default=None, alias="ndcgAt10", description="Are the best documents first? Of the first 10."
    )
    recall_at_10: str | None = Field(
        default=None, alias="recallAt10", description="Part of the relevant documents among the first 10."
    )
    mrr: str | None = Field(default=None, description="1 / rank of the first relevant document.")
    queries: int | None = Field(default=None, description="Queries of the golden set.")
    missing_documents: int | None = Field(
        default=None, description="Documents that should be found and are not there or not READY."
    )


class KnowledgeBaseStatus(Status):
    """What became of a KnowledgeBase."""

    documents: int | None = Field(default=None, description="Documents that can be found.")
    chunks: int | None = Field(default=None, description="Chunks that can be found.")
    deployment: str | None = Field(
        default=None, description="Lite, Standalone or Distributed Milvus, with its version."
    )
    embedding: EmbeddingStatus | None = Field(default=None, description="What made the vectors.")
    ingestion: IngestionStatus | None = Field(default=None, description="How indexing gets on.")
    index: IndexFigures | None = Field(default=None, description="What searches go through.")
    segments: SegmentFigures | None = Field(
        default=None, description="Pieces of the collection; absent: Milvus does not say."
    )
    memory: MemoryFigures | None = Field(default=None, description="What it takes of Milvus' memory.")
    quality: QualityFigures | None = Field(
        default=None, description="How well it is searched; absent: spec.evaluation is."
    )


class GoldenMeans(Model):
    """What came of a golden set."""

    revision: str | None = Field(default=None, description="The revision of the team that was asked.")
    evaluated_at: Time | None = Field(
        default=None, description="When it was asked.", json_schema_extra={"format": "date-time"}
    )
    sources_found: str | None = Field(
        default=None, description="Mean share of the expected documents that were found."
    )
    facts_present: str | None = Field(
        default=None, description="Mean share of the expected facts that the answers say."
    )
    faithfulness: str | None = Field(default=None, description="Mean, as of runs.")
    grounding: str | None = Field(default=None, description="Mean, as of runs.")


class GoldenFigures(GoldenMeans):
    """The golden set that it is asked by schedule, with the newest means."""

    name: str = Field(description="Name of the ConfigMap, and the key.")
    questions: int = Field(description="How many it has.")
    failed: int | None = Field(default=None, description="Questions without an answer.")
    former: GoldenMeans | None = Field(default=None, description="The newest of another revision.")


class TeamQualityFigures(Model):
    """Means over the sampled runs of the revision that serves, of the last 24 hours."""

    verdict: Literal["Good", "Degraded", "Unknown"] = Field(
        description="Whether they are what spec.evaluation.thresholds wants; QualityDegraded says why."
    )
    faithfulness: str | None = Field(
        default=None, description="Share of the answers' claims that the evidence supports."
    )
    grounding: str | None = Field(default=None, description="How much claims resemble the evidence.")
    retrieval_relevance: str | None = Field(
        default=None, description="Relevance of the retrieved chunks to their queries."
    )
    answer_relevance: str | None = Field(
        default=None, description="Whether the answers are about the questions."
    )
    golden_set: GoldenFigures | None = Field(
        default=None, description="What it is asked by schedule; absent: spec.evaluation.goldenSetRef is."
    )
    runs: int | None = Field(default=None, description="How many runs have scores; absent: none.")
    evaluated_at: Time | None = Field(
        default=None, description="When the newest was scored.", json_schema_extra={"format": "date-time"}
    )


class AgentTeamStatus(Status):
    """What became of an AgentTeam."""

    current_revision: str | None = Field(
        default=None, description="The revision that serves: a ControllerRevision <team>-<revision>."
    )
    updated_revision: str | None = Field(
        default=None, description="The revision of the newest accepted spec; serves as soon as it is ready."
    )
    members: int | None = Field(default=None, description="How many members the serving revision has.")
    secret_hash: str | None = Field(
        default=None, description="Of the Secrets' keys that its pods have mounted."
    )
    replicas: int | None = Field(default=None, description="Pods of its own; absent: it has none.")
    ready_replicas: int | None = Field(default=None, description="Those that are ready.")
    selector: str | None = Field(default=None, description="Labels of its pods, for autoscalers.")
    allowed_tenants: tuple[Annotated[str, StringConstraints(max_length=63)], ...] = Field(
        default=(),
        max_length=1000,
        description="Namespaces from which the team may be asked besides its own, by spec.allowedNamespaces "
        "and their labels; * for all. Its orchestrators go by it.",
        json_schema_extra={**SET},
    )
    quality: TeamQualityFigures | None = Field(
        default=None, description="How good its answers are; absent without thresholds and golden set."
    )
