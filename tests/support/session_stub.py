"""The session service as the operator sees it, in memory: for tests of the operator alone."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from agentteams.session.v1 import golden_sets_pb2 as golden_pb
from agentteams.session.v1 import golden_sets_pb2_grpc as golden_rpc
from agentteams.session.v1 import quota_pb2, quota_pb2_grpc, scores_pb2, scores_pb2_grpc

from servicekit.identity import IdentityKey
from tests.support.stub_server import Stub, serving


class SessionStub(
    Stub,
    quota_pb2_grpc.QuotaServiceServicer,
    scores_pb2_grpc.ScoreServiceServicer,
    golden_rpc.GoldenSetServiceServicer,
):
    """Limits by tenant, and the same scores for every team.

    Attributes:
        asked: Calls by (tenant, method).
        scores: Of each revision of each team.
    """

    def __init__(self, key: IdentityKey) -> None:
        super().__init__(key)
        self.asked: Counter[tuple[str, str]] = Counter()
        self.scores: list[scores_pb2.RevisionQuality] = []
        self._golden: dict[tuple[str, str], golden_pb.TeamGoldenSet] = {}

    def UpdateRunQuota(
        self, request: quota_pb2.UpdateRunQuotaRequest, context: grpc.ServicerContext
    ) -> quota_pb2.RunQuota:
        self.asked[request.quota.name.split("/")[1], "UpdateRunQuota"] += 1
        return request.quota

    def GetTeamQuality(
        self, request: scores_pb2.GetTeamQualityRequest, context: grpc.ServicerContext
    ) -> scores_pb2.TeamQuality:
        self._tenant(context, "GetTeamQuality")
        return scores_pb2.TeamQuality(revisions=self.scores)

    def GetTeamGoldenSet(
        self, request: golden_pb.GetTeamGoldenSetRequest, context: grpc.ServicerContext
    ) -> golden_pb.TeamGoldenSet:
        found = self._golden.get((self._tenant(context, "GetTeamGoldenSet"), request.team))
        if found is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "no golden set")
        return found

    def SetTeamGoldenSet(
        self, request: golden_pb.SetTeamGoldenSetRequest, context: grpc.ServicerContext
    ) -> golden_pb.TeamGoldenSet:
        tenant = self._tenant(context, "SetTeamGoldenSet")
        made = golden_pb.TeamGoldenSet(
            team=request.team, golden_set=request.golden_set, golden_set_sha256="a" * 64,
            questions=len(request.questions),
        )  # fmt: skip
        self._golden[tenant, request.team] = made
        return made

    def _tenant(self, context: grpc.ServicerContext, method: str) -> str:
        tenant = self.tenant(context)
        self.asked[tenant, method] += 1
        return tenant


@contextmanager
def session_stub(key: IdentityKey) -> Iterator[SessionStub]:
    """Serves on a free port of 127.0.0.1 for the block."""
    stub = SessionStub(key)  # type: ignore[abstract]  # the operator calls no other method
    services = (
        quota_pb2_grpc.add_QuotaServiceServicer_to_server,
        scores_pb2_grpc.add_ScoreServiceServicer_to_server,
        golden_rpc.add_GoldenSetServiceServicer_to_server,
    )
    with serving(stub, *services):
        yield stub
