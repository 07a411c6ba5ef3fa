"""Searches: protobuf to domain and back."""

import math

import numpy as np
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from google.protobuf.message import Message

from retrieval.convert import mode_from_pb
from retrieval.convert_filter import filter_from_pb, value_to_pb
from retrieval.core.model import Hit, Vectors
from retrieval.core.names import check_model, knowledge_base_id
from retrieval.core.search_model import SearchQuery, SearchResult
from retrieval.core.search_options import (
    DEFAULT_RRF_K,
    MAX_MORE_QUERIES,
    MAX_NEIGHBOURS,
    MAX_PER_DOCUMENT,
    MAX_RERANK_CANDIDATES,
    MAX_RRF_K,
    MAX_TOP_K,
    Ranker,
    ReciprocalRank,
    Rerank,
    Weighted,
)
from servicekit.errors import InvalidArgument

_MAX_QUERY_CHARACTERS = 8192


def query_from_pb(request: pb.SearchRequest) -> SearchQuery:
    """The request, if it is within its bounds.

    Raises:
        InvalidArgument: A field is not; says which and what to do.
    """
    if len(request.more_queries) > MAX_MORE_QUERIES:
        raise InvalidArgument.field(
            "more_queries",
            f"must be at most {MAX_MORE_QUERIES}; leave some out",
            len(request.more_queries),
        )
    if request.rerank_off and request.HasField("rerank"):
        raise InvalidArgument.field("rerank_off", "must not be set together with rerank; leave one out")
    return SearchQuery(
        knowledge_base=knowledge_base_id(request.knowledge_base, field="knowledge_base"),
        owner_tenant=request.owner_tenant,
        text=_text(request.query, "query"),
        more_texts=tuple(_text(text, f"more_queries[{n}]") for n, text in enumerate(request.more_queries)),
        vector=_vector(request),
        model_fingerprint=request.model_fingerprint,
        top_k=_within(request.top_k, MAX_TOP_K, "top_k") or None,
        mode=mode_from_pb(request.mode, field="mode"),
        min_similarity=between(request, "min_similarity", -1, "a cosine"),
        filter=filter_from_pb(request.filter) if request.HasField("filter") else None,
        ranker=ranker_from_pb(request.ranker, field="ranker") if request.HasField("ranker") else None,
        rerank=rerank_from_pb(request.rerank, field="rerank") if request.HasField("rerank") else None,
        rerank_off=request.rerank_off,
        relevance_weight=between(request, "relevance_weight", 0, "1 looks at relevance only"),
        max_per_document=_within(request.max_per_document, MAX_PER_DOCUMENT, "max_per_document"),
        neighbours=_within(request.neighbours, MAX_NEIGHBOURS, "neighbours"),
    )


def ranker_from_pb(message: kb_pb.Ranker, *, field: str) -> Ranker:
    """With defaults filled in.

    Raises:
        InvalidArgument: Out of range.
    """
    if message.WhichOneof("kind") == "weighted":
        weight = message.weighted.dense_weight
        if not 0 <= weight <= 1:  # NaN is not either
            raise InvalidArgument.field(
                f"{field}.weighted.dense_weight", "must be 0 (words only) to 1 (vectors only)", weight
            )
        return Weighted(dense_weight=weight)
    k = message.reciprocal_rank.k or DEFAULT_RRF_K
    if not 1 <= k <= MAX_RRF_K:
        raise InvalidArgument.field(
            f"{field}.reciprocal_rank.k", f"must be 1 to {MAX_RRF_K}, or 0 for {DEFAULT_RRF_K}", k
        )
    return ReciprocalRank(k=k)


def rerank_from_pb(message: kb_pb.Rerank, *, field: str) -> Rerank:
    """As it stands.

    Raises:
        InvalidArgument: Out of range, or without a model.
    """
    return Rerank(
        model=check_model(message.model, field=f"{field}.model"),
        candidates=_within(message.candidates, MAX_RERANK_CANDIDATES, f"{field}.candidates"),
    )


def result_to_pb(knowledge_base: str, result: SearchResult) -> pb.SearchResponse:
    """Chunks, outcome and times."""
    message = pb.SearchResponse(
        outcome=pb.SearchOutcome.ValueType(result.outcome),
        revision=result.revision,
        ready_documents=result.ready_documents,
    )
    prefix = f"knowledgeBases/{knowledge_base}/documents/"
    for hit in result.hits:
        chunk = _add_hit(message, prefix, hit)
        for beside in result.neighbours.get(hit.id, ()):
            chunk.neighbours.add(id=beside.id, ordinal=beside.ordinal, text=beside.text)
    for reason in result.reasons:
        message.reasons.add(code=pb.SearchReason.Code.ValueType(reason.code), message=reason.message)
    for stage, seconds in result.stages.items():
        message.stages.add(stage=stage).duration.FromNanoseconds(round(seconds * 1e9))
    return message


def _add_hit(message: pb.SearchResponse, prefix: str, hit: Hit) -> pb.Chunk:
    chunk = message.chunks.add(
        id=hit.id,
        document=prefix + hit.document,
        document_title=hit.title,
        ordinal=hit.ordinal,
        text=hit.text,
        score=hit.score,
        location=hit.location,
        similarity=hit.similarity,
    )
    for name, value in hit.metadata.items():
        chunk.metadata[name].CopyFrom(value_to_pb(value))
    return chunk


def _text(text: str, field: str) -> str:
    if not text.strip():
        raise InvalidArgument.field(field, "must be set: what to look for")
    if len(text) > _MAX_QUERY_CHARACTERS:
        raise InvalidArgument.field(
            field, f"must have at most {_MAX_QUERY_CHARACTERS} characters, has {len(text)}"
        )
    return text


def _within(value: int, maximum: int, field: str) -> int:
    if not 0 <= value <= maximum:
        raise InvalidArgument.field(field, f"must be 0 to {maximum}", value)
    return value


def between(message: Message, name: str, least: int, what: str, *, field: str = "") -> float | None:
    """An optional number of the message; `field` names it if it is not at the top of a request.

    Raises:
        InvalidArgument: Out of range.
    """
    if not message.HasField(name):
        return None
    value: float = getattr(message, name)
    if not least <= value <= 1:  # NaN is not either
        raise InvalidArgument.field(field or name, f"must be {least} to 1: {what}", value)
    return value


def _vector(request: pb.SearchRequest) -> Vectors | None:
    if not request.query_vector:
        return None
    if not request.model_fingerprint:
        raise InvalidArgument.field(
            "model_fingerprint", "must be set with query_vector: EmbedResponse has it beside the vectors"
        )
    if len(request.query_vector) % 4:
        raise InvalidArgument.field(
            "query_vector", "must be little-endian float32, 4 bytes an element", len(request.query_vector)
        )
    vector = np.frombuffer(request.query_vector, dtype="<f4")
    if not math.isfinite(float(vector @ vector)) or not vector.any():
        raise InvalidArgument.field("query_vector", "must hold finite numbers, not all of them 0")
    return vector
