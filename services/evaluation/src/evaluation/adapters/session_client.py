"""Runs and scores, in the session service."""

from collections.abc import Sequence
from datetime import UTC, timedelta

from agentteams.session.v1 import (
    run_pb2,
    run_scores_pb2,
    scores_pb2,
    scores_pb2_grpc,
    session_pb2,
    session_service_pb2_grpc,
)
from agentteams.session.v1 import session_service_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from evaluation.adapters.scores_pb import scores_to_pb
from evaluation.core.model import Chunk, Job, Record, Scores, Search, Selection
from servicekit.client import RpcClient
from servicekit.errors import FailedPrecondition

MAX_EVENTS = 5_000  # of one run; evidence after them is not looked at
_PAGE = 200
_MAX_MESSAGE_PAGES = 20  # from the session's beginning; a question behind them stays unknown
_SELECTIONS: dict[int, Selection] = {
    run_scores_pb2.ScoringRequest.SELECTION_UNSPECIFIED: "ASKED",
    run_scores_pb2.ScoringRequest.SELECTION_SAMPLED: "SAMPLED",
    run_scores_pb2.ScoringRequest.SELECTION_SUSPICIOUS: "SUSPICIOUS",
}


class SessionRuns:
    """`Runs` over the session service.

    Args:
        rpc: To the session service.
        owner: This process, unlike any other.
        lease: How long a claim holds.
    """

    def __init__(self, rpc: RpcClient, *, owner: str, lease: timedelta) -> None:
        self._rpc = rpc
        self._sessions = session_service_pb2_grpc.SessionServiceStub(rpc.channel)
        self._scores = scores_pb2_grpc.ScoreServiceStub(rpc.channel)
        self._owner = owner
        self._lease = Duration()
        self._lease.FromTimedelta(lease)

    async def claim(self, *, most: int) -> tuple[Sequence[Job], int]:
        """See Runs."""
        request = scores_pb2.ClaimRunScoringsRequest(
            lease_owner=self._owner, lease_duration=self._lease, max_runs=most
        )
        found = await self._rpc.unary(self._scores.ClaimRunScorings, request)
        return [_job(scoring) for scoring in found.scorings], found.waiting

    async def record(self, run: str) -> Record:
        """See Runs."""
        stored = await self._rpc.unary(self._sessions.GetRun, pb.GetRunRequest(name=run))
        if not stored.HasField("end_time"):
            raise FailedPrecondition(
                f"{run} has not ended; score it when it has", reason="RUN_NOT_FINISHED", metadata={"run": run}
            )
        log = _Log()
        while log.last < min(stored.last_sequence, MAX_EVENTS):
            request = pb.ListRunEventsRequest(run=run, after_sequence=log.last, page_size=_PAGE)
            page = await self._rpc.unary(self._sessions.ListRunEvents, request)
            if not page.events:
                break
            for event in page.events:
                log.read(event)
        return Record(
            run=run,
            team=stored.team.removeprefix("teams/"),
            question=await self._question(stored.session, log.question),
            answer=log.answer,
            chunks=log.chunks,
            searches=log.searches,
        )

    async def put(self, job: Job, scores: Scores) -> bool:
        """See Runs."""
        wanted = scores_to_pb(job, scores)
        stored = await self._rpc.unary(
            self._scores.PutRunScores, scores_pb2.PutRunScoresRequest(scores=wanted)
        )
        for field in ("team", "team_revision", "create_time"):
            stored.ClearField(field)  # output only
            wanted.ClearField(field)
        return stored == wanted

    async def scores(self, run: str) -> run_scores_pb2.RunScores:
        """The newest scores of a run. Raises NotFound: SCORES_NOT_FOUND."""
        return await self._rpc.unary(self._scores.GetRunScores, scores_pb2.GetRunScoresRequest(run=run))

    async def put_evaluation(self, evaluation: scores_pb2.TeamEvaluation) -> scores_pb2.TeamEvaluation:
        """Stores what a golden set run found, once."""
        request = scores_pb2.PutTeamEvaluationRequest(evaluation=evaluation)
        return await self._rpc.unary(self._scores.PutTeamEvaluation, request)

    async def _question(self, session: str, message: str) -> str:
        token = ""
        for _ in range(_MAX_MESSAGE_PAGES if message else 0):
            request = pb.ListMessagesRequest(parent=session, page_size=_PAGE, page_token=token)
            page = await self._rpc.unary(self._sessions.ListMessages, request)
            for one in page.messages:
                if one.name == message:
                    return one.content
            token = page.next_page_token
            if not token:
                break
        return ""


class _Log:
    """What scoring needs of a run's log."""

    def __init__(self) -> None:
        self.last = 0
        self.answer = ""
        self.question = ""
        self.chunks: dict[int, Chunk] = {}
        self.searches: list[Search] = []

    def read(self, event: run_pb2.RunEvent) -> None:
        """Takes the next event."""
        self.last = event.sequence
        match event.WhichOneof("event"):
            case "run_started":
                messages = event.run_started.input_messages
                self.question = messages[-1] if messages else ""
            case "evidence_retrieved":
                self._evidence(event.evidence_retrieved)
            case "message_completed" if not event.member:
                message = event.message_completed.message
                if message.role == session_pb2.ROLE_ASSISTANT:
                    self.answer = message.content

    def _evidence(self, found: run_pb2.EvidenceRetrieved) -> None:
        for one in found.evidence:
            self.chunks[one.number] = Chunk(
                number=one.number,
                knowledge_base=found.knowledge_base,
                chunk=one.chunk,
                document=one.document,
                title=one.document_title,
                text=one.text,
            )
        query = found.corrected_query or found.query
        self.searches.append(Search(query=query, found=tuple(one.number for one in found.evidence)))


def _job(scoring: scores_pb2.RunScoring) -> Job:
    request = scoring.request
    return Job(
        run=scoring.run,
        tenant=scoring.tenant,
        user=scoring.user,
        team=scoring.team.removeprefix("teams/"),
        selection=_SELECTIONS.get(request.selection, "ASKED"),
        suspicions=tuple(request.suspicions),
        traceparent=request.traceparent,
        attempt=scoring.attempt,
        ended=scoring.create_time.ToDatetime(UTC),
    )
