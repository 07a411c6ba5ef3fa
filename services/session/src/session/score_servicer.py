"""The gRPC face of scores: checks and translates, calls the store, translates back."""

import asyncio
import math
import time
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

import grpc
from agentteams.session.v1 import run_scores_pb2, scores_pb2, scores_pb2_grpc
from google.protobuf.message import Message

from servicekit.context import current_caller
from servicekit.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from servicekit.paging import PageTokens, page_size
from servicekit.server import Service
from session import checks, convert
from session.callers import current_owner
from session.core.model import Owner
from session.core.scores import (
    Means,
    NewScores,
    RevisionQuality,
    ScoreStore,
    Scoring,
    StoredScores,
    TeamEvaluation,
)

SERVICE_NAME = scores_pb2.DESCRIPTOR.services_by_name["ScoreService"].full_name

_EVALUATION = "evaluation"
MAX_BYTES = 2 * 1024 * 1024  # of the scores of one run; of a page of them below
MAX_SHOWN_SENTENCES = 100  # with one message of ListMessages
_PAGE_BYTES = 4 * 1024 * 1024
_MAX_NAME = 128
_MAX_REASON = 4_096
_POLL_S = 0.25
_MAX_WAITERS = 500
_MEANS = ("faithfulness", "grounding", "retrieval_relevance", "answer_relevance")
_Row = TypeVar("_Row", StoredScores, TeamEvaluation)
_MIN_WINDOW, _MAX_WINDOW = timedelta(minutes=1), timedelta(days=90)


class ScoreServicer(scores_pb2_grpc.ScoreServiceServicer):
    """ScoreService over a store."""

    def __init__(self, *, store: ScoreStore, tokens: PageTokens) -> None:
        self._store = store
        self._tokens = tokens
        self._waiters = 0

    async def ClaimRunScorings(
        self,
        request: scores_pb2.ClaimRunScoringsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> scores_pb2.ClaimRunScoringsResponse:
        """Hands out runs that wait to be scored."""
        _evaluation_only("ClaimRunScorings")
        taken, waiting = await self._store.claim_scorings(
            lease=checks.lease(request.lease_owner, request.lease_duration),
            limit=page_size(request.max_runs, default=10, maximum=100, field="max_runs"),
            tenant=current_caller().tenant,
        )
        return scores_pb2.ClaimRunScoringsResponse(scorings=map(_scoring_to_pb, taken), waiting=waiting)

    async def PutRunScores(
        self,
        request: scores_pb2.PutRunScoresRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> run_scores_pb2.RunScores:
        """Stores the scores of a run."""
        _evaluation_only("PutRunScores")
        return scores_to_pb(await self._store.put_scores(current_owner(), _new_scores(request.scores)))

    async def GetRunScores(
        self,
        request: scores_pb2.GetRunScoresRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> run_scores_pb2.RunScores:
        """Returns the newest scores of a run, or waits for them."""
        owner, run = current_owner(), checks.resource_id("run", request.run, "runs")
        wait_s = checks.wait(request.wait).total_seconds()
        if not wait_s:
            return await self._scores(owner, run, until=0.0)
        if self._waiters >= _MAX_WAITERS:
            raise ResourceExhausted(
                f"{self._waiters} calls wait for scores already; ask without wait",
                reason="TOO_MANY_FOLLOWERS",
                metadata={"waiting": str(self._waiters)},
                retry_after=timedelta(seconds=1),
            )
        self._waiters += 1
        try:
            return await self._scores(owner, run, until=time.monotonic() + wait_s)
        finally:
            self._waiters -= 1

    async def ListRunScores(
        self,
        request: scores_pb2.ListRunScoresRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> scores_pb2.ListRunScoresResponse:
        """Lists scores, newest first."""
        owner = current_owner()
        bound = ("scores", owner.tenant, owner.user, request.team)
        limit = page_size(request.page_size, default=50, maximum=200)
        token = request.page_token
        found = await self._store.list_scores(
            owner,
            team=checks.optional_id("team", request.team, "teams"),
            before=convert.place(self._tokens.decode(bound, token)) if token else None,
            limit=limit + 1,
        )
        fit = _fitting(found[:limit])
        response = scores_pb2.ListRunScoresResponse(scores=map(scores_to_pb, fit))
        if len(found) > len(fit):
            last = fit[-1]
            place = convert.cursor(last.create_time, f"{last.run}/{last.evaluator}/{last.version}")
            response.next_page_token = self._tokens.encode(bound, place)
        return response

    async def GetTeamQuality(
        self,
        request: scores_pb2.GetTeamQualityRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> scores_pb2.TeamQuality:
        """Sums up the scores of a team's runs."""
        caller = current_caller()
        everybody = bool(caller.service and caller.tenant and not caller.user)
        owner = Owner(tenant=caller.tenant, user="") if everybody else current_owner()
        team = checks.resource_id("team", request.team, "teams")
        found = await self._store.quality(
            owner.tenant, None if everybody else owner.user, team, window=_window(request)
        )
        return scores_pb2.TeamQuality(team=f"teams/{team}", revisions=map(_quality_to_pb, found))

    async def PutTeamEvaluation(
        self,
        request: scores_pb2.PutTeamEvaluationRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> scores_pb2.TeamEvaluation:
        """Stores what a golden set run found."""
        _evaluation_only("PutTeamEvaluation")
        evaluation = request.evaluation
        name = evaluation.name.removeprefix("teamEvaluations/")
        checks.text("evaluation.team_revision", evaluation.team_revision, required=True)
        checks.text("evaluation.golden_set_sha256", evaluation.golden_set_sha256, required=True)
        stored = await self._store.put_evaluation(
            current_owner(),
            evaluation=checks.request_id(name),
            team=checks.resource_id("evaluation.team", evaluation.team, "teams"),
            payload=_payload("evaluation", evaluation),
        )
        return evaluation_to_pb(stored)

    async def ListTeamEvaluations(
        self,
        request: scores_pb2.ListTeamEvaluationsRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> scores_pb2.ListTeamEvaluationsResponse:
        """Lists golden set runs, newest first."""
        owner, team = current_owner(), checks.resource_id("team", request.team, "teams")
        bound = ("evaluations", owner.tenant, owner.user, team)
        limit = page_size(request.page_size, default=20, maximum=100)
        token = request.page_token
        before = convert.place(self._tokens.decode(bound, token)) if token else None
        found = [
            one
            for whose in (owner, Owner(tenant=owner.tenant, user=""))  # and those by schedule
            for one in await self._store.list_evaluations(whose, team=team, before=before, limit=limit + 1)
        ]
        found.sort(key=lambda one: (one.create_time, one.id), reverse=True)
        fit = _fitting(found[:limit])
        response = scores_pb2.ListTeamEvaluationsResponse(evaluations=map(evaluation_to_pb, fit))
        if len(found) > len(fit):
            place = convert.cursor(fit[-1].create_time, fit[-1].id)
            response.next_page_token = self._tokens.encode(bound, place)
        return response

    async def _scores(self, owner: Owner, run: str, *, until: float) -> run_scores_pb2.RunScores:
        while True:
            found, may_come = await self._store.scores_of_run(owner, run)
            if found is not None:
                return scores_to_pb(found)
            if not may_come or time.monotonic() >= until:
                why = "it waits to be scored" if may_come else "it was not chosen to be scored"
                raise NotFound(
                    f"runs/{run} has no scores: {why}",
                    reason="SCORES_NOT_FOUND",
                    metadata={"run": f"runs/{run}", "waits": str(may_come).lower()},
                )
            await asyncio.sleep(_POLL_S)


def score_service(servicer: ScoreServicer) -> Service:
    """For servicekit's server."""
    return Service(
        name=SERVICE_NAME,
        register=partial(scores_pb2_grpc.add_ScoreServiceServicer_to_server, servicer),
    )


def scores_to_pb(stored: StoredScores) -> run_scores_pb2.RunScores:
    """The resource."""
    result = run_scores_pb2.RunScores.FromString(stored.payload)
    result.run, result.team = f"runs/{stored.run}", f"teams/{stored.team}"
    result.team_revision = stored.team_revision
    result.create_time.CopyFrom(convert.timestamp(stored.create_time))
    return result


def answer_scores_to_pb(stored: StoredScores) -> run_scores_pb2.RunScores:
    """What is shown with an answer: where it is unsupported, and how much."""
    whole = scores_to_pb(stored)
    wrong = run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED
    unsupported = [one for one in whole.sentences if one.verdict == wrong][:MAX_SHOWN_SENTENCES]
    whole.ClearField("chunks")
    whole.ClearField("sentences")
    whole.sentences.extend(unsupported)
    return whole


def evaluation_to_pb(stored: TeamEvaluation) -> scores_pb2.TeamEvaluation:
    """The resource."""
    result = scores_pb2.TeamEvaluation.FromString(stored.payload)
    result.name, result.team = f"teamEvaluations/{stored.id}", f"teams/{stored.team}"
    result.create_time.CopyFrom(convert.timestamp(stored.create_time))
    return result


def _evaluation_only(method: str) -> None:
    if current_caller().service != _EVALUATION:
        raise PermissionDenied(f"{method} is for evaluation services only", reason="PERMISSION_DENIED")


def _new_scores(scores: run_scores_pb2.RunScores) -> NewScores:
    known = run_scores_pb2.RunScores.Outcome
    if scores.outcome == known.OUTCOME_UNSPECIFIED or scores.outcome not in known.values():
        raise InvalidArgument.field("scores.outcome", "must say how the scoring ended", scores.outcome)
    checks.text("scores.reason", scores.reason, maximum=_MAX_REASON)
    return NewScores(
        run=checks.resource_id("scores.run", scores.run, "runs"),
        evaluator=_name("scores.evaluator", scores.evaluator),
        version=_name("scores.version", scores.version),
        selection=int(scores.selection),
        scored=scores.outcome == known.OUTCOME_SCORED,
        means=Means(**{field: _share(scores, field) for field in _MEANS}),
        payload=_payload("scores", scores),
    )


def _name(field: str, value: str) -> str:
    checks.text(field, value, maximum=_MAX_NAME, required=True)
    if "/" in value:
        raise InvalidArgument.field(field, "must not have a '/'", value)
    return value


def _share(scores: run_scores_pb2.RunScores, field: str) -> float | None:
    if not scores.HasField(field):  # type: ignore[arg-type]  # one of _MEANS
        return None
    value = float(getattr(scores, field))
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise InvalidArgument.field(f"scores.{field}", "must be 0 to 1", value)
    return value


def _payload(field: str, message: Message) -> bytes:
    payload = message.SerializeToString()
    if len(payload) > MAX_BYTES:
        raise InvalidArgument.field(field, f"has {len(payload)} bytes, at most {MAX_BYTES} are allowed")
    return payload


def _fitting(found: Sequence[_Row]) -> list[_Row]:
    """As many as fit into one response, and one at least if there is one."""
    fit: list[_Row] = []
    left = _PAGE_BYTES
    for row in found:
        left -= len(row.payload)
        if fit and left < 0:
            break
        fit.append(row)
    return fit


def _window(request: scores_pb2.GetTeamQualityRequest) -> timedelta:
    try:
        window = request.window.ToTimedelta()
    except (OverflowError, ValueError):
        window = timedelta.max
    if not _MIN_WINDOW <= window <= _MAX_WINDOW:
        raise InvalidArgument.field("window", "must be 1 min to 90 days", str(window))
    return window


def _scoring_to_pb(scoring: Scoring) -> scores_pb2.RunScoring:
    return scores_pb2.RunScoring(
        run=f"runs/{scoring.run}",
        tenant=scoring.tenant,
        user=scoring.user,
        team=f"teams/{scoring.team}",
        request=run_scores_pb2.ScoringRequest.FromString(scoring.request),
        attempt=scoring.attempt,
        create_time=convert.timestamp(scoring.create_time),
    )


def _quality_to_pb(quality: RevisionQuality) -> scores_pb2.RevisionQuality:
    result = scores_pb2.RevisionQuality(
        team_revision=quality.team_revision,
        sampled_runs=quality.sampled_runs,
        suspicious_runs=quality.suspicious_runs,
        newest_time=convert.timestamp(quality.newest_time),
    )
    for field in _MEANS:
        value = getattr(quality.means, field)
        if value is not None:
            setattr(result, field, value)
    return result
