"""Teams of other namespaces as members: asked in runs of their own (docs/modes.md).

At least once and never twice: the request's id is made of the run and the member's path in it, so that an
attempt after this one finds the run that was begun; once the log has its name, it is only followed.
"""

import asyncio
import hashlib
import re
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

import structlog

from manifests import TeamRef
from orchestrator.core.guardrails.turns import screen_tool_result
from orchestrator.core.model import State, TeamCalled
from orchestrator.core.recorded import Recorded
from orchestrator.core.totals import Usage, total
from servicekit.context import current_caller, remaining, scope
from servicekit.errors import FailedPrecondition, ServiceError

if TYPE_CHECKING:
    from orchestrator.core.turn import Turn

log = structlog.get_logger()

_CANCEL = timedelta(seconds=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a run of another namespace's team has ended.

    Attributes:
        answer: As it is stored; with an error, what there was until then.
        cited: The numbers of its evidence, which is the owner's.
    """

    run: str
    state: State
    answer: str
    cited: Sequence[int]
    usage: Usage
    error: ServiceError | None = None


Began = Callable[[str], None]
"""Told which run it is, before anything comes of it."""


class Calls(Protocol):
    """Teams of other namespaces, asked on behalf of the current caller."""

    async def ask(self, namespace: str, team: str, question: str, *, request_id: str, began: Began) -> Ended:
        """Begins a run, or finds the one of that request id, and waits for its end. Raises ServiceError."""
        ...

    async def follow(self, namespace: str, run: str) -> Ended:
        """Waits for the end of a run that was begun. Raises ServiceError."""
        ...

    async def cancel(self, namespace: str, run: str) -> None:
        """Asks it to stop. Raises ServiceError."""
        ...


class NoCalls:
    """Where no other namespace can be called."""

    async def ask(self, namespace: str, team: str, question: str, *, request_id: str, began: Began) -> Ended:
        """See Calls."""
        raise _nobody(namespace)

    async def follow(self, namespace: str, run: str) -> Ended:
        """See Calls."""
        raise _nobody(namespace)

    async def cancel(self, namespace: str, run: str) -> None:
        """See Calls."""
        raise _nobody(namespace)


class CalledTeams:
    """What other namespaces' teams do for one run, over all its attempts."""

    def __init__(self, recorded: Recorded) -> None:
        self._told = dict(recorded.calls_across)

    @property
    def usage(self) -> Usage | None:
        """What they used in runs that have ended; None: there were none."""
        return total(called.usage for called in self._told.values() if called.usage is not None)

    @property
    def open(self) -> list[TeamCalled]:
        """Those that have not ended, as far as is known."""
        return [called for called in self._told.values() if called.state is None]

    def known(self, path: str) -> TeamCalled | None:
        """What was told of a member's call last."""
        return self._told.get(path)

    def tell(self, turn: "Turn", called: TeamCalled, member: str) -> None:
        """Puts it into the run's log."""
        self._told[called.call_id] = called
        turn.log.emit(called, member=member)


async def call_team(turn: "Turn", ref: TeamRef, question: str, *, path: str, member: str) -> str:
    """What the team of another namespace answers to a member's task.

    Raises:
        ServiceError: It may not be asked, could not be reached, or has no answer.
    """
    namespace, calls, teams = ref.namespace or "", turn.world.calls, turn.called
    known = teams.known(path)
    begun = known or TeamCalled(call_id=path, namespace=namespace, team=ref.name, run="")
    if known is not None:
        ended = await calls.follow(known.namespace, known.run)
    else:

        def began(run: str) -> None:
            teams.tell(turn, replace(begun, run=run), member)

        request_id = _request_id(turn.log.run, path)
        ended = await calls.ask(namespace, ref.name, question, request_id=request_id, began=began)
    if known is None or known.state is None:
        teams.tell(turn, replace(begun, run=ended.run, state=ended.state, usage=ended.usage), member)
    if ended.state != "SUCCEEDED":
        raise _failed(begun, ended)
    # Numbers of evidence that this run does not have.
    answer = re.sub(r" ?\[\d{1,4}(?:\s*,\s*\d{1,4})*\]", "", ended.answer) if ended.cited else ended.answer
    return await screen_tool_result(turn, answer, call_id=path, member=member)


async def cancel_open(calls: Calls, called: Sequence[TeamCalled]) -> None:
    """Stops what is still done for a run that ends; what cannot be reached ends by its own limits."""
    if not called:
        return
    with scope(caller=current_caller(), timeout=min(_CANCEL, remaining() or _CANCEL)):
        results = await asyncio.gather(
            *(calls.cancel(one.namespace, one.run) for one in called), return_exceptions=True
        )
    for one, result in zip(called, results, strict=True):
        if isinstance(result, ServiceError):
            log.info("call_not_cancelled", run=one.run, namespace=one.namespace, error=result.message)
        elif isinstance(result, BaseException):
            raise result


def _request_id(run: str, path: str) -> str:
    digest = hashlib.sha256(f"{run}\0{path}".encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


def _failed(begun: TeamCalled, ended: Ended) -> ServiceError:
    name = f"{begun.namespace}/{begun.team}"
    why = ended.error.message if ended.error is not None else "it was cancelled there"
    return FailedPrecondition(
        f'team "{name}" has no answer: {why} ({ended.run})',
        # Never its own reason: that it has reached its limits, say, is nothing that ends this run.
        reason="TOOL_FAILED",
        metadata={"team": name, "run": ended.run, "cause": ended.error.reason if ended.error else ""},
    )


def _nobody(namespace: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"this process calls no teams of other namespaces, such as {namespace}",
        reason="TEAM_NOT_READY",
        metadata={"namespace": namespace},
    )
