"""Golden sets of teams, in the session service."""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from agentteams.session.v1 import golden_sets_pb2 as pb
from agentteams.session.v1 import scores_pb2
from agentteams.session.v1.golden_sets_pb2_grpc import GoldenSetServiceStub
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from evaluation.core.golden import Evaluation, Question
from evaluation.core.schedule import SHARES, Claim, GoldenSet, Newest
from servicekit.client import RpcClient
from servicekit.errors import Conflict
from servicekit.schedules import Schedule

_PAGE = 200


class SessionGoldenSets:
    """`GoldenSets` over the session service."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = GoldenSetServiceStub(rpc.channel)

    async def all(self) -> Sequence[GoldenSet]:
        """See GoldenSets."""
        found: list[GoldenSet] = []
        request = pb.ListTeamGoldenSetsRequest(page_size=_PAGE)
        while True:
            page = await self._rpc.unary(self._stub.ListTeamGoldenSets, request)
            found += map(_golden_set, page.golden_sets)
            request.page_token = page.next_page_token
            if not request.page_token:
                return found

    async def claim(self, one: GoldenSet, *, lease: timedelta) -> Claim | None:
        """See GoldenSets."""
        request = pb.ClaimTeamGoldenSetRequest(
            team=f"teams/{one.team}",
            golden_set_sha256=one.sha256,
            turn=one.schedule.turn,
            lease_duration=_duration(lease),
        )
        try:
            found = await self._rpc.unary(self._stub.ClaimTeamGoldenSet, request)
        except Conflict:
            return None
        questions = [
            Question(id=q.id, text=q.question, sources=tuple(q.sources), facts=tuple(q.facts))
            for q in found.questions
        ]
        return Claim(token=found.token, questions=questions)

    async def renew(self, one: GoldenSet, token: str, *, lease: timedelta, done: int) -> bool:
        """See GoldenSets."""
        request = pb.RenewTeamGoldenSetRequest(
            team=f"teams/{one.team}", token=token, lease_duration=_duration(lease), done=done
        )
        try:
            await self._rpc.unary(self._stub.RenewTeamGoldenSet, request)
        except Conflict:
            return False
        return True

    async def finish(self, one: GoldenSet, token: str, evaluation: Evaluation) -> bool:
        """See GoldenSets."""
        made = evaluation_to_pb(str(uuid.uuid4()), one.team, evaluation)
        return await self._end(
            pb.EndTeamGoldenSetRequest(team=f"teams/{one.team}", token=token, evaluation=made)
        )

    async def fail(self, one: GoldenSet, token: str, message: str, *, retry: datetime) -> bool:
        """See GoldenSets."""
        time = Timestamp()
        time.FromDatetime(retry)
        failure = pb.TeamGoldenSetFailure(
            message=message or "it failed", failures=one.failures + 1, retry_time=time
        )
        return await self._end(
            pb.EndTeamGoldenSetRequest(team=f"teams/{one.team}", token=token, failure=failure)
        )

    async def drop(self, one: GoldenSet) -> None:
        """See GoldenSets."""
        await self._rpc.unary(
            self._stub.SetTeamGoldenSet, pb.SetTeamGoldenSetRequest(team=f"teams/{one.team}")
        )

    async def _end(self, request: pb.EndTeamGoldenSetRequest) -> bool:
        try:
            await self._rpc.unary(self._stub.EndTeamGoldenSet, request)
        except Conflict:
            return False
        return True


def evaluation_to_pb(id_: str, team: str, evaluation: Evaluation) -> scores_pb2.TeamEvaluation:
    """As the session service stores it."""
    means: dict[str, Any] = {name: evaluation.mean(name) for name in SHARES}
    return scores_pb2.TeamEvaluation(
        name=f"teamEvaluations/{id_}",
        team=f"teams/{team}",
        team_revision=evaluation.team_revision,
        golden_set_sha256=evaluation.golden_set_sha256,
        failed=evaluation.failed,
        questions=[
            scores_pb2.QuestionScore(
                id=one.id,
                run=one.run,
                error=one.error,
                missing_sources=one.missing_sources,
                missing_facts=one.missing_facts,
                **{name: getattr(one, name) for name in SHARES},
            )
            for one in evaluation.results
        ],
        **means,
    )


def _golden_set(found: pb.TeamGoldenSet) -> GoldenSet:
    return GoldenSet(
        tenant=found.tenant.removeprefix("tenants/"),
        team=found.team.removeprefix("teams/"),
        sha256=found.golden_set_sha256,
        schedule=Schedule(
            turn=found.turn,
            failures=found.failures,
            failure_time=_time(found, "failure_time"),
            retry_time=_time(found, "retry_time"),
            message=found.failure,
        ),
        newest=_newest(found.newest) if found.HasField("newest") else None,
    )


def _newest(found: scores_pb2.TeamEvaluation) -> Newest:
    return Newest(
        revision=found.team_revision,
        time=found.create_time.ToDatetime(UTC),
        means={name: getattr(found, name) for name in SHARES if found.HasField(name)},  # type: ignore[arg-type]
    )


def _time(found: pb.TeamGoldenSet, field: str) -> datetime | None:
    return getattr(found, field).ToDatetime(UTC) if found.HasField(field) else None  # type: ignore[arg-type]


def _duration(length: timedelta) -> Duration:
    made = Duration()
    made.FromTimedelta(length)
    return made
