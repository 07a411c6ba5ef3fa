"""A small service of servicekit as a process: `python -m tests.support.echo_service`.

Becomes ready when the file named by ECHO_READY_FILE is there; a call with model
"slow" is answered when the file named by ECHO_ANSWER_FILE is there.
"""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from agentteams.embedding.v1 import embedding_service_pb2 as pb
from agentteams.embedding.v1 import embedding_service_pb2_grpc as pb_grpc

from servicekit.config import ServerSettings
from servicekit.errors import Unavailable
from servicekit.server import Assembly, Service, run


class Echo(pb_grpc.EmbeddingServiceServicer):
    """Answers Embed."""

    async def Embed(self, request: pb.EmbedRequest, context: Any) -> pb.EmbedResponse:
        print("call", flush=True)  # noqa: T201  # the test waits for this line
        if request.model == "slow":
            await _until_exists("ECHO_ANSWER_FILE")
        return pb.EmbedResponse(dimension=len(request.texts))

    async def GetEmbeddingModel(self, request: Any, context: Any) -> pb.EmbeddingModel:
        raise NotImplementedError


async def _until_exists(variable: str) -> None:
    path = Path(os.environ[variable])
    while not await asyncio.to_thread(path.exists):  # noqa: ASYNC110  # another process makes it
        await asyncio.sleep(0.02)


async def build(stack: AsyncExitStack) -> Assembly:
    """One service that is ready when its file is there."""

    async def ready() -> None:
        if not await asyncio.to_thread(Path(os.environ["ECHO_READY_FILE"]).exists):
            raise Unavailable("not yet", reason="DEPENDENCY_UNAVAILABLE")

    stack.callback(print, "closed", flush=True)
    service = Service(
        name="agentteams.embedding.v1.EmbeddingService",
        register=lambda server: pb_grpc.add_EmbeddingServiceServicer_to_server(Echo(), server),
    )
    return Assembly(services=[service], ready=ready)


if __name__ == "__main__":
    run(ServerSettings(), name="echo", build=build)
