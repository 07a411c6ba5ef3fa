"""OrchestratorService: from the wire to the core and back, nothing else."""

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.orchestrator.v1 import orchestrator_service_pb2_grpc as pb_grpc
from agentteams.session.v1 import run_pb2, session_pb2

from manifests import AgentTeam, schema_problem
from orchestrator.adapters.events_read import message_from_pb, plain
from orchestrator.adapters.peers import FORWARDED
from orchestrator.adapters.shown import shown, shown_run, shown_scores
from orchestrator.core.admission import may_ask, no_team_for
from orchestrator.core.awaited import AwaitedScores
from orchestrator.core.model import Message, RunInput
from orchestrator.core.ports import BusyPolicy, Catalogue, RunRow
from orchestrator.core.runs import Runs
from orchestrator.core.structured import Schema
from servicekit.context import current_caller
from servicekit.errors import InvalidArgument, NotFound
from servicekit.ids import is_uuid4
from servicekit.paging import PageTokens, page_size
from servicekit.server import Service

_MAX_MESSAGES = 200
_MAX_TEXT_BYTES = 256 * 1024
_ROLES = {
    role: session_pb2.Role.Name(role)
    for role in (session_pb2.ROLE_SYSTEM, session_pb2.ROLE_USER, session_pb2.ROLE_ASSISTANT)
}
_POLICIES: dict[int, BusyPolicy] = {
    run_pb2.BUSY_POLICY_UNSPECIFIED: "ENQUEUE",
    run_pb2.BUSY_POLICY_ENQUEUE: "ENQUEUE",
    run_pb2.BUSY_POLICY_REJECT: "REJECT",
    run_pb2.BUSY_POLICY_INTERRUPT: "INTERRUPT",
}
_DEFAULT_PAGE, _MAX_PAGE = 50, 200
_MAX_WAIT_SCORES = timedelta(minutes=10)


class OrchestratorServicer(pb_grpc.OrchestratorServiceServicer):
    """Serves runs and teams."""

    def __init__(
        self, *, runs: Runs, catalogue: Catalogue, tokens: PageTokens, scores: AwaitedScores
    ) -> None:
        self._runs = runs
        self._scores = scores
        self._catalogue = catalogue
        self._tokens = tokens

    async def StartRun(self, request: pb.StartRunRequest, context: Any) -> run_pb2.Run:
        """Starts a run."""
        return shown_run(await self._start(request))

    async def RunTeam(self, request: pb.RunTeamRequest, context: Any) -> AsyncIterator[pb.RunTeamResponse]:
        """Starts a run and follows it."""
        wait = _wait_scores(request)
        row = await self._start(request.start)
        run: run_pb2.Run | None = shown_run(row)
        if row.state == "PENDING":
            # It may wait for long; who asked wants to know its name now.
            yield pb.RunTeamResponse(run=run)
            run = None
        async for items in self._runs.follow(row.name, after=0):
            yield pb.RunTeamResponse(run=run, items=shown(items))
            run = None
        if wait:
            yield pb.RunTeamResponse(items=[await self._scores_item(row.name, wait)])

    async def StreamRunEvents(
        self, request: pb.StreamRunEventsRequest, context: Any
    ) -> AsyncIterator[pb.StreamRunEventsResponse]:
        """Replays and follows a run."""
        if request.after_sequence < 0:
            raise InvalidArgument.field("after_sequence", "must be 0 or more", request.after_sequence)
        wait = _wait_scores(request)
        async for items in self._runs.follow(
            request.run, after=request.after_sequence, forwarded=_forwarded(context)
        ):
            told = shown(items)
            if told:
                yield pb.StreamRunEventsResponse(items=told)
        if wait:
            yield pb.StreamRunEventsResponse(items=[await self._scores_item(request.run, wait)])

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> run_pb2.Run:
        """Asks a run to stop."""
        return shown_run(await self._runs.cancel(request.name, forwarded=_forwarded(context)))

    async def ApproveToolCall(self, request: pb.ApproveToolCallRequest, context: Any) -> run_pb2.Run:
        """Allows or refuses a tool call."""
        if not request.HasField("decision"):
            raise InvalidArgument.field("decision", "is required: yes or no")
        decision = request.decision
        said = RunInput(call_id=request.call_id, approved=decision.approved, reason=decision.reason)
        return shown_run(await self._runs.provide(request.run, said, forwarded=_forwarded(context)))

    async def AnswerQuestion(self, request: pb.AnswerQuestionRequest, context: Any) -> run_pb2.Run:
        """Answers a question of the team."""
        said = RunInput(call_id=request.call_id, answer=request.answer)
        return shown_run(await self._runs.provide(request.run, said, forwarded=_forwarded(context)))

    async def GetTeam(self, request: pb.GetTeamRequest, context: Any) -> pb.Team:
        """Returns a team."""
        caller = current_caller()
        namespace, name = caller.tenant, request.name.removeprefix("teams/")
        if not may_ask(self._catalogue, caller, name):
            raise no_team_for(caller, name)
        team = self._catalogue.team(namespace, name)
        if team is None:
            raise NotFound(
                f'no team "{name}" in namespace "{namespace}"',
                reason="TEAM_NOT_FOUND",
                metadata={"team": name, "namespace": namespace},
            )
        return self._team(team)

    async def ListTeams(self, request: pb.ListTeamsRequest, context: Any) -> pb.ListTeamsResponse:
        """Lists teams by name."""
        caller = current_caller()
        namespace = caller.tenant
        size = page_size(request.page_size, default=_DEFAULT_PAGE, maximum=_MAX_PAGE)
        bound = ("teams", namespace, caller.home)
        after = self._tokens.decode(bound, request.page_token) if request.page_token else ""
        teams = [t for t in self._catalogue.teams(namespace) if t.metadata.name > after]
        teams = [t for t in teams if may_ask(self._catalogue, caller, t.metadata.name)]
        token = self._tokens.encode(bound, teams[size - 1].metadata.name) if len(teams) > size else ""
        return pb.ListTeamsResponse(teams=[self._team(t) for t in teams[:size]], next_page_token=token)

    def _team(self, team: AgentTeam) -> pb.Team:
        problems = self._catalogue.team_problems(team.metadata.namespace, team.metadata.name)
        own = not current_caller().home  # how it is made is nothing that other tenants are told
        return pb.Team(
            name=f"teams/{team.metadata.name}",
            description=team.spec.description,
            mode=team.spec.mode,
            members=[member.name for member in team.spec.members] if own else [],
            revision=team.revision,
            ready=not problems,
            reason="; ".join(problems) if own else "",
        )

    async def _scores_item(self, run: str, wait: timedelta) -> pb.RunItem:
        return shown_scores(await self._scores.of_run(run, within=wait))

    async def _start(self, request: pb.StartRunRequest) -> RunRow:
        if not request.team.startswith("teams/"):
            raise InvalidArgument.field("team", "must be teams/{team}", request.team)
        if not is_uuid4(request.request_id):
            raise InvalidArgument.field("request_id", "must be a UUID4", request.request_id)
        return await self._runs.start(
            team_name=request.team,
            session=request.session,
            messages=_messages(request.input, new_session=not request.session),
            request_id=request.request_id,
            on_busy=_on_busy(request.on_busy),
            answer_schema=_answer_schema(request),
        )


def orchestrator_service(servicer: OrchestratorServicer) -> Service:
    """The service as servicekit serves it."""
    return Service(
        name=pb.DESCRIPTOR.services_by_name["OrchestratorService"].full_name,
        register=lambda server: pb_grpc.add_OrchestratorServiceServicer_to_server(servicer, server),
        called_across=True,
    )


def _wait_scores(request: pb.RunTeamRequest | pb.StreamRunEventsRequest) -> timedelta:
    try:
        wait = request.wait_scores.ToTimedelta()
    except (OverflowError, ValueError):
        wait = timedelta.max
    if not timedelta(0) <= wait <= _MAX_WAIT_SCORES:
        raise InvalidArgument.field("wait_scores", "must be 0 to 10 min", str(wait))
    if wait and current_caller().home:
        message = "is for callers of the team's own namespace: leave it out, its scores are its owner's"
        raise InvalidArgument.field("wait_scores", message, str(wait))
    return wait


def _forwarded(context: Any) -> bool:
    return any(key == FORWARDED for key, _ in context.invocation_metadata())


def _on_busy(given: int) -> BusyPolicy:
    policy = _POLICIES.get(given)
    if policy is None:
        names = ", ".join(f"BUSY_POLICY_{name}" for name in ("REJECT", "ENQUEUE", "INTERRUPT"))
        raise InvalidArgument.field("on_busy", f"must be one of {names}", given)
    return policy


def _answer_schema(request: pb.StartRunRequest) -> Schema | None:
    if not request.HasField("answer_schema"):
        return None
    schema = plain(request.answer_schema)
    problem = schema_problem(schema)
    if problem:
        raise InvalidArgument.field("answer_schema", problem)
    return schema


def _messages(given: Sequence[session_pb2.Message], *, new_session: bool) -> list[Message]:
    if not given:
        raise InvalidArgument.field("input", "must hold the question as a message of role ROLE_USER")
    most = _MAX_MESSAGES if new_session else 1
    if len(given) > most:
        why = "" if new_session else " (the session has the others)"
        raise InvalidArgument.field("input", f"must hold at most {most} messages{why}", len(given))
    size = sum(len(message.content.encode()) for message in given)
    if size > _MAX_TEXT_BYTES:
        raise InvalidArgument.field("input", f"must hold at most {_MAX_TEXT_BYTES} bytes of text", size)
    for index, message in enumerate(given):
        if message.role not in _ROLES:
            raise InvalidArgument.field(
                f"input[{index}].role", f"must be one of {', '.join(_ROLES.values())}", message.role
            )
        if not message.content.strip():
            raise InvalidArgument.field(f"input[{index}].content", "must not be empty", message.content)
    if given[-1].role != session_pb2.ROLE_USER:
        raise InvalidArgument.field(f"input[{len(given) - 1}].role", "of the last one must be ROLE_USER")
    return [message_from_pb(message) for message in given]
