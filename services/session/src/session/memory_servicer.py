"""The gRPC face of memories: checks and translates, calls the store, translates back."""

import hashlib
from functools import partial

import grpc
from agentteams.session.v1 import memory_pb2, memory_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from servicekit.errors import InvalidArgument
from servicekit.paging import PageTokens, page_size
from servicekit.server import Service
from session import checks, convert
from session.callers import current_owner
from session.core.user_data import MAX_MEMORY_BYTES, MAX_QUERY_WORDS, Memory, MemoryStore, NewMemory
from session.core.words import words_of

SERVICE_NAME = memory_pb2.DESCRIPTOR.services_by_name["MemoryService"].full_name


class MemoryServicer(memory_pb2_grpc.MemoryServiceServicer):
    """MemoryService over a store."""

    def __init__(self, *, store: MemoryStore, tokens: PageTokens) -> None:
        self._store = store
        self._tokens = tokens

    async def AddMemory(
        self,
        request: memory_pb2.AddMemoryRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> memory_pb2.Memory:
        """Adds a memory."""
        memory = request.memory
        new = NewMemory(
            request_id=checks.request_id(request.request_id),
            body_hash=_body_hash(memory),
            team=checks.optional_id("memory.team", memory.team, "teams"),
            text=_short_text("memory.text", memory.text),
        )
        return memory_to_pb(await self._store.add_memory(current_owner(), new))

    async def ListMemories(
        self,
        request: memory_pb2.ListMemoriesRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> memory_pb2.ListMemoriesResponse:
        """Lists memories, newest first."""
        owner = current_owner()
        bound = ("memories", owner.tenant, owner.user, request.team)
        limit = page_size(request.page_size, default=50, maximum=200)
        token = request.page_token
        found = await self._store.list_memories(
            owner,
            team=checks.optional_id("team", request.team, "teams"),
            before=convert.place(self._tokens.decode(bound, token)) if token else None,
            limit=limit + 1,
        )
        response = memory_pb2.ListMemoriesResponse(memories=map(memory_to_pb, found[:limit]))
        if len(found) > limit:
            last = found[limit - 1]
            response.next_page_token = self._tokens.encode(bound, convert.cursor(last.create_time, last.id))
        return response

    async def SearchMemories(
        self,
        request: memory_pb2.SearchMemoriesRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> memory_pb2.SearchMemoriesResponse:
        """Finds memories by their words."""
        words = words_of(_short_text("query", request.query))
        if not words:
            raise InvalidArgument.field("query", "has no word; ask with one at least", request.query)
        found = await self._store.search_memories(
            current_owner(),
            words=words[:MAX_QUERY_WORDS],
            team=checks.optional_id("team", request.team, "teams"),
            limit=page_size(request.max_results, default=10, maximum=50, field="max_results"),
        )
        return memory_pb2.SearchMemoriesResponse(memories=map(memory_to_pb, found))

    async def ForgetMemory(
        self,
        request: memory_pb2.ForgetMemoryRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> Empty:
        """Deletes a memory."""
        memory = checks.resource_id("name", request.name, "memories")
        await self._store.forget_memory(current_owner(), memory)
        return Empty()


def memory_service(servicer: MemoryServicer) -> Service:
    """For servicekit's server."""
    return Service(
        name=SERVICE_NAME,
        register=partial(memory_pb2_grpc.add_MemoryServiceServicer_to_server, servicer),
    )


def memory_to_pb(memory: Memory) -> memory_pb2.Memory:
    """The resource."""
    return memory_pb2.Memory(
        name=f"memories/{memory.id}",
        text=memory.text,
        team=f"teams/{memory.team}" if memory.team else "",
        create_time=convert.timestamp(memory.create_time),
        user=memory.user,
    )


def _short_text(field: str, value: str) -> str:
    checks.text(field, value, maximum=MAX_MEMORY_BYTES, required=True)
    size = len(value.encode())
    if size > MAX_MEMORY_BYTES:
        raise InvalidArgument.field(field, f"has {size} bytes, at most {MAX_MEMORY_BYTES} are allowed")
    return value


def _body_hash(memory: memory_pb2.Memory) -> bytes:
    body = memory_pb2.Memory(text=memory.text, team=memory.team)
    return hashlib.sha256(body.SerializeToString(deterministic=True)).digest()
