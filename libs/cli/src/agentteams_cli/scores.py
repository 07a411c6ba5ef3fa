"""Scores of runs and golden sets of teams, as the commands see them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta

from agentteams.evaluation.v1 import evaluation_service_pb2 as pb
from agentteams.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from agentteams.session.v1 import golden_sets_pb2 as golden_pb
from agentteams.session.v1 import run_scores_pb2, scores_pb2
from agentteams.session.v1.golden_sets_pb2_grpc import GoldenSetServiceStub
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub

from servicekit.client import RpcClient
from servicekit.errors import NotFound

GOLDEN_TIMEOUT = timedelta(hours=2)
_LONGEST_WAIT_S = 20.0  # of one call; the service allows 30
_ANSWER_TIME = timedelta(seconds=10)  # beside the wait
_PAUSE_S = 0.2


class Scores:
    """Typed calls; raises ServiceError as `servicekit.client` does."""

    def __init__(self, *, session: RpcClient, evaluation: RpcClient) -> None:
        self._session = session
        self._evaluation = evaluation
        self._scores = ScoreServiceStub(session.channel)
        self._golden_sets = GoldenSetServiceStub(session.channel)
        self._evaluations = EvaluationServiceStub(evaluation.channel)

    async def of_run(self, run: str) -> run_scores_pb2.RunScores | None:
        """The newest; None: the run was not scored, or is not yet."""
        try:
            return await self._session.unary(
                self._scores.GetRunScores, scores_pb2.GetRunScoresRequest(run=run)
            )
        except NotFound as error:
            if error.reason != "SCORES_NOT_FOUND":
                raise
            return None

    async def awaited(self, run: str, *, within: timedelta) -> run_scores_pb2.RunScores | str:
        """The newest, when they are stored; or why there are none at the end of the time."""
        ends = time.monotonic() + within.total_seconds()
        while True:
            wait = timedelta(seconds=max(0.0, min(ends - time.monotonic(), _LONGEST_WAIT_S)))
            request = scores_pb2.GetRunScoresRequest(run=run)
            request.wait.FromTimedelta(wait)
            try:
                return await self._session.unary(
                    self._scores.GetRunScores, request, timeout=wait + _ANSWER_TIME
                )
            except NotFound as error:
                if error.reason != "SCORES_NOT_FOUND":
                    raise
                if error.metadata.get("waits") != "true" or time.monotonic() >= ends:
                    return error.message
            await asyncio.sleep(_PAUSE_S)

    async def evaluate(
        self, team: str, questions: Sequence[pb.GoldenQuestion], *, request_id: str
    ) -> AsyncIterator[pb.EvaluateTeamResponse]:
        """Progress, then the whole evaluation."""
        request = pb.EvaluateTeamRequest(team=f"teams/{team}", questions=questions, request_id=request_id)
        stream = self._evaluation.server_stream(
            self._evaluations.EvaluateTeam, request, timeout=GOLDEN_TIMEOUT
        )
        async with contextlib.aclosing(stream):  # type: ignore[type-var]
            async for response in stream:
                yield response

    async def former(self, team: str) -> list[scores_pb2.TeamEvaluation]:
        """The newest evaluations of a team, newest first."""
        request = scores_pb2.ListTeamEvaluationsRequest(team=f"teams/{team}", page_size=100)
        return list((await self._session.unary(self._scores.ListTeamEvaluations, request)).evaluations)

    async def golden_set(self, team: str) -> golden_pb.TeamGoldenSet | None:
        """What the team is asked by schedule, and how that gets on; None: nothing."""
        request = golden_pb.GetTeamGoldenSetRequest(team=f"teams/{team}")
        try:
            return await self._session.unary(self._golden_sets.GetTeamGoldenSet, request)
        except NotFound as error:
            if error.reason != "GOLDEN_SET_NOT_FOUND":
                raise
            return None

    async def set_golden_set(self, request: golden_pb.SetTeamGoldenSetRequest) -> None:
        """In place of the former one; without questions: takes it away."""
        await self._session.unary(self._golden_sets.SetTeamGoldenSet, request)
