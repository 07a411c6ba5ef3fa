"""A run of this process, while it is worked on and for a while after."""

import asyncio
from dataclasses import dataclass
from typing import Any

from orchestrator.core.log import RunLog
from orchestrator.core.ports import RunRow
from orchestrator.core.turn import Turn
from servicekit.context import Caller


@dataclass(slots=True, kw_only=True)
class Active:
    """A run that is worked on."""

    caller: Caller
    row: RunRow
    log: RunLog
    task: "asyncio.Task[Any]"
    request_id: str = ""
    turn: Turn | None = None  # None while it is not known yet whether the run can go on
    stopped: bool = False
    cancelled: bool = False

    @property
    def ends(self) -> bool:
        """Whether its end is being stored: nothing may cut that off."""
        return self.turn is not None and self.turn.end is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has ended here, for followers that come a moment late."""

    caller: Caller
    row: RunRow
    log: RunLog
