"""Golden sets of teams, in the session service, as the tenant whose team it is."""

from collections.abc import Sequence
from datetime import UTC, timedelta

from agentteams.session.v1 import golden_sets_pb2 as pb
from agentteams.session.v1 import scores_pb2
from agentteams.session.v1.golden_sets_pb2_grpc import GoldenSetServiceStub

from agentteams_operator.core.ports import (
    GoldenScores,
    GoldenState,
    KnowledgeRefused,
    ScoresUnavailable,
)
from manifests.golden_pb import questions_to_pb
from manifests.golden_questions import GoldenQuestion
from servicekit.client import RpcClient
from servicekit.context import Caller, scope
from servicekit.errors import InvalidArgument, NotFound, ServiceError

_TIMEOUT = timedelta(seconds=5)
_DIGITS = 9  # as of scores
_MEANS = {
    "sources_found": "sourcesFound",
    "facts_present": "factsPresent",
    "faithfulness": "faithfulness",
    "grounding": "grounding",
}


class SessionGoldenSets:
    """See the port TeamGoldenSets."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = GoldenSetServiceStub(rpc.channel)

    async def get(self, namespace: str, team: str) -> GoldenState | None:
        """See TeamGoldenSets."""
        request = pb.GetTeamGoldenSetRequest(team=f"teams/{team}")
        try:
            with scope(caller=Caller(tenant=namespace, user="", service="operator")):
                found = await self._rpc.unary(self._stub.GetTeamGoldenSet, request, timeout=_TIMEOUT)
        except NotFound:
            return None
        except ServiceError as error:
            raise ScoresUnavailable(error.message) from error
        return _state(found)

    async def put(
        self, namespace: str, team: str, *, name: str, questions: Sequence[GoldenQuestion]
    ) -> GoldenState:
        """See TeamGoldenSets."""
        request = questions_to_pb(team, name, questions)
        try:
            with scope(caller=Caller(tenant=namespace, user="", service="operator")):
                found = await self._rpc.unary(self._stub.SetTeamGoldenSet, request, timeout=_TIMEOUT)
        except InvalidArgument as error:
            raise KnowledgeRefused(error.message) from error
        except ServiceError as error:
            raise ScoresUnavailable(error.message) from error
        return _state(found)


def _state(found: pb.TeamGoldenSet) -> GoldenState:
    return GoldenState(
        name=found.golden_set,
        sha256=found.golden_set_sha256,
        questions=found.questions,
        running=found.running,
        done=found.done,
        failures=found.failures,
        failure=found.failure,
        newest=_scores(found.newest) if found.HasField("newest") else None,
        former=_scores(found.former) if found.HasField("former") else None,
    )


def _scores(found: scores_pb2.TeamEvaluation) -> GoldenScores:
    return GoldenScores(
        revision=found.team_revision,
        evaluated_at=found.create_time.ToDatetime(UTC),
        means={
            name: round(getattr(found, field), _DIGITS)
            for field, name in _MEANS.items()
            if found.HasField(field)  # type: ignore[arg-type]  # one of the names above
        },
        failed=found.failed,
    )
