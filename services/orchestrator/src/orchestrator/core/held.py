"""The runs whose leases this process holds: each is worked on, spoken to, stopped, lost or handed over."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

import structlog
from prometheus_client import Gauge

from orchestrator.core.active import Active, Finished
from orchestrator.core.log import LogUnavailable, Parked, RunLog
from orchestrator.core.model import RunInput
from orchestrator.core.ports import Acquired, Appended, Renewed, RunRow, SessionLog
from orchestrator.core.run import Cancelled, conclude, fail
from orchestrator.core.tracing import RunTrace
from servicekit.clock import Clock
from servicekit.context import Caller, current_caller, scope
from servicekit.errors import Conflict, ServiceError

log = structlog.get_logger()

ACTIVE_RUNS = Gauge("agentteams_active_runs", "Runs that this process works on")

_KEEP_FINISHED = 200  # so that a follower which comes a moment late needs no look into the store
_STOP_S = 5.0


class HeldRuns:
    """Runs from the moment they are ours until they end here, or are somebody else's.

    Args:
        store: Where logs and leases are.
        clock: For the logs' events.
        caller: Who gives leases back.
        arrived: Told that there is one more.
        take: Told of each run that the end of another made ours.

    Attributes:
        active: By name.
        finished: The last ones that ended here, by name.
    """

    def __init__(
        self,
        *,
        store: SessionLog,
        clock: Clock,
        caller: Caller,
        arrived: Callable[[], None],
        take: Callable[[Acquired], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._caller = caller
        self._arrived = arrived
        self._take = take
        self.active: dict[str, Active] = {}
        self.finished: OrderedDict[str, Finished] = OrderedDict()

    async def drain(self, grace: timedelta) -> None:
        """Lets the runs end within the grace period, and hands over what is left then."""
        tasks = [active.task for active in self.active.values()]
        if not tasks:
            return
        log.info("runs_draining", runs=len(tasks))
        _, left = await asyncio.wait(tasks, timeout=grace.total_seconds())
        for active in list(self.active.values()):
            self._stop(active)
        if left:
            await asyncio.wait(left, timeout=_STOP_S)

    def register(
        self, caller: Caller, row: RunRow, fencing_token: int, trace: RunTrace, *, request_id: str = ""
    ) -> Active:
        """The current task works on a run that is ours from now on."""
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a run has a task of its own")
        run_log = RunLog(
            run=row.name,
            fencing_token=fencing_token,
            store=self._store,
            clock=self._clock,
            last_sequence=row.last_sequence,
            on_appended=lambda appended: self._appended(row.name, appended),
        )
        active = Active(caller=caller, row=row, log=run_log, task=task, trace=trace, request_id=request_id)
        active.name_trace()
        self.active[row.name] = active
        ACTIVE_RUNS.set(len(self.active))
        self._arrived()
        return active

    async def work_on(self, active: Active, work: Callable[[], Awaitable[None]]) -> None:
        """Does the work, to the run's end or until it is not ours any more. Never raises an Exception."""
        run = active.row.name
        try:
            # The run outlives the call that began it: its own caller, no deadline but its own.
            with scope(caller=active.caller):
                try:
                    await work()
                except asyncio.CancelledError:
                    await self._stopped(active)
        except Parked:
            log.info("run_parked", run=run)
        except (ServiceError, LogUnavailable) as error:
            log.warning("run_given_up", run=run, error=str(error))
        except Exception as error:
            log.error("run_crashed", run=run, exc_info=error)
        finally:
            await active.log.close()
            active.end_trace()
            if self.active.get(run) is active:
                del self.active[run]
            ACTIVE_RUNS.set(len(self.active))
            if active.log.finished:
                row = replace(active.row, state=active.log.end_state)
                self.finished[run] = Finished(caller=active.caller, row=row, log=active.log)
                if len(self.finished) > _KEEP_FINISHED:
                    self.finished.popitem(last=False)

    def log_of(self, run: str) -> RunLog | None:
        """Its log, if it is the caller's and ours, or was a moment ago."""
        active = self.active.get(run)
        if active is not None:
            return active.log if active.caller == current_caller() else None
        finished = self.finished.get(run)
        return finished.log if finished is not None and finished.caller == current_caller() else None

    def _appended(self, run: str, appended: Appended) -> None:
        active = self.active.get(run)
        if active is not None:
            self.deliver(active, appended.inputs)
            if appended.cancel_requested:
                self.cancel(active)
        if appended.next_run is not None:
            self._take(appended.next_run)

    def renewed(self, renewed: Renewed) -> None:
        """What the store says to a renewal of all leases."""
        for run, active in list(self.active.items()):
            # One that ends right now counts as lost, too; its last append tells which it is.
            if run in renewed.lost and not active.ends and active.log.failure is None:
                self.lose(active)
            elif run in renewed.cancelled:
                self.cancel(active)
            self.deliver(active, renewed.inputs.get(run, ()))

    def deliver(self, active: Active, inputs: Sequence[RunInput]) -> None:
        """What people say to the run."""
        # Before there is a turn they are no use; the store tells of them again.
        if inputs and active.turn is not None:
            active.turn.inputs.deliver(inputs)

    def cancel(self, active: Active) -> None:
        """It ends CANCELLED."""
        active.cancelled = True
        self._stop(active)

    def lose(self, active: Active) -> None:
        """Somebody else works on it: nothing is stored from here any more."""
        log.warning("lease_lost", run=active.row.name)
        active.log.failure = Conflict(
            f"{active.row.name} was taken over by another process", reason="LEASE_LOST"
        )
        active.stopped = True
        active.task.cancel()

    def _stop(self, active: Active) -> None:
        # Once only, and not when it ends already: both would cut off the storing of its end.
        if not active.stopped and not active.ends:
            active.stopped = True
            active.task.cancel()

    async def _stopped(self, active: Active) -> None:
        if active.log.failure is not None:
            return  # the lease is lost: whoever has it goes on
        if active.turn is not None and active.turn.end is not None:
            await conclude(active.turn)
        elif active.turn is not None and active.cancelled:
            await fail(active.turn, Cancelled("the run was cancelled", reason="RUN_CANCELLED"))
        else:
            await self._hand_over(active)

    async def _hand_over(self, active: Active) -> None:
        """Stores what there is and gives the lease back, for another process to go on."""
        run = active.row.name
        try:
            with suppress(TimeoutError, LogUnavailable):
                async with asyncio.timeout(_STOP_S / 2):
                    await active.log.flush()
            with scope(caller=self._caller, timeout=timedelta(seconds=_STOP_S / 2)):
                await self._store.release([run])
            log.info("run_handed_over", run=run)
        except ServiceError as error:
            # The lease runs out by itself.
            log.warning("run_not_handed_over", run=run, error=error.message)
