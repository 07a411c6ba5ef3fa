"""What a run asks of people, and how it waits for them (docs/tools.md)."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from prometheus_client import Counter

from orchestrator.core.log import Parked, RunLog
from orchestrator.core.model import InputProvided, InputRequested, Question, RunInput, ToolApproval
from orchestrator.core.stages import StageClock
from servicekit.counters import from_zero

if TYPE_CHECKING:
    from orchestrator.core.recorded import Recorded

INPUTS = Counter("agentteams_inputs_total", "What people were asked for by runs, and said", ["outcome"])
from_zero(INPUTS, outcome=("yes", "no", "answered", "expired"))
PARKED = Counter("agentteams_runs_parked_total", "Runs given up until a person answers")

_SETTLE_S = 0.5  # a run that has done nothing for so long but wait for people is given up until they answer


class Inputs:
    """The questions of one run to people. One object for all its teams.

    Who asks waits; the other members go on. When nothing else is left to do, the
    run is parked: it is stored as waiting, and belongs to nobody until somebody
    answers. Then it begins anew from its log, and comes here again.

    Args:
        log: The run's.
        stages: Says whether anything is being done.
        recorded: What earlier attempts have asked, and were told.
        expire_after: How long a question stays open.
    """

    def __init__(
        self, *, log: RunLog, stages: StageClock, recorded: "Recorded", expire_after: timedelta
    ) -> None:
        self._log = log
        self._stages = stages
        self._recorded = recorded
        self._expire_after = expire_after
        self._said: dict[str, RunInput] = {}
        self._logged = set(recorded.provided)
        self._open: dict[str, datetime] = {}  # until when somebody waits for it here
        self._arrived = asyncio.Event()

    def deliver(self, inputs: Iterable[RunInput]) -> None:
        """People have spoken. May be told again and again until the log holds it."""
        for said in inputs:
            self._said.setdefault(said.call_id, said)
        self._arrived.set()

    async def ask(
        self,
        call_id: str,
        asked: ToolApproval | Question,
        *,
        member: str,
        expire_after: timedelta | None = None,
    ) -> InputProvided:
        """What a person says, or that nobody did in time. The same in every attempt of the run.

        Args:
            call_id: The step that needs it: unique within the run, the same in every attempt.
            asked: What is needed.
            member: Whose events it is among.
            expire_after: How long it stays open, if not as long as all others.

        Raises:
            Parked: The run waits, and is not ours any more. Never to be caught on the way.
            Exception: What the log failed with.
        """
        provided = self._recorded.provided.get(call_id)
        if provided is not None:
            return provided
        before = self._recorded.requests.get(call_id)
        if before is not None:
            expire_time = before.expire_time
        else:
            expire_time = self._log.now() + (expire_after or self._expire_after)
            request = InputRequested(call_id=call_id, asked=asked, expire_time=expire_time)
            self._log.emit(request, member=member)
            await self._log.flush()
        self._open[call_id] = expire_time
        try:
            provided = await self._answer(call_id, expire_time)
        finally:
            del self._open[call_id]
        self._note(provided, member)
        return provided

    async def _answer(self, call_id: str, expire_time: datetime) -> InputProvided:
        while True:
            said = self._said.get(call_id)
            if said is not None:
                return InputProvided(input=said)
            left_s = (expire_time - self._log.now()).total_seconds()
            if left_s <= 0:
                return InputProvided(input=RunInput(call_id=call_id), expired=True)
            wait_s = _SETTLE_S - self._stages.quiet_s
            if wait_s <= 0:
                await self._park()
                if call_id in self._said:
                    continue
                wait_s = _SETTLE_S  # somebody else was spoken to, and goes on
            self._arrived.clear()
            with suppress(TimeoutError):
                # A little more, so that it is quiet for long enough then.
                async with asyncio.timeout(min(left_s, wait_s + 0.01)):
                    await self._arrived.wait()

    async def _park(self) -> None:
        """Gives the run up, unless somebody has spoken. Raises Parked."""
        for call_id, said in self._said.items():
            if call_id not in self._open and call_id not in self._logged:
                # Nobody waits for it any more: its member has ended. It must not keep the run awake.
                self._note(InputProvided(input=said), "")
        if await self._log.park(min(self._open.values())):
            PARKED.inc()
            raise Parked(self._log.run)

    def _note(self, provided: InputProvided, member: str) -> None:
        said = provided.input
        self._logged.add(said.call_id)
        decision = "answered" if said.approved is None else "yes" if said.approved else "no"
        INPUTS.labels("expired" if provided.expired else decision).inc()
        self._log.emit(provided, member=member)
