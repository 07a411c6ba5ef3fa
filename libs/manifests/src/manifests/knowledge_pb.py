"""A KnowledgeBase as the retrieval service takes it: for the command line and the operator.

The only module here that needs the stubs (agentteams-protos); who imports it depends on them.
"""

from collections.abc import Sequence

from agentteams.retrieval.v1 import evaluation_pb2 as evaluation_pb
from agentteams.retrieval.v1 import index_pb2 as index_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb

from manifests.base import model_resource
from manifests.golden import GoldenQuery
from manifests.knowledge import KnowledgeBase
from manifests.knowledge_evaluation import SCHEDULES


def to_pb(manifest: KnowledgeBase, *, allowed_tenants: Sequence[str] = ()) -> kb_pb.KnowledgeBase:
    """What the manifest asks for.

    Args:
        allowed_tenants: Who besides its own namespace may search it, as the operator finds.
    """
    spec, namespace = manifest.spec, manifest.metadata.namespace
    message = kb_pb.KnowledgeBase(
        allowed_tenants=allowed_tenants,
        name=f"knowledgeBases/{manifest.metadata.name}",
        embedding_model=model_resource(spec.embedding.model_config_ref.of(namespace)),
        chunking=kb_pb.Chunking(
            max_tokens=spec.chunking.max_tokens,
            overlap_tokens=spec.chunking.overlap_tokens,
            strategy=kb_pb.ChunkingStrategy.Value(f"CHUNKING_STRATEGY_{spec.chunking.strategy.upper()}"),
        ),
        search_mode=kb_pb.SearchMode.Value(f"SEARCH_MODE_{spec.retrieval.search_mode.upper()}"),
        tenancy=_TENANCIES[spec.tenancy.strategy],
        metadata_fields=[
            kb_pb.MetadataField(
                name=field.name, type=kb_pb.MetadataType.Value(f"METADATA_TYPE_{field.type.upper()}")
            )
            for field in spec.content.metadata_fields
        ],
        search_defaults=_defaults(manifest),
        sources=[
            kb_pb.Source(
                name=source.name,
                folder=kb_pb.FolderSource(path=source.folder.path),
                mirror_deletes=source.delete_policy == "Mirror",
                interval_seconds=source.interval_seconds,
            )
            for source in spec.sources
        ],
    )
    if spec.tenancy.strategy != "PartitionKey":
        message.index.CopyFrom(_index(manifest))
    evaluation = spec.evaluation
    if evaluation is not None:
        least = evaluation.thresholds
        scores = {"ndcg_at_10": least.ndcg_at_10, "recall_at_10": least.recall_at_10, "mrr_at_10": least.mrr}
        message.evaluation.golden_set = evaluation.golden_set_name
        message.evaluation.interval_seconds = SCHEDULES[evaluation.schedule]
        for metric, value in scores.items():
            if value is not None:
                setattr(message.evaluation.thresholds, metric, float(value))
    return message


def golden_set_to_pb(queries: Sequence[GoldenQuery], *, name: str) -> evaluation_pb.GoldenSet:
    """As SetGoldenSet takes it."""
    message = evaluation_pb.GoldenSet(name=name)
    for query in queries:
        relevant = [evaluation_pb.Judgment(path=path, grade=grade) for path, grade in query.relevant.items()]
        message.queries.add(id=query.id, query=query.query, relevant=relevant)
    return message


_TENANCIES = {
    "Collection": kb_pb.TENANCY_COLLECTION,
    "PartitionKey": kb_pb.TENANCY_PARTITION_KEY,
    "Database": kb_pb.TENANCY_DATABASE,
}


def _defaults(manifest: KnowledgeBase) -> kb_pb.SearchDefaults:
    retrieval = manifest.spec.retrieval
    defaults = kb_pb.SearchDefaults(top_k=retrieval.top_k)
    ranker = retrieval.ranker
    if ranker.weighted is not None:
        defaults.ranker.weighted.dense_weight = float(ranker.weighted.dense_weight)
    elif ranker.rrf is not None:
        defaults.ranker.reciprocal_rank.k = ranker.rrf.k
    if retrieval.rerank is not None:
        defaults.rerank.model = model_resource(
            retrieval.rerank.model_config_ref.of(manifest.metadata.namespace)
        )
        defaults.rerank.candidates = retrieval.rerank.candidates or 0
    if retrieval.min_score is not None:
        defaults.min_similarity = float(retrieval.min_score)
    return defaults


def _index(manifest: KnowledgeBase) -> index_pb.IndexPolicy:
    index = manifest.spec.index
    return index_pb.IndexPolicy(
        type=index_pb.IndexType.Value(f"INDEX_TYPE_{index.type or 'UNSPECIFIED'}"),
        build_params=index.build_params,
        search_params=index.search_params,
        target_recall_percent=index.target.recall_percent,
        tuning_off=not index.tuning.enabled,
    )
