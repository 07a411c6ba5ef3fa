"""KnowledgeBase: a set of documents that can be searched."""

from typing import Literal, Self

from pydantic import Field, model_validator

from manifests.base import API_VERSION, Metadata, Model, ModelConfigRef, Violation, refuse

SearchModeName = Literal["Dense", "Sparse", "Hybrid"]


class KnowledgeEmbedding(Model):
    """Which model makes the vectors."""

    # Shares its YAML name with the agents' field; refers to a ModelConfig of another type.
    model_config_ref: ModelConfigRef = Field(
        description="A ModelConfig of type Embedding. Another one means that all documents are embedded anew."
    )


class Chunking(Model):
    """How documents are cut, counted in tokens of the embedding model."""

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

    embedding: KnowledgeEmbedding = Field(description="Which model makes the vectors.")
    chunking: Chunking = Field(default_factory=Chunking, description="How documents are cut.")
    retrieval: Retrieval = Field(default_factory=Retrieval, description="How it is searched.")


class KnowledgeBase(Model):
    """A set of documents that can be searched."""

    api_version: Literal["agentteams.dev/v1alpha1"] = Field(default=API_VERSION, description="Always this.")
    kind: Literal["KnowledgeBase"] = Field(default="KnowledgeBase", description="Always this.")
    metadata: Metadata = Field(description="Name and namespace.")
    spec: KnowledgeBaseSpec = Field(description="What is asked for.")
