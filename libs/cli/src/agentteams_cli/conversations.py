"""Sessions, memories, and all that belongs to a user, as the commands see them."""

import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import TypeVar

from agentteams.session.v1 import memory_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.memory_pb2_grpc import MemoryServiceStub
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from agentteams_cli.paging import pages
from servicekit.client import RpcClient

Row = TypeVar("Row", session_pb2.Session, memory_pb2.Memory)

PAGE_SIZE = 200
EXPORT_TIMEOUT = timedelta(minutes=30)
ERASE_TIMEOUT = timedelta(minutes=5)


class Conversations:
    """Typed calls to the session service; raises ServiceError as `servicekit.client` does."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._sessions = SessionServiceStub(rpc.channel)
        self._memories = MemoryServiceStub(rpc.channel)

    async def sessions(self, *, team: str = "", limit: int) -> list[session_pb2.Session]:
        """The sessions that were used last."""

        async def page(token: str) -> tuple[Sequence[session_pb2.Session], str]:
            request = pb.ListSessionsRequest(
                team=f"teams/{team}" if team else "", page_size=min(limit, PAGE_SIZE), page_token=token
            )
            response = await self._rpc.unary(self._sessions.ListSessions, request)
            return response.sessions, response.next_page_token

        return await _first(pages(page), limit)

    async def session(self, name: str) -> session_pb2.Session:
        """One session."""
        return await self._rpc.unary(self._sessions.GetSession, pb.GetSessionRequest(name=name))

    async def messages(self, session: str) -> AsyncIterator[session_pb2.Message]:
        """A session's messages, oldest first."""

        async def page(token: str) -> tuple[Sequence[session_pb2.Message], str]:
            request = pb.ListMessagesRequest(parent=session, page_size=PAGE_SIZE, page_token=token)
            response = await self._rpc.unary(self._sessions.ListMessages, request)
            return response.messages, response.next_page_token

        async for message in pages(page):
            yield message

    async def rename(self, session: str, display_name: str) -> session_pb2.Session:
        """Gives a session another title."""
        request = pb.UpdateSessionRequest(
            session=session_pb2.Session(name=session, display_name=display_name)
        )
        request.update_mask.paths.append("display_name")
        return await self._rpc.unary(self._sessions.UpdateSession, request)

    async def fork(self, message: str, *, display_name: str = "") -> session_pb2.Session:
        """A new session with everything up to a message."""
        request = pb.ForkSessionRequest(
            message=message, request_id=str(uuid.uuid4()), display_name=display_name
        )
        return await self._rpc.unary(self._sessions.ForkSession, request)

    async def delete(self, session: str) -> None:
        """Deletes a session with everything below it."""
        await self._rpc.unary(self._sessions.DeleteSession, pb.DeleteSessionRequest(name=session))

    async def add_memory(self, text: str, *, team: str = "") -> memory_pb2.Memory:
        """Remembers something about the user, for one team or for all."""
        memory = memory_pb2.Memory(text=text, team=f"teams/{team}" if team else "")
        request = memory_pb2.AddMemoryRequest(memory=memory, request_id=str(uuid.uuid4()))
        return await self._rpc.unary(self._memories.AddMemory, request)

    async def memories(self, *, team: str = "", limit: int) -> list[memory_pb2.Memory]:
        """The newest memories."""

        async def page(token: str) -> tuple[Sequence[memory_pb2.Memory], str]:
            request = memory_pb2.ListMemoriesRequest(
                team=f"teams/{team}" if team else "", page_size=min(limit, PAGE_SIZE), page_token=token
            )
            response = await self._rpc.unary(self._memories.ListMemories, request)
            return response.memories, response.next_page_token

        return await _first(pages(page), limit)

    async def search_memories(self, query: str, *, team: str = "", limit: int) -> list[memory_pb2.Memory]:
        """The memories that fit a query best."""
        request = memory_pb2.SearchMemoriesRequest(
            query=query, team=f"teams/{team}" if team else "", max_results=limit
        )
        return list((await self._rpc.unary(self._memories.SearchMemories, request)).memories)

    async def forget(self, memory: str) -> None:
        """Deletes a memory."""
        await self._rpc.unary(self._memories.ForgetMemory, memory_pb2.ForgetMemoryRequest(name=memory))

    async def export(self) -> AsyncIterator[pb.UserRecord]:
        """Everything that belongs to the user."""
        request = pb.ExportUserDataRequest()
        stream = self._rpc.server_stream(self._sessions.ExportUserData, request, timeout=EXPORT_TIMEOUT)
        async for response in stream:
            for record in response.records:
                yield record

    async def erase(self) -> pb.EraseUserDataResponse:
        """Deletes everything that belongs to the user; returns what was deleted."""
        request = pb.EraseUserDataRequest()
        return await self._rpc.unary(self._sessions.EraseUserData, request, timeout=ERASE_TIMEOUT)


async def _first(items: AsyncIterator[Row], limit: int) -> list[Row]:
    found: list[Row] = []
    async for item in items:
        found.append(item)
        if len(found) == limit:
            break
    return found
