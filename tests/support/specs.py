"""Knowledge bases with nothing but defaults, and with none of them."""

from datetime import UTC, datetime

from retrieval.core.model import (
    Chunking,
    ChunkingStrategy,
    EvaluationPolicy,
    FolderSource,
    IndexPolicy,
    IndexType,
    KnowledgeBase,
    KnowledgeBaseSpec,
    MetadataField,
    MetadataType,
    SearchMode,
    Tenancy,
)
from retrieval.core.search_options import Rerank, SearchDefaults, Weighted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PLAIN = KnowledgeBaseSpec(embedding_model="models/m", chunking=Chunking(), search_mode=SearchMode.HYBRID)
FULL = KnowledgeBaseSpec(
    embedding_model="models/m",
    chunking=Chunking(max_tokens=100, overlap_tokens=10, strategy=ChunkingStrategy.CODE),
    search_mode=SearchMode.DENSE,
    tenancy=Tenancy.DATABASE,
    metadata_fields=(
        MetadataField(name="year", type=MetadataType.INT64),
        MetadataField(name="product", type=MetadataType.STRING),
    ),
    search_defaults=SearchDefaults(
        top_k=20,
        ranker=Weighted(dense_weight=0.25),
        rerank=Rerank(model="models/r", candidates=50),
        min_similarity=-0.1,
    ),
    index=IndexPolicy(
        type=IndexType.HNSW,
        build_params={"M": 32},
        search_params={"ef": 200},
        target_recall_percent=99,
        tuning_off=True,
    ),
    sources=(FolderSource(name="docs", path="a/b", mirror_deletes=True, interval_s=30),),
    allowed_tenants=("team-b", "team-c"),
    evaluation=EvaluationPolicy(
        thresholds={"ndcg_at_10": 0.7, "mrr_at_10": 0.9}, golden_set="golden", interval_s=60
    ),
)


def knowledge_base(id_: str, spec: KnowledgeBaseSpec) -> KnowledgeBase:
    """As it is when it was just created."""
    return KnowledgeBase(
        tenant="default",
        id=id_,
        spec=spec,
        dimension=8,
        model_fingerprint="f1",
        revision=1,
        alias=f"alias_{id_}",
        collection=f"c_{id_}",
        create_time=NOW,
    )
