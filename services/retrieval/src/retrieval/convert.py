"""The domain to protobuf."""

from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from google.rpc import status_pb2

from retrieval.convert_filter import value_to_pb
from retrieval.core.model import (
    DEFAULT_MAX_TOKENS,
    DEFAULT_OVERLAP_TOKENS,
    Chunking,
    ChunkingStrategy,
    Document,
    DocumentError,
    SearchMode,
)
from servicekit.errors import FailedPrecondition, InvalidArgument, status_from_error

_MIN_TOKENS, _MAX_TOKENS = 16, 2000


def document_to_pb(document: Document) -> kb_pb.Document:
    """With its error, if it has one."""
    message = kb_pb.Document(
        name=f"knowledgeBases/{document.knowledge_base}/documents/{document.id}",
        path=document.path,
        media_type=document.media_type,
        size_bytes=document.size_bytes,
        sha256=document.sha256,
        state=kb_pb.DocumentState.ValueType(document.state),
        chunk_count=document.chunk_count,
        warnings=document.warnings,
        source=document.source,
    )
    for name, value in document.metadata.items():
        message.metadata[name].CopyFrom(value_to_pb(value))
    if document.error is not None:
        message.error.CopyFrom(_error_to_pb(document.path, document.error))
    message.create_time.FromDatetime(document.create_time)
    message.update_time.FromDatetime(document.update_time)
    return message


def chunking_from_pb(message: kb_pb.Chunking) -> Chunking:
    """With defaults filled in.

    Raises:
        InvalidArgument: Out of range.
    """
    field = "knowledge_base.chunking"
    max_tokens = message.max_tokens or DEFAULT_MAX_TOKENS
    if not _MIN_TOKENS <= max_tokens <= _MAX_TOKENS:
        raise InvalidArgument.field(
            f"{field}.max_tokens", f"must be {_MIN_TOKENS} to {_MAX_TOKENS}, or 0 for 200", max_tokens
        )
    # The default overlap must not refuse a small max_tokens.
    overlap = message.overlap_tokens or min(DEFAULT_OVERLAP_TOKENS, max_tokens // 4)
    if not 0 <= overlap < max_tokens:
        raise InvalidArgument.field(
            f"{field}.overlap_tokens", f"must be 0 to {max_tokens - 1}, less than max_tokens", overlap
        )
    try:
        strategy = ChunkingStrategy(message.strategy or ChunkingStrategy.AUTO)
    except ValueError:
        names = ", ".join(f"CHUNKING_STRATEGY_{known.name}" for known in ChunkingStrategy)
        raise InvalidArgument.field(
            f"{field}.strategy", f"must be one of {names}", message.strategy
        ) from None
    return Chunking(max_tokens=max_tokens, overlap_tokens=overlap, strategy=strategy)


def mode_from_pb(value: int, *, field: str) -> SearchMode | None:
    """None for UNSPECIFIED.

    Raises:
        InvalidArgument: A number that this version does not know.
    """
    if value == kb_pb.SEARCH_MODE_UNSPECIFIED:
        return None
    try:
        return SearchMode(value)
    except ValueError:
        raise InvalidArgument.field(
            field, "must be SEARCH_MODE_DENSE, SEARCH_MODE_SPARSE or SEARCH_MODE_HYBRID", value
        ) from None


def _error_to_pb(path: str, error: DocumentError) -> status_pb2.Status:
    return status_from_error(FailedPrecondition(error.message, reason=error.reason, metadata={"path": path}))
