"""Exported chunks to protobuf."""

from collections.abc import Iterator, Sequence

from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from retrieval.convert_filter import values_to_pb
from retrieval.core.model import StoredChunk

# gRPC takes 4 MiB a message by default; one chunk has at most 64 KiB of text and 128 KiB of vector.
_MAX_BYTES = 1024 * 1024


def responses(knowledge_base: str, chunks: Sequence[StoredChunk]) -> Iterator[pb.ExportChunksResponse]:
    """As many messages as their size needs."""
    prefix = f"knowledgeBases/{knowledge_base}/documents/"
    response, size, vectors = pb.ExportChunksResponse(), 0, bytearray()
    for chunk in chunks:
        message = _chunk_to_pb(chunk, prefix)
        vector = b"" if chunk.vector is None else chunk.vector.astype("<f4").tobytes()
        added = message.ByteSize() + len(vector)
        if size and size + added > _MAX_BYTES:
            response.vectors = bytes(vectors)
            yield response
            response, size, vectors = pb.ExportChunksResponse(), 0, bytearray()
        response.chunks.append(message)
        vectors += vector
        size += added
    if size:
        response.vectors = bytes(vectors)
        yield response


def _chunk_to_pb(chunk: StoredChunk, prefix: str) -> pb.Chunk:
    record = chunk.record
    return pb.Chunk(
        id=record.id,
        document=prefix + record.document,
        document_title=record.title,
        ordinal=record.ordinal,
        text=record.text,
        location=record.location,
        metadata=values_to_pb(record.metadata),
    )
