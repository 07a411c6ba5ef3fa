"""The session service: scores as the tenant whose team it is, limits as the installation."""

from collections.abc import Mapping
from datetime import UTC, timedelta

from agentteams.session.v1 import quota_pb2
from agentteams.session.v1 import scores_pb2 as pb
from agentteams.session.v1.quota_pb2_grpc import QuotaServiceStub
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub

from agentteams_operator.core.ports import RunLimitsUnavailable, RunScores, ScoresUnavailable
from servicekit.client import RpcClient
from servicekit.context import Caller, scope
from servicekit.errors import ServiceError

_TIMEOUT = timedelta(seconds=5)  # a team is not kept waiting for its scores
_DIGITS = 9  # the mean of 0.8, 0.8 and 0.8 is 0.8, whatever the sum of the floats is


class SessionScores:
    """See the port Scores."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = ScoreServiceStub(rpc.channel)

    async def by_revision(self, namespace: str, team: str, *, window: timedelta) -> Mapping[str, RunScores]:
        """Of everybody's runs."""
        request = pb.GetTeamQualityRequest(team=f"teams/{team}")
        request.window.FromTimedelta(window)
        try:
            with scope(caller=Caller(tenant=namespace, user="", service="operator")):
                found = await self._rpc.unary(self._stub.GetTeamQuality, request, timeout=_TIMEOUT)
        except ServiceError as error:
            raise ScoresUnavailable(error.message) from error
        return {one.team_revision: _scores(one) for one in found.revisions}


class SessionLimits:
    """See the port RunLimits."""

    def __init__(self, rpc: RpcClient) -> None:
        self._rpc = rpc
        self._stub = QuotaServiceStub(rpc.channel)

    async def tell(self, namespace: str, most: int | None, *, source: str) -> None:
        """As nobody's operator: what a tenant's own key could sign too is refused."""
        quota = quota_pb2.RunQuota(
            name=f"tenants/{namespace}/runQuota", max_concurrent_runs=most, source=source
        )
        request = quota_pb2.UpdateRunQuotaRequest(quota=quota)
        try:
            with scope(caller=Caller(tenant="", user="", service="operator")):
                await self._rpc.unary(self._stub.UpdateRunQuota, request, timeout=_TIMEOUT)
        except ServiceError as error:
            raise RunLimitsUnavailable(error.message) from error


def _scores(found: pb.RevisionQuality) -> RunScores:
    means = {}
    if found.HasField("faithfulness"):
        means["faithfulness"] = round(found.faithfulness, _DIGITS)
    if found.HasField("grounding"):
        means["grounding"] = round(found.grounding, _DIGITS)
    if found.HasField("retrieval_relevance"):
        means["retrievalRelevance"] = round(found.retrieval_relevance, _DIGITS)
    if found.HasField("answer_relevance"):
        means["answerRelevance"] = round(found.answer_relevance, _DIGITS)
    return RunScores(runs=found.sampled_runs, means=means, newest_at=found.newest_time.ToDatetime(tzinfo=UTC))
