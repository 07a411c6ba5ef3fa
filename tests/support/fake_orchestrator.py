"""An orchestrator that does what a test says, over real gRPC."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from agentteams.session.v1 import run_pb2, run_scores_pb2, session_pb2
from grpc_health.v1 import health_pb2

from servicekit.context import Caller, current_caller
from servicekit.errors import NotFound, ServiceError, status_from_error
from servicekit.identity import IdentityKey
from servicekit.server import Service, new_server
from servicekit.testing import TEST_KEY

NAME = "agentteams.orchestrator.v1.OrchestratorService"

Item = pb.RunItem
Stream = Callable[[pb.StreamRunEventsRequest], AsyncIterator[Item]]


def delta(text: str, offset: int, *, message: str = "m1", member: str = "") -> Item:
    """A piece of text."""
    return Item(text_delta=pb.TextDelta(message=message, offset=offset, text=text, member=member))


def deltas(*texts: str, message: str = "m1") -> list[Item]:
    """Pieces that join on to one another."""
    offsets = [sum(map(len, texts[:index])) for index in range(len(texts))]
    return [delta(text, offset, message=message) for text, offset in zip(texts, offsets, strict=True)]


def started(sequence: int = 1) -> Item:
    """The first event."""
    return Item(event=run_pb2.RunEvent(sequence=sequence, run_started=run_pb2.RunStarted()))


def model_call_finished(sequence: int, *, member: str = "") -> Item:
    """A model has answered."""
    event = run_pb2.RunEvent(
        sequence=sequence, member=member, model_call_finished=run_pb2.ModelCallFinished(model="m")
    )
    return Item(event=event)


def person_asked(sequence: int, call_id: str) -> Item:
    """A tool call waits for approval."""
    asked = run_pb2.InputRequested(call_id=call_id, approval=run_pb2.ToolApprovalRequest(tool="refund"))
    return Item(event=run_pb2.RunEvent(sequence=sequence, member="clerk", input_requested=asked))


def person_answered(sequence: int, call_id: str) -> Item:
    """Somebody has decided."""
    said = run_pb2.RunInput(call_id=call_id, decision=run_pb2.ToolDecision(approved=True))
    provided = run_pb2.InputProvided(input=said)
    return Item(event=run_pb2.RunEvent(sequence=sequence, member="clerk", input_provided=provided))


def completed(
    sequence: int, text: str, *, member: str = "", citations: Sequence[session_pb2.Citation] = ()
) -> Item:
    """A message is complete; with no member it is the answer."""
    message = session_pb2.Message(role=session_pb2.ROLE_ASSISTANT, content=text, citations=citations)
    event = run_pb2.RunEvent(
        sequence=sequence, member=member, message_completed=run_pb2.MessageCompleted(message=message)
    )
    return Item(event=event)


def finished(sequence: int, *, error: ServiceError | None = None, cancelled: bool = False) -> Item:
    """The last event."""
    summary = run_pb2.RunSummary(
        usage=run_pb2.Usage(
            input_tokens=70,
            output_tokens=12,
            model_calls=3,
            tool_calls=2,
            searches=1,
            searches_saved=1,
        )
    )
    stage = summary.stages.add(stage="llm_inference", count=3)
    stage.duration.FromMilliseconds(1500)
    end = run_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED, summary=summary)
    if error is not None:
        end.state = run_pb2.RUN_STATE_FAILED
        end.status.CopyFrom(status_from_error(error))
    if cancelled:
        end.state = run_pb2.RUN_STATE_CANCELLED
    return Item(event=run_pb2.RunEvent(sequence=sequence, run_finished=end))


def scores_item(found: run_scores_pb2.RunScores | None = None, missing: int = 0) -> Item:
    """What came of waiting for scores."""
    result = pb.ScoresResult(scores=found) if found is not None else pb.ScoresResult(missing=missing)  # type: ignore[arg-type]
    return Item(scores=result)


def answer(*texts: str, citations: Sequence[session_pb2.Citation] = ()) -> list[Item]:
    """A run that goes well: its text in these pieces."""
    return [
        started(),
        *deltas(*texts),
        model_call_finished(2),
        completed(3, "".join(texts), citations=citations),
        finished(4),
    ]


def items(*steps: Item | asyncio.Event | ServiceError) -> Stream:
    """A stream of these steps: items are sent, an event is waited for, an error ends it.

    Stored events up to `after_sequence` are left out, as a real orchestrator does.
    """

    async def stream(request: pb.StreamRunEventsRequest) -> AsyncIterator[Item]:
        for step in steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            elif isinstance(step, ServiceError):
                raise step
            elif not step.HasField("event") or step.event.sequence > request.after_sequence:
                yield step

    return stream


def _whole(team: str) -> str:
    """As the real one says it: with the namespace for those who call from another one."""
    caller = current_caller()
    return f"{caller.tenant}/{team.removeprefix('teams/')}" if caller.home else team


class FakeOrchestrator(pb_grpc.OrchestratorServiceServicer):
    """Streams are taken from `streams` one after the other; the last one is used again."""

    def __init__(self) -> None:
        self.teams = [
            pb.Team(
                name="teams/support",
                description="Answers",
                mode="Coordinate",
                members=["analyst", "writer"],
                revision="r1",
                ready=True,
            )
        ]
        self.streams: deque[Stream] = deque([items(*answer("Hello", " world"))])
        self.start_error: ServiceError | None = None
        self.start_gate: asyncio.Event | None = None
        self.starts: list[pb.StartRunRequest] = []
        self.follows: list[pb.StreamRunEventsRequest] = []
        self.callers: list[Caller] = []
        self.followed = asyncio.Event()
        self.left = asyncio.Event()  # a follower hung up
        self._runs: dict[str, run_pb2.Run] = {}

    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> run_pb2.Run:
        """Idempotent per request id."""
        self.starts.append(request)
        self.callers.append(current_caller())
        if self.start_gate is not None:
            await self.start_gate.wait()
        if self.start_error is not None:
            raise self.start_error
        if all(team.name != request.team for team in self.teams):
            raise NotFound(f"no team {_whole(request.team)}", reason="TEAM_NOT_FOUND")
        return self._runs.setdefault(
            request.request_id,
            run_pb2.Run(name=f"runs/r{len(self._runs) + 1}", session=request.session or "sessions/new"),
        )

    async def StreamRunEvents(
        self, request: pb.StreamRunEventsRequest, context: Any
    ) -> AsyncIterator[pb.StreamRunEventsResponse]:
        """The next scripted stream."""
        self.follows.append(request)
        self.followed.set()
        stream = self.streams.popleft() if len(self.streams) > 1 else self.streams[0]
        try:
            async for item in stream(request):
                yield pb.StreamRunEventsResponse(items=[item])
        except asyncio.CancelledError:
            self.left.set()
            raise

    async def GetTeam(self, request: pb.GetTeamRequest, context: Any) -> pb.Team:
        """A team by name."""
        self.callers.append(current_caller())
        for team in self.teams:
            if team.name == request.name:
                return team
        raise NotFound(f"no team {_whole(request.name)}", reason="TEAM_NOT_FOUND")

    async def ListTeams(self, request: pb.ListTeamsRequest, context: Any) -> pb.ListTeamsResponse:
        """Pages of two at most."""
        begin = int(request.page_token or 0)
        page = self.teams[begin : begin + 2]
        more = begin + 2 < len(self.teams)
        return pb.ListTeamsResponse(teams=page, next_page_token=str(begin + 2) if more else "")

    async def RunTeam(self, request: pb.RunTeamRequest, context: Any) -> AsyncIterator[pb.RunTeamResponse]:
        """StartRun, then the next scripted stream."""
        run = await self.StartRun(request.start, context)
        follow = pb.StreamRunEventsRequest(run=run.name)
        async for response in self.StreamRunEvents(follow, context):
            yield pb.RunTeamResponse(run=run, items=response.items)

    async def ApproveToolCall(self, request: pb.ApproveToolCallRequest, context: Any) -> run_pb2.Run:
        """The gateway has no such call."""
        raise AssertionError("the gateway approved a tool call")

    async def AnswerQuestion(self, request: pb.AnswerQuestionRequest, context: Any) -> run_pb2.Run:
        """The gateway has no such call."""
        raise AssertionError("the gateway answered a question")

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> run_pb2.Run:
        """Nobody here may: a client that leaves does not stop its run."""
        raise AssertionError("the gateway cancelled a run")

    @asynccontextmanager
    async def serve(self, *, port: int = 0, key: IdentityKey = TEST_KEY) -> AsyncIterator[str]:
        """Serves on loopback, in health; leaving cuts what is open, as a kill would."""
        service = Service(
            name=NAME,
            register=lambda server: pb_grpc.add_OrchestratorServiceServicer_to_server(self, server),
            called_across=True,
        )
        server, health = new_server([service], key=key)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        await health.set(NAME, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        try:
            yield f"127.0.0.1:{bound}"
        finally:
            await server.stop(0)
