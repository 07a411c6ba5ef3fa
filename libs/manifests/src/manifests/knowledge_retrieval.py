"""How a KnowledgeBase is searched, what its documents say about themselves, and with whom it shares rows."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from manifests.base import (
    METADATA_FIELD_PATTERN,
    Model,
    ModelConfigRef,
    Similarity,
    Threshold,
    Violation,
    refuse,
)
from manifests.cel import BY_NAME, Cel

SearchModeName = Literal["Dense", "Sparse", "Hybrid"]
MetadataTypeName = Literal["String", "Int64", "Double", "Bool"]
TenancyName = Literal["Collection", "PartitionKey", "Database"]


class MetadataField(Model):
    """Something that documents may say about themselves."""

    name: Annotated[str, StringConstraints(pattern=METADATA_FIELD_PATTERN, max_length=63)] = Field(
        description="Unique: lower-case letters, digits and '_', a letter first, at most 63."
    )
    type: MetadataTypeName = Field(
        description="String (at most 1,024 bytes), Int64, Double (finite) or Bool. Cannot be changed."
    )


class KnowledgeSchema(Model):
    """What documents say about themselves."""

    metadata_fields: tuple[MetadataField, ...] = Field(
        default=(),
        max_length=32,
        description="Fields that documents may have, by which searches can filter. Fields can be added; none "
        "can be changed or taken away.",
        json_schema_extra=dict(BY_NAME),
    )


class KnowledgeTenancy(Model):
    """What the rows share with those of other knowledge bases."""

    strategy: TenancyName = Field(
        default="Collection",
        description="Collection: a collection of its own. PartitionKey: one collection for all knowledge "
        "bases of the same model, for very many small ones; its index is not tuned. Database: a collection "
        "in the namespace's own Milvus database.",
    )


class RankerRrf(Model):
    """By the sum of 1 / (k + rank)."""

    k: int = Field(default=60, ge=1, le=1000, description="The larger, the less the first ranks count.")


class RankerWeighted(Model):
    """By the weighted sum of scores."""

    dense_weight: Threshold = Field(
        description='Of the vectors; the words have the rest of 1. Decimal in quotes, "0" to "1".'
    )


class Ranker(Model):
    """How the lists of a hybrid search become one."""

    cel: ClassVar = (
        Cel(
            "self.type == 'RRF' || !has(self.rrf)", "only with type RRF; remove it, or set type: RRF", ".rrf"
        ),
        Cel(
            "self.type == 'Weighted' || !has(self.weighted)",
            "only with type Weighted; remove it, or set type: Weighted",
            ".weighted",
        ),
        Cel(
            "self.type != 'Weighted' || has(self.weighted)",
            'is required with type Weighted; add weighted: {denseWeight: "0.5"}',
            ".weighted",
        ),
    )

    type: Literal["RRF", "Weighted"] = Field(
        default="RRF", description="RRF: by ranks alone. Weighted: by scores, brought to 0..1 first."
    )
    rrf: RankerRrf | None = Field(default=None, description="Only with type RRF. Default: k is 60.")
    weighted: RankerWeighted | None = Field(
        default=None, description="Required with type Weighted, and only there."
    )

    @model_validator(mode="after")
    def _rules(self) -> Self:
        found = []
        if self.type != "RRF" and self.rrf is not None:
            found.append(Violation(("rrf",), "only with type RRF", "remove it, or set type: RRF"))
        if self.type != "Weighted" and self.weighted is not None:
            found.append(
                Violation(("weighted",), "only with type Weighted", "remove it, or set type: Weighted")
            )
        if self.type == "Weighted" and self.weighted is None:
            found.append(
                Violation(
                    ("weighted",), "is required with type Weighted", 'add weighted: {denseWeight: "0.5"}'
                )
            )
        refuse(found)
        return self


class KnowledgeRerank(Model):
    """A second look at the best chunks, by a model that reads query and chunk together."""

    model_config_ref: ModelConfigRef = Field(description="A ModelConfig of type Rerank.")
    candidates: int | None = Field(
        default=None, ge=1, le=256, description="How many are looked at. Default: 4 times topK."
    )


class Retrieval(Model):
    """How it is searched unless a team says otherwise."""

    search_mode: SearchModeName = Field(
        default="Hybrid",
        description="Dense: by meaning. Sparse: by words (BM25). Hybrid: both, fused by the ranker.",
    )
    top_k: int = Field(default=8, ge=1, le=100, description="Most chunks of one search.")
    ranker: Ranker = Field(default_factory=Ranker, description="How the lists of a hybrid search become one.")
    rerank: KnowledgeRerank | None = Field(
        default=None, description="A second look at the best. Default: none."
    )
    min_score: Similarity | None = Field(
        default=None,
        description="Chunks below this cosine similarity to the query are left out of dense and hybrid "
        'searches. Decimal in quotes, "-1" to "1". Default: none are.',
    )
