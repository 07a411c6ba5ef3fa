"""KnowledgeBase: a set of documents that can be searched."""

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from manifests.base import API_VERSION, Metadata, Model, ModelConfigRef, Violation, duplicates, refuse
from manifests.cel import BY_NAME, Cel
from manifests.knowledge_evaluation import KnowledgeEvaluation
from manifests.knowledge_index import KnowledgeIndex, KnowledgeSource
from manifests.knowledge_retrieval import KnowledgeSchema, KnowledgeTenancy, Retrieval
from manifests.sharing import AllowedNamespaces


class KnowledgeEmbedding(Model):
    """Which model makes the vectors."""

    # Shares its YAML name with the agents' field; refers to a ModelConfig of another type.
    model_config_ref: ModelConfigRef = Field(
        description="A ModelConfig of type Embedding. Another one means that all documents are embedded anew."
    )


class Chunking(Model):
    """How documents are cut, counted in tokens of the embedding model."""

    cel: ClassVar = (
        Cel(
            "self.overlapTokens < self.maxTokens",
            "must be less than maxTokens; lower overlapTokens (default 30) or raise maxTokens (default 200)",
            ".overlapTokens",
        ),
    )

    max_tokens: int = Field(default=200, ge=16, le=2000, description="Most tokens of a chunk.")
    overlap_tokens: int = Field(default=30, ge=0, le=1000, description="Tokens that neighbours share.")
    strategy: Literal["Auto", "Recursive", "Markdown", "Code"] = Field(
        default="Auto",
        description="Where a document may be cut. Auto: by the kind of file. Recursive: between paragraphs, "
        "else sentences, else words. Markdown: between sections. Code: between definitions.",
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.overlap_tokens >= self.max_tokens:
            # The defaults can be what collides: name the field that the author wrote.
            at = "overlapTokens" if "overlap_tokens" in self.model_fields_set else "maxTokens"
            refuse(
                [
                    Violation(
                        (at,),
                        f"overlapTokens ({self.overlap_tokens}) must be less than "
                        f"maxTokens ({self.max_tokens})",
                        "lower overlapTokens or raise maxTokens",
                    )
                ]
            )
        return self


class KnowledgeBaseSpec(Model):
    """What a KnowledgeBase asks for."""

    cel: ClassVar = (
        *(
            Cel(
                f"self.{field} == oldSelf.{field}",
                "cannot be changed: all documents would have to be made into chunks and vectors anew; make "
                "another KnowledgeBase, add the documents there, and name it in the teams",
                f".{field}",
            )
            for field in ("embedding", "chunking", "tenancy")
        ),
        Cel(
            "!has(oldSelf.schema) || !has(oldSelf.schema.metadataFields) || (has(self.schema) && "
            "has(self.schema.metadataFields) && oldSelf.schema.metadataFields.all(was, "
            "self.schema.metadataFields.exists(f, f.name == was.name && f.type == was.type)))",
            "fields can be added, none can be changed or taken away: documents may have it; add a field of "
            "another name",
            ".schema",
        ),
        Cel(
            "self.tenancy.strategy != 'PartitionKey' || (self.index.policy == 'Auto' && "
            "self.index.target.recallPercent == 95 && self.index.tuning.enabled)",
            "many knowledge bases share one index with tenancy PartitionKey; remove it, or set tenancy: "
            "{strategy: Collection}",
            ".index",
        ),
    )

    embedding: KnowledgeEmbedding = Field(description="Which model makes the vectors.")
    chunking: Chunking = Field(default_factory=Chunking, description="How documents are cut.")
    retrieval: Retrieval = Field(default_factory=Retrieval, description="How it is searched.")
    content: KnowledgeSchema = Field(
        default_factory=KnowledgeSchema, alias="schema", description="What documents say about themselves."
    )
    tenancy: KnowledgeTenancy = Field(
        default_factory=KnowledgeTenancy, description="What its rows share with those of others."
    )
    index: KnowledgeIndex = Field(default_factory=KnowledgeIndex, description="The index of its vectors.")
    sources: tuple[KnowledgeSource, ...] = Field(
        default=(),
        max_length=16,
        description="Places whose documents are taken over by themselves.",
        json_schema_extra=dict(BY_NAME),
    )
    evaluation: KnowledgeEvaluation | None = Field(
        default=None, description="How its quality is watched. Default: it is not."
    )
    allowed_namespaces: AllowedNamespaces = Field(
        default_factory=AllowedNamespaces,
        description="Which other namespaces' teams may search it, by knowledgeBaseRef.namespace. Only on a "
        "cluster.",
    )
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="On a cluster, when this object is deleted. Retain: documents and vectors stay, and an "
        "object of the same name finds them again. Delete: they are deleted.",
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        refuse(self._violations())
        return self

    def _violations(self) -> Iterator[Violation]:
        fields = [field.name for field in self.content.metadata_fields]
        yield from duplicates(fields, "schema", "metadataFields")
        yield from duplicates([source.name for source in self.sources], "sources")
        if self.tenancy.strategy == "PartitionKey" and self.index != KnowledgeIndex():
            yield Violation(
                ("index",),
                "many knowledge bases share one index with tenancy PartitionKey",
                "remove it, or set tenancy: {strategy: Collection}",
            )


class KnowledgeBase(Model):
    """A set of documents that can be searched."""

    api_version: Literal["agentteams.dev/v1alpha1"] = Field(default=API_VERSION, description="Always this.")
    kind: Literal["KnowledgeBase"] = Field(default="KnowledgeBase", description="Always this.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: KnowledgeBaseSpec = Field(description="What is asked for.")
