"""Knowledge bases as the commands see them: from a manifest, and out again."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta

from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from agentteams.retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub

from agentteams_cli.errors import CliError
from servicekit.client import RpcClient

EXPORT_TIMEOUT = timedelta(hours=2)
MAX_FAILURES = 5


def metadata_values(
    knowledge_base: kb_pb.KnowledgeBase, given: Mapping[str, str]
) -> dict[str, filter_pb.Value]:
    """Texts as values of the knowledge base's fields.

    Raises:
        CliError: It has no such field, or the text is no value of its type.
    """
    types = {field.name: field.type for field in knowledge_base.metadata_fields}
    values = {}
    for name, text in given.items():
        if name not in types:
            known = f"name one of {', '.join(sorted(types))}" if types else "it has none"
            raise CliError(
                f'{knowledge_base.name} has no metadata field "{name}"',
                fix=f"{known}, or add it to spec.schema.metadataFields and apply the manifest",
            )
        values[name] = _value(name, text, types[name])
    return values


def _value(name: str, text: str, type_: int) -> filter_pb.Value:
    try:
        if type_ == kb_pb.METADATA_TYPE_INT64:
            return filter_pb.Value(int_value=int(text))
        if type_ == kb_pb.METADATA_TYPE_DOUBLE:
            return filter_pb.Value(double_value=float(text))
        if type_ == kb_pb.METADATA_TYPE_BOOL:
            return filter_pb.Value(bool_value={"true": True, "false": False}[text.lower()])
    except (ValueError, KeyError):
        kinds: dict[int, str] = {
            kb_pb.METADATA_TYPE_INT64: "a whole number",
            kb_pb.METADATA_TYPE_DOUBLE: "a number",
        }
        kind = kinds.get(type_, "true or false")
        raise CliError(f'metadata {name}: "{text}" is not {kind}', fix="change the value") from None
    return filter_pb.Value(string_value=text)


def value_of(value: filter_pb.Value) -> str | int | float | bool:
    """A value as JSON has it."""
    kind = value.WhichOneof("kind")
    found: str | int | float | bool = getattr(value, kind) if kind else ""
    return found


class Knowledge:
    """Typed calls to the retrieval service; raises ServiceError as `servicekit.client` does."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = RetrievalServiceStub(rpc.channel)

    async def failures(self, knowledge_base: str) -> list[kb_pb.Document]:
        """The first documents that could not be indexed."""
        request = pb.ListDocumentsRequest(
            parent=f"knowledgeBases/{knowledge_base}",
            state=kb_pb.DOCUMENT_STATE_FAILED,
            page_size=MAX_FAILURES,
        )
        return list((await self._rpc.unary(self._stub.ListDocuments, request)).documents)

    async def export(
        self, knowledge_base: str, *, filter_: filter_pb.Filter | None, vectors: bool
    ) -> AsyncIterator[pb.ExportChunksResponse]:
        """All chunks that the filter allows."""
        request = pb.ExportChunksRequest(
            name=f"knowledgeBases/{knowledge_base}", filter=filter_, include_vectors=vectors
        )
        stream = self._rpc.server_stream(self._stub.ExportChunks, request, timeout=EXPORT_TIMEOUT)
        async with contextlib.aclosing(stream):  # type: ignore[type-var]
            async for response in stream:
                yield response
