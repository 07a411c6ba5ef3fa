"""The orchestrator over gRPC."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import grpc
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1.orchestrator_service_pb2_grpc import OrchestratorServiceStub
from agentteams.session.v1 import run_pb2, session_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.adapters.read import citation_from_pb, scores_from_pb, stages_from_pb, usage_from_pb
from gateway.core.model import (
    Answer,
    ModelCallEnded,
    NoScores,
    PersonAnswered,
    PersonAsked,
    Question,
    Run,
    RunEnded,
    RunItem,
    Scores,
    Team,
    TextPiece,
)
from servicekit.client import RpcClient
from servicekit.clock import Clock
from servicekit.errors import (
    DeadlineExceeded,
    Internal,
    ServiceError,
    Unavailable,
    error_from_rpc,
    error_from_status,
)
from servicekit.spans import mark

SERVICE = "agentteams.orchestrator.v1.OrchestratorService"
_HEALTH_TIMEOUT_S = 2.0
_PAGE_SIZE = 200
_MAX_PAGES = 50
_FIRST_DELAY_S, _MAX_DELAY_S = 0.1, 2.0
# A stream cut by a stopping server ends as INTERNAL or CANCELLED now and then; a bug does so each time.
_MAX_ODD_ENDS = 3

_ROLES = {
    "system": session_pb2.ROLE_SYSTEM,
    "user": session_pb2.ROLE_USER,
    "assistant": session_pb2.ROLE_ASSISTANT,
}
_STATES = {
    run_pb2.RUN_STATE_SUCCEEDED: "succeeded",
    run_pb2.RUN_STATE_FAILED: "failed",
    run_pb2.RUN_STATE_CANCELLED: "cancelled",
}

_Stream = AsyncIterator[pb.StreamRunEventsResponse | pb.RunTeamResponse]


class OrchestratorClient:
    """Calls as the current caller.

    Args:
        rpc: The connection.
        clock: For the time a lost stream is sought.
        start_timeout: Until a run has begun, and for the calls about teams.
        follow_timeout: For one stream of events.
        reconnect: How long a lost stream is sought before it is an error.
    """

    def __init__(
        self,
        rpc: RpcClient,
        *,
        clock: Clock,
        start_timeout: timedelta,
        follow_timeout: timedelta,
        reconnect: timedelta,
    ) -> None:
        self._rpc = rpc
        self._clock = clock
        self._start_timeout = start_timeout
        self._follow_timeout = follow_timeout
        self._reconnect_s = reconnect.total_seconds()
        self._stub = OrchestratorServiceStub(rpc.channel)
        self._health = health_pb2_grpc.HealthStub(rpc.channel)

    async def close(self) -> None:
        """Ends the connection."""
        await self._rpc.channel.close()

    async def check(self) -> None:
        """Returns if it serves. Raises: Unavailable."""
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        try:
            response = await self._health.Check(  # type: ignore[attr-defined]  # it ships no types
                request, timeout=_HEALTH_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error) from error
        if response.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable("the orchestrator is not ready", reason="DEPENDENCY_UNAVAILABLE")

    async def ask(self, question: Question, *, request_id: str) -> tuple[Run, AsyncGenerator[RunItem, None]]:
        """Starts a run and follows it. Raises: ServiceError."""
        request = pb.RunTeamRequest(
            start=pb.StartRunRequest(
                team=f"teams/{question.team}",
                session=question.session,
                input=[
                    session_pb2.Message(role=_ROLES[message.role], content=message.content)
                    for message in question.messages
                ],
                request_id=request_id,
                answer_schema=_struct(question.answer_schema),
            )
        )
        stream = self._rpc.server_stream(self._stub.RunTeam, request, timeout=self._follow_timeout)
        try:
            async with asyncio.timeout(self._start_timeout.total_seconds()):
                first = await anext(stream)
        except StopAsyncIteration as error:
            raise Internal("the orchestrator did not say which run it began", reason="INTERNAL") from error
        except TimeoutError as error:
            seconds = self._start_timeout.total_seconds()
            raise DeadlineExceeded(
                f"the run did not begin within {seconds:g} s", reason="DEADLINE_TOO_SHORT"
            ) from error
        run = Run(name=first.run.name, session=first.run.session)
        return run, self._follow(run, _with_first(first, stream))

    def follow(self, run: Run) -> AsyncGenerator[RunItem, None]:
        """All that happens to the run until RunEnded; finds a lost stream again. Raises: ServiceError."""
        return self._follow(run, self._stream(run, 0))

    def _stream(self, run: Run, after: int) -> _Stream:
        request = pb.StreamRunEventsRequest(run=run.name, after_sequence=after)
        return self._rpc.server_stream(self._stub.StreamRunEvents, request, timeout=self._follow_timeout)

    async def _follow(self, run: Run, stream: _Stream) -> AsyncGenerator[RunItem, None]:
        after = 0
        lost_at: float | None = None
        delay, odd_ends = _FIRST_DELAY_S, 0
        ended: RunEnded | None = None
        while True:
            cause: ServiceError
            try:
                # The wrapper is an async generator, whatever its annotation says.
                async with aclosing(stream):  # type: ignore[type-var]
                    async for response in stream:
                        lost_at, delay = None, _FIRST_DELAY_S
                        for part in response.items:
                            if part.HasField("text_delta"):
                                piece = part.text_delta
                                if not piece.member:
                                    yield TextPiece(piece.message, piece.offset, piece.text)
                                continue
                            event = part.event
                            if event.sequence <= after:
                                continue  # already seen before the stream broke
                            after, odd_ends = event.sequence, 0
                            item = _item(event)
                            if isinstance(item, RunEnded):
                                ended = (
                                    item  # the stream's own end follows at once; cutting it off costs more
                                )
                            elif item is not None:
                                yield item
                cause = Internal("the stream of events ended before the run", reason="INTERNAL")
            except (Unavailable, Internal) as error:
                cause = error
            if ended is not None:
                yield ended
                return
            odd_ends += isinstance(cause, Internal)
            now = self._clock.monotonic()
            lost_at = now if lost_at is None else lost_at
            if now - lost_at >= self._reconnect_s or odd_ends >= _MAX_ODD_ENDS:
                raise _lost(cause)
            mark("stream_lost")
            await asyncio.sleep(delay)
            delay = min(2 * delay, _MAX_DELAY_S)
            stream = self._stream(run, after)

    async def scores(self, run: Run, *, after: int, within: timedelta) -> Scores | NoScores:
        """See Orchestrator. A stream that is cut is begun again while there is time."""
        ends = self._clock.monotonic() + within.total_seconds()
        delay = _FIRST_DELAY_S
        while True:
            left = max(ends - self._clock.monotonic(), 0.001)  # 0 would not ask for them
            request = pb.StreamRunEventsRequest(run=run.name, after_sequence=after)
            request.wait_scores.FromTimedelta(timedelta(seconds=left))
            timeout = timedelta(seconds=left) + self._start_timeout
            stream = self._rpc.server_stream(self._stub.StreamRunEvents, request, timeout=timeout)
            try:
                async with aclosing(stream):  # type: ignore[type-var]
                    async for response in stream:
                        for part in response.items:
                            if part.HasField("scores"):
                                return _scores(part.scores)
                raise Internal("the orchestrator is of a version that knows no scores", reason="INTERNAL")
            except Unavailable:
                if self._clock.monotonic() + delay >= ends:
                    raise
            await asyncio.sleep(delay)
            delay = min(2 * delay, _MAX_DELAY_S)

    async def team(self, name: str) -> Team:
        """One team. Raises: NotFound and other ServiceErrors."""
        request = pb.GetTeamRequest(name=f"teams/{name}")
        return _team(await self._rpc.unary(self._stub.GetTeam, request, timeout=self._start_timeout))

    async def teams(self) -> list[Team]:
        """All teams of the caller, by name. Raises: ServiceError."""
        teams: list[Team] = []
        token = ""
        for _ in range(_MAX_PAGES):
            request = pb.ListTeamsRequest(page_size=_PAGE_SIZE, page_token=token)
            page = await self._rpc.unary(self._stub.ListTeams, request, timeout=self._start_timeout)
            teams.extend(_team(team) for team in page.teams)
            token = page.next_page_token
            if not token:
                break
        return teams


async def _with_first(first: pb.RunTeamResponse, rest: _Stream) -> _Stream:
    async with aclosing(rest):  # type: ignore[type-var]
        yield first
        async for response in rest:
            yield response


def _struct(value: Mapping[str, Any] | None) -> Struct | None:
    return None if value is None else ParseDict(dict(value), Struct())


def _lost(cause: ServiceError) -> ServiceError:
    message = (
        "The connection to the run was lost and could not be found again; the run may go on. "
        f"Repeat the request with the same Idempotency-Key to follow it. ({cause.message})"
    )
    return Unavailable(message, reason=cause.reason, metadata=cause.metadata)


def _item(event: run_pb2.RunEvent) -> RunItem | None:
    kind = event.WhichOneof("event")
    if kind == "run_finished":
        return _ended(event.run_finished, event.sequence)
    if kind == "input_requested":
        return _asked(event.input_requested)
    if kind == "input_provided":
        return PersonAnswered(event.input_provided.input.call_id)
    return None if event.member else _own_item(event, kind)


def _own_item(event: run_pb2.RunEvent, kind: str | None) -> RunItem | None:
    """What the team itself did, not one of its members."""
    if kind == "model_call_finished":
        return ModelCallEnded()
    if kind == "message_completed":
        message = event.message_completed.message
        if message.role == session_pb2.ROLE_ASSISTANT:
            return Answer(
                text=message.content, citations=tuple(citation_from_pb(c) for c in message.citations)
            )
    return None


def _asked(asked: run_pb2.InputRequested) -> PersonAsked:
    if asked.WhichOneof("request") == "question":
        return PersonAsked(asked.call_id, f"an answer to: {asked.question.text}")
    return PersonAsked(asked.call_id, f"approval of {asked.approval.tool}")


def _scores(found: pb.ScoresResult) -> Scores | NoScores:
    if found.HasField("scores"):
        return scores_from_pb(found.scores)
    never = found.missing == pb.ScoresResult.MISSING_NOT_CHOSEN
    return NoScores(missing="not_chosen" if never else "not_yet")


def _ended(finished: run_pb2.RunFinished, sequence: int) -> RunEnded:
    return RunEnded(
        sequence=sequence,
        state=_STATES.get(finished.state, "failed"),
        error=_error(finished),
        usage=usage_from_pb(finished.summary.usage),
        stages=stages_from_pb(finished.summary),
    )


def _error(finished: run_pb2.RunFinished) -> ServiceError | None:
    if finished.HasField("status"):
        return error_from_status(finished.status)
    if finished.state == run_pb2.RUN_STATE_FAILED:
        return Internal("the run failed and said no reason", reason="INTERNAL")
    return None


def _team(team: pb.Team) -> Team:
    return Team(
        name=team.name.removeprefix("teams/"),
        description=team.description,
        mode=team.mode,
        members=tuple(team.members),
        revision=team.revision,
        ready=team.ready,
        reason=team.reason,
    )
