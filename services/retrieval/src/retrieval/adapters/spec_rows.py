"""What of a spec is kept as JSON, in one column. What is absent there has its default."""

import json
from typing import Any

from retrieval.core.model import (
    ChunkingStrategy,
    EvaluationPolicy,
    FolderSource,
    IndexPolicy,
    IndexType,
    KnowledgeBaseSpec,
    MetadataField,
    MetadataType,
    Tenancy,
)
from retrieval.core.search_options import Ranker, ReciprocalRank, Rerank, SearchDefaults, Weighted


def spec_to_text(spec: KnowledgeBaseSpec) -> str:
    """All but the fields that have a column of their own."""
    index, defaults = spec.index, spec.search_defaults
    return json.dumps(
        {
            "chunking_strategy": spec.chunking.strategy,
            "tenancy": spec.tenancy,
            "metadata_fields": [[field.name, field.type] for field in spec.metadata_fields],
            "search_defaults": {
                "top_k": defaults.top_k,
                "ranker": _ranker_to_json(defaults.ranker),
                "rerank": defaults.rerank
                and {"model": defaults.rerank.model, "candidates": defaults.rerank.candidates},
                "min_similarity": defaults.min_similarity,
            },
            "index": {
                "type": index.type,
                "build_params": dict(index.build_params),
                "search_params": dict(index.search_params),
                "target_recall_percent": index.target_recall_percent,
                "tuning_off": index.tuning_off,
            },
            "sources": [
                {
                    "name": source.name,
                    "path": source.path,
                    "mirror_deletes": source.mirror_deletes,
                    "interval_s": source.interval_s,
                }
                for source in spec.sources
            ],
            "allowed_tenants": list(spec.allowed_tenants),
            "evaluation": spec.evaluation
            and {
                "thresholds": dict(spec.evaluation.thresholds),
                "golden_set": spec.evaluation.golden_set,
                "interval_s": spec.evaluation.interval_s,
            },
        }
    )


def parts_of_spec(text: str | None) -> dict[str, Any]:
    """Arguments of KnowledgeBaseSpec that are kept as JSON."""
    stored = json.loads(text) if text else {}
    return {
        "tenancy": Tenancy(stored.get("tenancy", Tenancy.COLLECTION)),
        "metadata_fields": tuple(
            MetadataField(name=name, type=MetadataType(type_))
            for name, type_ in stored.get("metadata_fields", ())
        ),
        "search_defaults": _defaults(stored.get("search_defaults", {})),
        "index": _index(stored.get("index", {})),
        "sources": tuple(FolderSource(**source) for source in stored.get("sources", ())),
        "evaluation": _evaluation(stored),
        "allowed_tenants": tuple(stored.get("allowed_tenants", ())),
    }


def evaluation_policy_of(text: str) -> EvaluationPolicy | None:
    """How its quality is watched."""
    return _evaluation(json.loads(text))


def strategy_of(text: str | None) -> ChunkingStrategy:
    """How documents are cut."""
    stored = json.loads(text) if text else {}
    return ChunkingStrategy(stored.get("chunking_strategy", ChunkingStrategy.AUTO))


def tenancy_of(text: str | None) -> Tenancy:
    """What its rows share with others'."""
    return Tenancy(json.loads(text).get("tenancy", Tenancy.COLLECTION)) if text else Tenancy.COLLECTION


def _ranker_to_json(ranker: Ranker) -> dict[str, float]:
    match ranker:
        case ReciprocalRank(k=k):
            return {"k": k}
        case Weighted(dense_weight=weight):
            return {"dense_weight": weight}


def _defaults(stored: dict[str, Any]) -> SearchDefaults:
    if not stored:
        return SearchDefaults()
    ranker = stored["ranker"]
    return SearchDefaults(
        top_k=stored["top_k"],
        ranker=Weighted(**ranker) if "dense_weight" in ranker else ReciprocalRank(**ranker),
        rerank=stored["rerank"] and Rerank(**stored["rerank"]),
        min_similarity=stored.get("min_similarity"),
    )


def _index(stored: dict[str, Any]) -> IndexPolicy:
    type_ = stored.get("type")
    return IndexPolicy(**stored | {"type": None if type_ is None else IndexType(type_)})


def _evaluation(stored: dict[str, Any]) -> EvaluationPolicy | None:
    policy = stored.get("evaluation")
    return EvaluationPolicy(**policy) if policy else None
