"""Teams of other namespaces over gRPC."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from agentteams.session.v1 import run_pb2, session_pb2

from manifests import FRONT_SERVICE
from orchestrator.adapters.events_read import state_from_pb, usage_from_pb
from orchestrator.core.calls import Began, Ended
from servicekit.calls import CallIssuer, CallKey
from servicekit.client import RpcClient, open_channel
from servicekit.clock import Clock
from servicekit.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
    error_from_status,
)
from servicekit.identity import IdentityKey, Issuer

_CALL = timedelta(seconds=10)
_FOLLOW = timedelta(hours=1)  # of one stream; then it is asked again
_PATIENCE_S = 30.0  # for a team that nobody serves just now, or that has too many runs
_FIRST_DELAY_S, _MAX_DELAY_S = 0.2, 2.0
_MAX_CLIENTS = 64
_MAX_HOPS = 2
_ELSEWHERE = "TEAM_SERVED_ELSEWHERE"

_Keys = Callable[[str], IdentityKey | CallKey]


def call_keys(key: IdentityKey, folder: Path) -> _Keys:
    """What calls of a namespace are signed with: the installation's key, or files `call-<namespace>`."""

    def find(namespace: str) -> IdentityKey | CallKey:
        if not key.tenant:
            return key
        try:
            return CallKey.read((folder / f"call-{namespace}").read_bytes())
        except FileNotFoundError:
            raise Unavailable(
                f"there is no key for calls of namespace {namespace} yet; the operator brings it within a "
                "minute after a team there has allowed this namespace and one here refers to it",
                reason="DEPENDENCY_UNAVAILABLE",
                metadata={"namespace": namespace},
            ) from None
        except (OSError, ValueError) as error:
            raise FailedPrecondition(
                f"the key for calls of namespace {namespace} cannot be used: {error}",
                reason="TEAM_NOT_READY",
                metadata={"namespace": namespace},
            ) from error

    return find


def filled_in(target: str) -> Callable[[str, str], str]:
    """Addresses by a setting: `{service}` and `{namespace}` in it are filled in."""
    return lambda service, namespace: target.replace("{namespace}", namespace).replace("{service}", service)


class TeamCalls:
    """See Calls. One client for each of the last used pools.

    Args:
        address: `host:port` of a Service of a namespace's pods.
        keys: What calls of a namespace are signed with. Raises: ServiceError.
        clock: For the time that a team is waited for.
    """

    def __init__(self, address: Callable[[str, str], str], *, keys: _Keys, clock: Clock) -> None:
        self._address = address
        self._keys = keys
        self._clock = clock
        self._clients: OrderedDict[tuple[str, str], RpcClient] = OrderedDict()
        self._users: dict[tuple[str, str], int] = {}

    async def ask(self, namespace: str, team: str, question: str, *, request_id: str, began: Began) -> Ended:
        """See Calls."""
        message = session_pb2.Message(role=session_pb2.ROLE_USER, content=question)
        start = pb.StartRunRequest(team=f"teams/{team}", input=[message], request_id=request_id)
        request = pb.RunTeamRequest(start=start)
        service, hops, delay_s = FRONT_SERVICE, 0, _FIRST_DELAY_S
        since, seen = self._clock.monotonic(), _Seen(began)
        while True:
            cause: ServiceError = _cut()
            try:
                async with self._client(namespace, service) as rpc:
                    stub: Any = OrchestratorServiceStub(rpc.channel)
                    await seen.read(rpc.server_stream(stub.RunTeam, request, timeout=_FOLLOW))
            except FailedPrecondition as error:
                pool, hops = str(error.metadata.get("pool", "")), hops + 1
                if error.reason != _ELSEWHERE or not pool or hops > _MAX_HOPS:
                    raise
                service = pool
                continue
            except (Unavailable, DeadlineExceeded, ResourceExhausted, Internal) as error:
                cause = error
            if seen.ended is not None:
                return seen.ended
            if seen.run:
                return await self._followed(namespace, seen)
            if self._clock.monotonic() - since >= _PATIENCE_S:
                raise cause
            asked_for = cause.retry_after.total_seconds() if cause.retry_after is not None else 0.0
            await asyncio.sleep(min(max(asked_for, delay_s), _MAX_DELAY_S))
            delay_s = min(2 * delay_s, _MAX_DELAY_S)

    async def follow(self, namespace: str, run: str) -> Ended:
        """See Calls."""
        return await self._followed(namespace, _Seen(None, run))

    async def cancel(self, namespace: str, run: str) -> None:
        """See Calls."""
        async with self._client(namespace, FRONT_SERVICE) as rpc:
            stub: Any = OrchestratorServiceStub(rpc.channel)
            try:
                await rpc.unary(stub.CancelRun, pb.CancelRunRequest(name=run), timeout=_CALL)
            except FailedPrecondition as error:
                if error.reason != "RUN_FINISHED":
                    raise

    async def close(self) -> None:
        """Ends all connections."""
        while self._clients:
            _, rpc = self._clients.popitem()
            await rpc.channel.close()

    async def _followed(self, namespace: str, seen: "_Seen") -> Ended:
        lost_at, delay_s = self._clock.monotonic(), _FIRST_DELAY_S
        while True:
            before, cause = seen.after, _cut()
            request = pb.StreamRunEventsRequest(run=seen.run, after_sequence=seen.after)
            try:
                async with self._client(namespace, FRONT_SERVICE) as rpc:
                    stub: Any = OrchestratorServiceStub(rpc.channel)
                    await seen.read(rpc.server_stream(stub.StreamRunEvents, request, timeout=_FOLLOW))
            except NotFound:
                raise
            except (Unavailable, DeadlineExceeded, Internal) as error:
                cause = error
            if seen.ended is not None:
                return seen.ended
            now = self._clock.monotonic()
            if seen.after > before:
                lost_at, delay_s = now, _FIRST_DELAY_S
            if now - lost_at >= 2 * _PATIENCE_S and not isinstance(cause, DeadlineExceeded):
                raise cause
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _MAX_DELAY_S)

    @asynccontextmanager
    async def _client(self, namespace: str, service: str) -> AsyncIterator[RpcClient]:
        address = self._address(service, namespace)
        key = (namespace, address)
        rpc = self._clients.get(key)
        if rpc is None:
            issuer: Issuer = CallIssuer(self._keys(namespace), owner=namespace, service="orchestrator")
            rpc = RpcClient(open_channel(address), issuer=issuer, default_timeout=_CALL)
            self._clients[key] = rpc
        self._clients.move_to_end(key)
        self._users[key] = self._users.get(key, 0) + 1
        try:
            await self._close_idle()
            yield rpc
        finally:
            self._users[key] -= 1

    async def _close_idle(self) -> None:
        idle = [key for key in self._clients if not self._users[key]]
        for key in idle[: max(0, len(self._clients) - _MAX_CLIENTS)]:
            del self._users[key]
            await self._clients.pop(key).channel.close()


class _Seen:
    """What was heard of a run, over all streams."""

    def __init__(self, began: Began | None, run: str = "") -> None:
        self._began = began
        self.run = run
        self.after = 0
        self.ended: Ended | None = None
        self._message = session_pb2.Message()

    async def read(self, stream: AsyncIterator[Any]) -> None:
        """Hears a stream to its end."""
        async with aclosing(stream):  # type: ignore[type-var]
            async for response in stream:
                if isinstance(response, pb.RunTeamResponse) and response.run.name and not self.run:
                    self.run = response.run.name
                    if self._began is not None:
                        self._began(self.run)
                for item in response.items:
                    if item.HasField("event") and item.event.sequence > self.after:
                        self._take(item.event)

    def _take(self, event: run_pb2.RunEvent) -> None:
        self.after = event.sequence
        kind = event.WhichOneof("event")
        if kind == "message_completed":
            message = event.message_completed.message
            if message.role == session_pb2.ROLE_ASSISTANT and not event.member:
                self._message = message
        elif kind == "run_finished":
            end = event.run_finished
            self.ended = Ended(
                run=self.run,
                state=state_from_pb(end.state),
                answer=self._message.content,
                cited=[citation.number for citation in self._message.citations],
                usage=usage_from_pb(end.summary.usage),
                error=error_from_status(end.status) if end.HasField("status") else None,
            )


def _cut() -> ServiceError:
    return Unavailable("the stream of the run's events ended before the run", reason="DEPENDENCY_UNAVAILABLE")
