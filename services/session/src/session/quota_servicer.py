"""The gRPC face of quotas: who may set them, for whom."""

from functools import partial

import grpc
from agentteams.session.v1 import quota_pb2, quota_pb2_grpc

from servicekit.context import current_caller
from servicekit.errors import InvalidArgument, PermissionDenied
from servicekit.server import Service
from session import checks
from session.core.quotas import Quota, QuotaStore

SERVICE_NAME = quota_pb2.DESCRIPTOR.services_by_name["QuotaService"].full_name

_OPERATOR = "operator"
_MAX_SOURCE = 200


class QuotaServicer(quota_pb2_grpc.QuotaServiceServicer):
    """QuotaService over a store."""

    def __init__(self, *, store: QuotaStore) -> None:
        self._store = store

    async def UpdateRunQuota(
        self,
        request: quota_pb2.UpdateRunQuotaRequest,
        context: grpc.aio.ServicerContext[object, object],
    ) -> quota_pb2.RunQuota:
        """Says how many runs a tenant may have."""
        caller = current_caller()
        # Whoever has a tenant's key can sign itself any service of that tenant, and would lift its own
        # quota. Tokens of no tenant are signed with a key that no tenant's namespace holds (ADR 11).
        if caller.service != _OPERATOR or caller.tenant:
            raise PermissionDenied(
                "UpdateRunQuota is for the operator only, on nobody's behalf", reason="PERMISSION_DENIED"
            )
        given = request.quota
        quota = None
        if given.HasField("max_concurrent_runs"):
            quota = Quota(
                most=checks.number("quota.max_concurrent_runs", given.max_concurrent_runs),
                source=checks.text("quota.source", given.source, maximum=_MAX_SOURCE),
            )
        await self._store.set_run_quota(_tenant(given.name), quota)
        return given


def quota_service(servicer: QuotaServicer) -> Service:
    """For servicekit's server."""
    return Service(
        name=SERVICE_NAME, register=partial(quota_pb2_grpc.add_QuotaServiceServicer_to_server, servicer)
    )


def _tenant(name: str) -> str:
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "tenants" or not parts[1] or parts[2] != "runQuota":
        raise InvalidArgument.field("quota.name", "must be tenants/{tenant}/runQuota", name)
    return parts[1]
