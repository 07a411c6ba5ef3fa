"""A run of this process, while it is worked on and for a while after."""

import asyncio
from dataclasses import dataclass
from typing import Any

from orchestrator.core.log import RunLog
from orchestrator.core.ports import RunRow
from orchestrator.core.tracing import RunTrace
from orchestrator.core.turn import Turn
from servicekit.context import Caller


@dataclass(slots=True, kw_only=True)
class Active:
    """A run that is worked on."""

    caller: Caller
    row: RunRow
    log: RunLog
    task: "asyncio.Task[Any]"
    trace: RunTrace
    request_id: str = ""
    turn: Turn | None = None  # None while it is not known yet whether the run can go on
    stopped: bool = False
    cancelled: bool = False

    @property
    def ends(self) -> bool:
        """Whether its end is being stored: nothing may cut that off."""
        return self.turn is not None and self.turn.end is not None

    def name_trace(self) -> None:
        """Says in the run's spans whose they are."""
        row, team = self.row, self.row.team.removeprefix("teams/")
        self.trace.name(run=row.name, session=row.session, team=team, tenant=self.caller.tenant)

    def end_trace(self) -> None:
        """The run is over, or somebody else's."""
        if not self.log.finished:
            self.trace.leave()
            return
        error = self.turn.end.error if self.turn is not None and self.turn.end is not None else None
        self.trace.end(state=self.log.end_state, reason=error.reason if error is not None else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has ended here, for followers that come a moment late."""

    caller: Caller
    row: RunRow
    log: RunLog
