"""Clients that go on from somewhere earlier: a fork at any message of their session."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import TypeVar

from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from servicekit.client import RpcClient
from servicekit.errors import ServiceError
from tests.chaos.history import Fork, Recorder

T = TypeVar("T")
_RETRY_S = (0.1, 0.6)


async def fork(
    rpc: RpcClient, session: str, *, client: str, recorder: Recorder, dice: random.Random, wait_until: float
) -> str:
    """Forks a session at one of its messages; returns the fork, or the session if it has none yet."""
    stub = SessionServiceStub(rpc.channel)

    async def answered(call: Callable[[], Awaitable[T]]) -> T | None:
        while time.monotonic() < wait_until:
            try:
                return await call()
            except ServiceError as error:
                recorder.note("not_forked", client, reason=error.reason, message=error.message[:200])
                await asyncio.sleep(dice.uniform(*_RETRY_S))  # as a client does
        return None

    found = await answered(lambda: rpc.unary(stub.GetSession, pb.GetSessionRequest(name=session)))
    if found is None or not found.message_count:
        return session
    sequence = dice.randint(1, found.message_count)
    request = pb.ForkSessionRequest(
        message=f"{session}/messages/{sequence}",
        request_id=str(uuid.UUID(int=dice.getrandbits(128), version=4)),
    )
    made = session
    for _ in range(dice.choice((1, 1, 2))):  # twice: as one who did not get the answer would
        forked = await answered(lambda: rpc.unary(stub.ForkSession, request))
        if forked is None:
            break
        made = forked.name
        recorder.fork(
            Fork(
                request_id=request.request_id, client=client, source=session, sequence=sequence, session=made
            )
        )
    return made
