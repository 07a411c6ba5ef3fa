"""What people say to runs: who may, and where it goes."""

from datetime import timedelta

from orchestrator.core.model import RunInput
from orchestrator.core.ports import Catalogue, RunRow, SessionLog
from servicekit.context import Caller, current_caller, remaining, scope
from servicekit.errors import PermissionDenied

_CALL = timedelta(seconds=10)


async def provide(store: SessionLog, catalogue: Catalogue, run: str, said: RunInput) -> RunRow:
    """Stores what the caller says to a run; whoever works on it finds it there.

    Raises:
        PermissionDenied: The caller is nobody whom the run asks.
        NotFound: RUN_NOT_FOUND.
        InvalidArgument: INPUT_NOT_REQUESTED.
        AlreadyExists: INPUT_PROVIDED.
        FailedPrecondition: RUN_FINISHED.
    """
    caller = current_caller()
    everybody = Caller(tenant=caller.tenant, user="", service="orchestrator")
    with scope(caller=everybody, timeout=remaining() or _CALL):
        row = await store.get(run)
        allowed = _allowed(catalogue, caller.tenant, row, said)
        if caller.user not in allowed:
            raise PermissionDenied(
                f"{run} asks {' or '.join(allowed)}, and not {caller.user or 'a service'}",
                reason="PERMISSION_DENIED",
                metadata={"run": run, "user": caller.user},
            )
        return await store.provide(run, said, user=caller.user)


def _allowed(catalogue: Catalogue, tenant: str, row: RunRow, said: RunInput) -> tuple[str, ...]:
    """A question is for the user of the run; a tool call for those whom the team names, if it does."""
    team = catalogue.team(tenant, row.team.removeprefix("teams/"))
    named = team.spec.approvals.allowed_users if team is not None and said.answer is None else ()
    return named or (row.user,)
