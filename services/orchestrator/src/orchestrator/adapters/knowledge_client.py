"""The retrieval and embedding services as the core's Knowledge and Embedder."""

from functools import lru_cache

import numpy as np
from agentteams.embedding.v1 import embedding_service_pb2 as embedding_pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc
from agentteams.retrieval.v1 import filter_pb2, knowledge_base_pb2, retrieval_service_pb2_grpc
from agentteams.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from google.protobuf.json_format import ParseDict

from manifests.base import model_resource
from manifests.filters import parse_filter
from orchestrator.core.model import Chunk, Embedding, Outcome, SearchQuery, SearchResult
from servicekit.client import RpcClient
from servicekit.errors import Internal

_FLOAT32 = np.dtype("<f4")
_OUTCOMES: dict[int, Outcome] = {
    retrieval_pb.SEARCH_OUTCOME_OK: "OK",
    retrieval_pb.SEARCH_OUTCOME_EMPTY: "EMPTY",
    retrieval_pb.SEARCH_OUTCOME_DEGRADED: "DEGRADED",
    retrieval_pb.SEARCH_OUTCOME_FAILED: "FAILED",
}


# Of what neighbours share: shorter beginnings may be there by chance, and nobody cuts with longer overlaps.
_LEAST_OVERLAP, _MOST_OVERLAP = 12, 4000


@lru_cache(maxsize=256)  # a team's searches have the same one
def _filter(text: str) -> filter_pb2.Filter:
    """The manifest was refused if it is none."""
    return ParseDict(parse_filter(text), filter_pb2.Filter())


def _with_neighbours(chunk: retrieval_pb.Chunk) -> str:
    """The chunk's text between those of its neighbours, what they share only once."""
    if not chunk.neighbours:
        return chunk.text
    pieces = sorted([(chunk.ordinal, chunk.text), *((n.ordinal, n.text) for n in chunk.neighbours)])
    text, before = pieces[0][1], pieces[0][0]
    for ordinal, piece in pieces[1:]:
        rest = without_overlap(text, piece) if ordinal == before + 1 else piece
        text = f"{text}\n{rest}" if rest else text
        before = ordinal
    return text


def without_overlap(before: str, after: str) -> str:
    """`after` without the beginning that `before` ends with."""
    head = after[:_LEAST_OVERLAP]
    at = before.find(head, max(0, len(before) - _MOST_OVERLAP))
    while at >= 0:
        if after.startswith(before[at:]):
            return after[len(before) - at :].lstrip()
        at = before.find(head, at + 1)
    return after


def _owner_and_name(knowledge_base: str) -> tuple[str, str]:
    """Of `name`, or `namespace/name` in another namespace: who owns it, and the resource's name."""
    owner, _, name = knowledge_base.rpartition("/")
    return owner, f"knowledgeBases/{name}"


class KnowledgeClient:
    """Searches through the retrieval service."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = retrieval_service_pb2_grpc.RetrievalServiceStub(rpc.channel)

    async def search(self, query: SearchQuery) -> SearchResult:
        """See Knowledge."""
        owner, name = _owner_and_name(query.knowledge_base)
        request = retrieval_pb.SearchRequest(
            knowledge_base=name,
            owner_tenant=owner,
            query=query.text[:8192],
            top_k=query.top_k,
            model_fingerprint=query.model_fingerprint,
            max_per_document=query.max_per_document,
            neighbours=query.neighbours,
        )
        if query.filter:
            request.filter.CopyFrom(_filter(query.filter))
        if query.mode is not None:
            request.mode = knowledge_base_pb2.SearchMode.Value(f"SEARCH_MODE_{query.mode.upper()}")
        if query.min_similarity is not None:
            request.min_similarity = query.min_similarity
        if query.vector is not None:
            request.query_vector = query.vector.astype(_FLOAT32, copy=False).tobytes()
        answer = await self._rpc.unary(self._stub.Search, request)
        return SearchResult(
            outcome=_OUTCOMES[answer.outcome],
            reasons=tuple(reason.message for reason in answer.reasons),
            chunks=tuple(
                Chunk(
                    id=c.id,
                    document=c.document,
                    title=c.document_title,
                    text=_with_neighbours(c),
                    score=c.score,
                    similarity=c.similarity if c.HasField("similarity") else None,
                )
                for c in answer.chunks
            ),
            ready_documents=answer.ready_documents,
            revision=str(answer.revision),
            stages={s.stage: s.duration.seconds + s.duration.nanos / 1e9 for s in answer.stages},
        )

    async def revision(self, knowledge_base: str) -> str:
        """See Knowledge."""
        owner, name = _owner_and_name(knowledge_base)
        request = retrieval_pb.GetKnowledgeBaseRequest(name=name, owner_tenant=owner)
        return str((await self._rpc.unary(self._stub.GetKnowledgeBase, request)).revision)


class EmbeddingClient:
    """Embeds queries through the embedding service."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = embedding_service_pb2_grpc.EmbeddingServiceStub(rpc.channel)

    async def embed_query(self, model: str, text: str) -> Embedding:
        """See Embedder."""
        answer = await self._rpc.unary(
            self._stub.Embed,
            embedding_pb.EmbedRequest(
                model=model_resource(model), kind=embedding_pb.TEXT_KIND_QUERY, texts=[text]
            ),
        )
        vector = np.frombuffer(answer.vectors, dtype=_FLOAT32)
        if vector.size != answer.dimension:
            raise Internal(
                f"model {model} returned {vector.size} numbers for a vector of {answer.dimension}",
                reason="MODEL_BAD_RESPONSE",
                metadata={"model": model},
            )
        return Embedding(vector=vector, model_fingerprint=answer.model_fingerprint)
