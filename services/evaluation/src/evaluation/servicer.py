"""The gRPC face: checks and translates, scores, translates back."""

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import grpc
from agentteams.evaluation.v1 import evaluation_service_pb2 as pb
from agentteams.evaluation.v1 import evaluation_service_pb2_grpc
from agentteams.session.v1 import run_scores_pb2

from evaluation.adapters.golden_sets import evaluation_to_pb
from evaluation.adapters.session_client import SessionRuns
from evaluation.core.evaluator import Evaluator
from evaluation.core.golden import Evaluation, GoldenRuns, Question, Result, fingerprint
from evaluation.core.model import Job
from evaluation.core.ports import Teams
from evaluation.core.worker import SERVICE
from servicekit.context import Caller, current_caller, remaining, scope
from servicekit.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from servicekit.golden import check_questions
from servicekit.ids import is_uuid4
from servicekit.server import Service

_HAS_SCORES = (run_scores_pb2.RunScores.OUTCOME_SCORED, run_scores_pb2.RunScores.OUTCOME_NOTHING_TO_SCORE)
SERVICE_NAME = pb.DESCRIPTOR.services_by_name["EvaluationService"].full_name


class EvaluationServicer(evaluation_service_pb2_grpc.EvaluationServiceServicer):
    """EvaluationService.

    Args:
        runs: The session service.
        teams: The manifests.
        evaluator: Scores one run.
        golden: Asks golden sets.
        max_calls: Calls that score at a time; one more is refused.
    """

    def __init__(
        self, *, runs: SessionRuns, teams: Teams, evaluator: Evaluator, golden: GoldenRuns, max_calls: int
    ) -> None:
        self._runs = runs
        self._teams = teams
        self._evaluator = evaluator
        self._golden = golden
        self._max_calls = max_calls
        self._calls = 0

    async def ScoreRun(
        self, request: pb.ScoreRunRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> run_scores_pb2.RunScores:
        """Scores a run now."""
        caller = _user()
        self._enter()
        try:
            with scope(caller=Caller(caller.tenant, caller.user, SERVICE), timeout=remaining()):
                record = await self._runs.record(_name("run", request.run, "runs"))
                known = await self._known(record.run, self._evaluator.method(caller.tenant, record.team))
                if known is not None:
                    return known
                job = Job(
                    run=record.run,
                    tenant=caller.tenant,
                    user=caller.user,
                    team=record.team,
                    selection="ASKED",
                )
                await self._evaluator.evaluate(job)
                return await self._runs.scores(record.run)
        finally:
            self._calls -= 1

    async def EvaluateTeam(
        self, request: pb.EvaluateTeamRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AsyncIterator[pb.EvaluateTeamResponse]:
        """Asks a team the questions of a golden set."""
        caller, questions = _user(), _questions(request)
        team = _name("team", request.team, "teams").removeprefix("teams/")
        if not is_uuid4(request.request_id):
            raise InvalidArgument.field(
                "request_id", "must be a UUID4 that you make once", request.request_id
            )
        revision = self._teams.revision(caller.tenant, team)
        if revision is None:
            raise NotFound(
                f"no team {team} in namespace {caller.tenant}",
                reason="TEAM_NOT_FOUND",
                metadata={"team": request.team},
            )
        self._enter()
        try:
            with scope(caller=Caller(caller.tenant, caller.user, SERVICE), timeout=remaining()):
                results: list[Result] = []
                async for result in self._golden.run(team, questions):
                    results.append(result)
                    yield pb.EvaluateTeamResponse(done=len(results), total=len(questions))
                evaluation = Evaluation(
                    team_revision=revision, golden_set_sha256=fingerprint(questions), results=results
                )
                stored = await self._runs.put_evaluation(
                    evaluation_to_pb(request.request_id.lower(), team, evaluation)
                )
                yield pb.EvaluateTeamResponse(done=len(results), total=len(questions), evaluation=stored)
        finally:
            self._calls -= 1

    async def _known(self, run: str, method: tuple[str, str]) -> run_scores_pb2.RunScores | None:
        try:
            found = await self._runs.scores(run)
        except NotFound:
            return None
        # What a judge's outage left is tried again.
        known = found.outcome in _HAS_SCORES and (found.evaluator, found.version) == method
        return found if known else None

    def _enter(self) -> None:
        if self._calls >= self._max_calls:
            raise ResourceExhausted(
                f"{self._calls} evaluations are under way; ask again when one has ended",
                reason="TOO_MANY_EVALUATIONS",
                metadata={"running": str(self._calls)},
                retry_after=timedelta(seconds=5),
            )
        self._calls += 1


def evaluation_service(servicer: EvaluationServicer) -> Service:
    """For servicekit's server."""
    return Service(
        name=SERVICE_NAME,
        register=partial(evaluation_service_pb2_grpc.add_EvaluationServiceServicer_to_server, servicer),
    )


def _user() -> Caller:
    caller = current_caller()
    if not caller.tenant or not caller.user:
        raise PermissionDenied(
            "this call needs a tenant and a user: make it on a user's behalf", reason="PERMISSION_DENIED"
        )
    return caller


def _name(field: str, value: str, collection: str) -> str:
    prefix, _, rest = value.partition("/")
    if prefix != collection or not rest or "/" in rest or len(rest) > 253:
        raise InvalidArgument.field(field, f"must have the form {collection}/{{id}}", value[:300])
    return value


def _questions(request: pb.EvaluateTeamRequest) -> list[Question]:
    check_questions(request.questions)
    return [
        Question(id=one.id, text=one.question, sources=tuple(one.sources), facts=tuple(one.facts))
        for one in request.questions
    ]
