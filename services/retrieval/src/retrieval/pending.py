"""Calls of the proto file that are not built yet: each answers UNIMPLEMENTED until it has its own module."""

import grpc
from agentteams.retrieval.v1 import retrieval_service_pb2_grpc as pb_grpc

Context = grpc.aio.ServicerContext[object, object]


async def _not_yet(context: Context) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this version of the service does not have the call")


class Pending(pb_grpc.RetrievalServiceServicer):
    """See the proto file."""

    async def ExportChunks(self, request: object, context: Context) -> None:  # type: ignore[override]
        """See the proto file."""
        await _not_yet(context)
