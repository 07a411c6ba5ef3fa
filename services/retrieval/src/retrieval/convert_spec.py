"""Knowledge bases: protobuf to domain and back."""

import re
from collections.abc import Mapping, Sequence

from agentteams.retrieval.v1 import index_pb2 as index_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from retrieval.convert import chunking_from_pb, mode_from_pb
from retrieval.convert_quality import policy_from_pb, policy_to_pb
from retrieval.convert_search import between, ranker_from_pb, rerank_from_pb
from retrieval.core.index import BUILD_PARAMS, SEARCH_PARAMS
from retrieval.core.metadata import FIELD_NAME
from retrieval.core.model import (
    FolderSource,
    IndexPolicy,
    IndexType,
    KnowledgeBase,
    KnowledgeBaseSpec,
    MetadataField,
    MetadataType,
    SearchMode,
    Snapshot,
    Tenancy,
)
from retrieval.core.names import check_model, check_path
from retrieval.core.search_options import (
    DEFAULT_TOP_K,
    MAX_TOP_K,
    Ranker,
    ReciprocalRank,
    SearchDefaults,
    Weighted,
)
from retrieval.core.sources import SourceStatus
from servicekit.errors import InvalidArgument

_MAX_FIELDS, _MAX_SOURCES = 32, 16
_MAX_TENANTS = 1000
_TENANT = re.compile(r"\*|[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_MIN_RECALL, _MAX_RECALL, _RECALL = 50, 100, 95
_MIN_INTERVAL_S, _MAX_INTERVAL_S, _INTERVAL_S = 5, 86_400, 60
_SOURCE_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")

_MUTABLE = ("search_mode", "search_defaults", "index", "sources", "evaluation", "allowed_tenants")
_IMMUTABLE = ("embedding_model", "chunking", "tenancy", "metadata_fields")


def knowledge_base_to_pb(snapshot: Snapshot, *, deployment: str) -> kb_pb.KnowledgeBase:
    """With its counts."""
    kb, counts = snapshot.knowledge_base, snapshot.counts
    message = kb_pb.KnowledgeBase(
        name=kb.name,
        dimension=kb.dimension,
        model_fingerprint=kb.model_fingerprint,
        revision=kb.revision,
        generation=kb.generation,
        documents=kb_pb.DocumentCounts(
            pending=counts.pending, indexing=counts.indexing, ready=counts.ready, failed=counts.failed
        ),
        chunk_count=counts.chunks,
        deployment=deployment,
    )
    spec_to_pb(kb.spec, message)
    message.create_time.FromDatetime(kb.create_time)
    return message


def spec_from_pb(message: kb_pb.KnowledgeBase, *, field: str = "knowledge_base") -> KnowledgeBaseSpec:
    """With defaults filled in.

    Raises:
        InvalidArgument: Out of the bounds that the proto file names.
    """
    spec = KnowledgeBaseSpec(
        embedding_model=check_model(message.embedding_model, field=f"{field}.embedding_model"),
        chunking=chunking_from_pb(message.chunking),
        search_mode=mode_from_pb(message.search_mode, field=f"{field}.search_mode") or SearchMode.HYBRID,
        tenancy=_tenancy(message.tenancy, f"{field}.tenancy"),
        metadata_fields=_fields(message.metadata_fields, f"{field}.metadata_fields"),
        search_defaults=_defaults(message.search_defaults, f"{field}.search_defaults"),
        index=_index(message.index, f"{field}.index"),
        sources=_sources(message.sources, f"{field}.sources"),
        evaluation=policy_from_pb(message.evaluation, f"{field}.evaluation")
        if message.HasField("evaluation")
        else None,
        allowed_tenants=_tenants(message.allowed_tenants, f"{field}.allowed_tenants"),
    )
    if spec.tenancy == Tenancy.PARTITION_KEY and spec.index != IndexPolicy():
        raise InvalidArgument.field(
            f"{field}.index",
            "must not be set with TENANCY_PARTITION_KEY, where many knowledge bases share one index; "
            "remove it, or use TENANCY_COLLECTION",
        )
    return spec


def _tenants(given: Sequence[str], field: str) -> tuple[str, ...]:
    if len(given) > _MAX_TENANTS:
        most = f"must be at most {_MAX_TENANTS}; use * for every tenant"
        raise InvalidArgument.field(field, most, len(given))
    for number, tenant in enumerate(given):
        if not _TENANT.fullmatch(tenant):
            raise InvalidArgument.field(f"{field}[{number}]", "must be a namespace's name, or *", tenant)
    return tuple(sorted(set(given)))


def spec_to_pb(spec: KnowledgeBaseSpec, message: kb_pb.KnowledgeBase) -> None:
    """Sets all fields of the message that make up the spec."""
    message.embedding_model = spec.embedding_model
    message.chunking.max_tokens = spec.chunking.max_tokens
    message.chunking.overlap_tokens = spec.chunking.overlap_tokens
    message.chunking.strategy = kb_pb.ChunkingStrategy.ValueType(spec.chunking.strategy)
    message.search_mode = kb_pb.SearchMode.ValueType(spec.search_mode)
    message.tenancy = kb_pb.Tenancy.ValueType(spec.tenancy)
    for field in spec.metadata_fields:
        message.metadata_fields.add(name=field.name, type=kb_pb.MetadataType.ValueType(field.type))
    defaults = spec.search_defaults
    message.search_defaults.top_k = defaults.top_k
    message.search_defaults.ranker.CopyFrom(_ranker_to_pb(defaults.ranker))
    if defaults.rerank is not None:
        message.search_defaults.rerank.model = defaults.rerank.model
        message.search_defaults.rerank.candidates = defaults.rerank.candidates
    if defaults.min_similarity is not None:
        message.search_defaults.min_similarity = defaults.min_similarity
    index = spec.index
    message.index.type = index_pb.IndexType.ValueType(index.type or 0)
    message.index.build_params.update(index.build_params)
    message.index.search_params.update(index.search_params)
    message.index.target_recall_percent = index.target_recall_percent
    message.index.tuning_off = index.tuning_off
    for source in spec.sources:
        message.sources.add(
            name=source.name,
            folder=kb_pb.FolderSource(path=source.path),
            mirror_deletes=source.mirror_deletes,
            interval_seconds=source.interval_s,
        )
    message.allowed_tenants.extend(spec.allowed_tenants)
    if spec.evaluation is not None:
        message.evaluation.CopyFrom(policy_to_pb(spec.evaluation))


def source_statuses_to_pb(
    knowledge_base: KnowledgeBase, statuses: Mapping[str, SourceStatus], message: kb_pb.KnowledgeBase
) -> None:
    """One for each source, in their order."""
    for source in knowledge_base.spec.sources:
        status = statuses.get(source.name, SourceStatus(name=source.name))
        shown = message.source_statuses.add(name=status.name, files=status.files, message=status.message)
        if status.sync_time is not None:
            shown.sync_time.FromDatetime(status.sync_time)


def updated(current: KnowledgeBaseSpec, asked: kb_pb.KnowledgeBase, mask: FieldMask) -> KnowledgeBaseSpec:
    """The spec after an update; whether it may become so, the core says.

    Raises:
        InvalidArgument: The mask names a field that is not there or that nobody sets, or a value is out
            of bounds.
    """
    merged = kb_pb.KnowledgeBase()
    spec_to_pb(current, merged)
    paths = list(mask.paths) or [*_MUTABLE, *(name for name in _IMMUTABLE if _is_set(asked, name))]
    for path in paths:
        _check_path(path)
    _merge(asked, merged, paths)
    return spec_from_pb(merged)


def _merge(asked: kb_pb.KnowledgeBase, merged: kb_pb.KnowledgeBase, paths: Sequence[str]) -> None:
    # Cleared first: merging leaves alone what the source does not have.
    for path in paths:
        *above, last = path.split(".")
        holder: Message = merged
        for part in above:
            holder = getattr(holder, part)
        holder.ClearField(last)
    FieldMask(paths=paths).MergeMessage(asked, merged, True, True)


def _check_path(path: str) -> None:
    first = path.split(".", 1)[0]
    known = FieldMask(paths=[path]).IsValidForDescriptor(kb_pb.KnowledgeBase.DESCRIPTOR)
    if first not in (*_MUTABLE, *_IMMUTABLE) or not known:
        raise InvalidArgument.field(
            "update_mask",
            f"must hold paths of {', '.join(_MUTABLE)} or metadata_fields, such as search_defaults.top_k",
            path,
        )


def _is_set(message: kb_pb.KnowledgeBase, field: str) -> bool:
    return any(descriptor.name == field for descriptor, _ in message.ListFields())


def _tenancy(value: int, field: str) -> Tenancy:
    try:
        return Tenancy(value or Tenancy.COLLECTION)
    except ValueError:
        raise InvalidArgument.field(
            field, "must be TENANCY_COLLECTION, TENANCY_PARTITION_KEY or TENANCY_DATABASE", value
        ) from None


def _fields(messages: Sequence[kb_pb.MetadataField], field: str) -> tuple[MetadataField, ...]:
    _check_count(messages, _MAX_FIELDS, field)
    fields = []
    for number, message in enumerate(messages):
        at = f"{field}[{number}]"
        if FIELD_NAME.fullmatch(message.name) is None:
            raise InvalidArgument.field(
                f"{at}.name",
                "must be lower-case letters, digits and _, a letter first, at most 63",
                message.name,
            )
        try:
            type_ = MetadataType(message.type)
        except ValueError:
            names = ", ".join(f"METADATA_TYPE_{known.name}" for known in MetadataType)
            raise InvalidArgument.field(f"{at}.type", f"must be one of {names}", message.type) from None
        fields.append(MetadataField(name=message.name, type=type_))
    _check_unique([each.name for each in fields], field)
    return tuple(fields)


def _defaults(message: kb_pb.SearchDefaults, field: str) -> SearchDefaults:
    if not 0 <= message.top_k <= MAX_TOP_K:
        raise InvalidArgument.field(
            f"{field}.top_k", f"must be 1 to {MAX_TOP_K}, or 0 for {DEFAULT_TOP_K}", message.top_k
        )
    return SearchDefaults(
        top_k=message.top_k or DEFAULT_TOP_K,
        ranker=ranker_from_pb(message.ranker, field=f"{field}.ranker"),
        rerank=rerank_from_pb(message.rerank, field=f"{field}.rerank")
        if message.HasField("rerank")
        else None,
        min_similarity=between(message, "min_similarity", -1, "a cosine", field=f"{field}.min_similarity"),
    )


def _ranker_to_pb(ranker: Ranker) -> kb_pb.Ranker:
    match ranker:
        case ReciprocalRank(k=k):
            return kb_pb.Ranker(reciprocal_rank=kb_pb.ReciprocalRank(k=k))
        case Weighted(dense_weight=weight):
            return kb_pb.Ranker(weighted=kb_pb.Weighted(dense_weight=weight))


def _index(message: index_pb.IndexPolicy, field: str) -> IndexPolicy:
    type_ = None
    if message.type:
        try:
            type_ = IndexType(message.type)
        except ValueError:
            names = ", ".join(f"INDEX_TYPE_{known.name}" for known in IndexType)
            raise InvalidArgument.field(f"{field}.type", f"must be one of {names}", message.type) from None
    recall = message.target_recall_percent or _RECALL
    if not _MIN_RECALL <= recall <= _MAX_RECALL:
        raise InvalidArgument.field(
            f"{field}.target_recall_percent",
            f"must be {_MIN_RECALL} to {_MAX_RECALL}, or 0 for {_RECALL}",
            recall,
        )
    return IndexPolicy(
        type=type_,
        build_params=_params(message.build_params, type_, BUILD_PARAMS, f"{field}.build_params"),
        search_params=_params(message.search_params, type_, SEARCH_PARAMS, f"{field}.search_params"),
        target_recall_percent=recall,
        tuning_off=message.tuning_off,
    )


def _params(
    given: Mapping[str, int],
    type_: IndexType | None,
    bounds: Mapping[IndexType, Mapping[str, tuple[int, int]]],
    field: str,
) -> dict[str, int]:
    if given and type_ is None:
        raise InvalidArgument.field(
            field, "must not be set without index.type; set the type, or leave both out"
        )
    params = {}
    for name, value in sorted(given.items()):
        known = bounds[type_] if type_ is not None else {}
        if name not in known:
            raise InvalidArgument.field(
                f'{field}["{name}"]',
                f"{type_.name if type_ else ''} has {' and '.join(known) or 'no such parameters'}; remove it",
                name,
            )
        least, most = known[name]
        if not least <= value <= most:
            raise InvalidArgument.field(f'{field}["{name}"]', f"must be {least} to {most}", value)
        params[name] = value
    return params


def _sources(messages: Sequence[kb_pb.Source], field: str) -> tuple[FolderSource, ...]:
    _check_count(messages, _MAX_SOURCES, field)
    sources = []
    for number, message in enumerate(messages):
        at = f"{field}[{number}]"
        if _SOURCE_NAME.fullmatch(message.name) is None:
            raise InvalidArgument.field(
                f"{at}.name",
                "must be lower-case letters, digits and hyphens, at most 63, no hyphen first or last",
                message.name,
            )
        if message.WhichOneof("kind") != "folder":
            raise InvalidArgument.field(f"{at}.folder", "must be set: where the documents are")
        interval_s = message.interval_seconds or _INTERVAL_S
        if not _MIN_INTERVAL_S <= interval_s <= _MAX_INTERVAL_S:
            raise InvalidArgument.field(
                f"{at}.interval_seconds",
                f"must be {_MIN_INTERVAL_S} to {_MAX_INTERVAL_S}, or 0 for {_INTERVAL_S}",
                interval_s,
            )
        sources.append(
            FolderSource(
                name=message.name,
                path=check_path(message.folder.path, field=f"{at}.folder.path"),
                mirror_deletes=message.mirror_deletes,
                interval_s=interval_s,
            )
        )
    _check_unique([source.name for source in sources], field)
    return tuple(sources)


def _check_count(messages: Sequence[object], most: int, field: str) -> None:
    if len(messages) > most:
        raise InvalidArgument.field(field, f"must be at most {most}", len(messages))


def _check_unique(names: Sequence[str], field: str) -> None:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InvalidArgument.field(
                f"{field}[{number}].name", "must be unique; give each its own name", name
            )
