"""KnowledgeBase: a set of documents that can be searched."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from manifests.base import API_VERSION, Metadata, Model, ModelConfigRef, Violation, refuse
from manifests.cel import Cel

SearchModeName = Literal["Dense", "Sparse", "Hybrid"]


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


class Retrieval(Model):
    """How it is searched unless a team says otherwise."""

    search_mode: SearchModeName = Field(
        default="Hybrid",
        description="Dense: by meaning. Sparse: by words (BM25). Hybrid: both, fused by rank.",
    )
    top_k: int = Field(default=8, ge=1, le=100, description="Most chunks of one search.")


class KnowledgeBaseSpec(Model):
    """What a KnowledgeBase asks for."""

    cel: ClassVar = tuple(
        Cel(
            f"self.{field} == oldSelf.{field}",
            "cannot be changed: all documents would have to be made into chunks and vectors anew; make "
            "another KnowledgeBase, add the documents there, and name it in the teams",
            f".{field}",
        )
        for field in ("embedding", "chunking")
    )

    embedding: KnowledgeEmbedding = Field(description="Which model makes the vectors.")
    chunking: Chunking = Field(default_factory=Chunking, description="How documents are cut.")
    retrieval: Retrieval = Field(default_factory=Retrieval, description="How it is searched.")
    deletion_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="On a cluster, when this object is deleted. Retain: documents and vectors stay, and an "
        "object of the same name finds them again. Delete: they are deleted.",
    )


class KnowledgeBase(Model):
    """A set of documents that can be searched."""

    api_version: Literal["agentteams.dev/v1alpha1"] = Field(default=API_VERSION, description="Always this.")
    kind: Literal["KnowledgeBase"] = Field(default="KnowledgeBase", description="Always this.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: KnowledgeBaseSpec = Field(description="What is asked for.")
