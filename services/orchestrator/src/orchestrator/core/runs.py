"""All runs of this process: begins them, keeps their leases, lets others follow them."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from prometheus_client import Gauge

from manifests import AgentTeam
from orchestrator.core.ledger import Ledger
from orchestrator.core.log import Item, LogUnavailable, RunLog
from orchestrator.core.model import Message, RunFinished, StoredEvent, Summary, Usage
from orchestrator.core.ports import LEASE, RENEW_EVERY, Acquired, RunRow, SessionLog
from orchestrator.core.run import Cancelled, conclude, execute, fail
from orchestrator.core.stages import StageClock
from orchestrator.core.turn import Turn, World
from servicekit.clock import Clock
from servicekit.context import Caller, current_caller, scope
from servicekit.errors import (
    Conflict,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)

log = structlog.get_logger()

ACTIVE_RUNS = Gauge("agentteams_active_runs", "Runs that this process works on")

_KEEP_FINISHED = 200  # so that a follower which comes a moment late needs no look into the store
_POLL_S = 0.5
_BUSY_RETRY = timedelta(seconds=2)
_STOP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a caller asked for."""

    caller: Caller
    team: AgentTeam
    session: str
    messages: Sequence[Message]
    request_id: str

    @property
    def place(self) -> tuple[str, str]:
        """Whose limit of active runs it counts for."""
        return self.caller.tenant, self.team.metadata.name

    def is_same(self, other: "_Asked") -> bool:
        """Whether it is the same call, made again."""
        return (self.caller, self.request_id) == (other.caller, other.request_id)


@dataclass(slots=True, kw_only=True)
class _Active:
    asked: _Asked
    row: RunRow
    turn: Turn
    task: "asyncio.Task[Any]"
    stopped: bool = False
    cancelled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    caller: Caller
    log: RunLog


class Runs:
    """Owns the runs of one orchestrator process.

    Args:
        world: What runs work with.
        store: Where sessions and logs are.
        clock: For stages and retries.
    """

    def __init__(self, *, world: World, store: SessionLog, clock: Clock) -> None:
        self._world = world
        self._store = store
        self._clock = clock
        self._active: dict[str, _Active] = {}
        self._finished: OrderedDict[str, _Finished] = OrderedDict()
        self._places: Counter[tuple[str, str]] = Counter()  # taken, by tenant and team
        self._group: asyncio.TaskGroup | None = None
        self._draining = False

    # --- the process' loops -------------------------------------------------

    async def work(self) -> None:
        """Carries the runs' tasks for the process' life."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._renew_leases())
            group.create_task(self._end_abandoned_runs())

    async def drain(self, grace: timedelta) -> None:
        """Lets the runs end within the grace period; what is left then is ended with the reason."""
        self._draining = True
        tasks = [active.task for active in self._active.values()]
        if not tasks:
            return
        log.info("runs_draining", runs=len(tasks))
        _, left = await asyncio.wait(tasks, timeout=grace.total_seconds())
        for active in list(self._active.values()):
            self._stop(active)
        if left:
            await asyncio.wait(left, timeout=_STOP_S)

    # --- calls ----------------------------------------------------------------

    async def start(
        self, *, team_name: str, session: str, messages: Sequence[Message], request_id: str
    ) -> RunRow:
        """Begins a run and returns; it goes on by itself, even if the caller has hung up by then.

        Raises:
            NotFound: TEAM_NOT_FOUND, SESSION_NOT_FOUND.
            FailedPrecondition: TEAM_NOT_READY, SESSION_BUSY.
            ResourceExhausted: TOO_MANY_RUNS.
            Unavailable: The process starts or stops.
        """
        if self._group is None or self._draining:
            state = "stopping" if self._draining else "starting"
            raise Unavailable(f"the process is {state}; ask again", reason="DEPENDENCY_UNAVAILABLE")
        stages = StageClock(self._clock)
        with stages.stage("accept"):
            caller = current_caller()
            team = self.ready_team(caller.tenant, team_name)
            asked = _Asked(
                caller=caller, team=team, session=session, messages=messages, request_id=request_id
            )
            self._check_places(asked)
        self._places[asked.place] += 1
        begun: asyncio.Future[RunRow] = asyncio.get_running_loop().create_future()
        # A task from here on: a run that is stored must be worked on, whoever listens.
        self._group.create_task(self._carry(asked, stages, begun))
        return await begun

    async def _begin(self, asked: _Asked, stages: StageClock) -> RunRow | _Active:
        """Stores the run; a row alone is the run of an earlier call."""
        team = asked.team
        with stages.stage("session_load"):
            begun = await self._store.begin(
                request_id=asked.request_id,
                team=f"teams/{team.metadata.name}",
                session=asked.session,
                messages=asked.messages,
                history_messages=2 * team.spec.session.history_runs,
                team_revision=team.revision,
            )
        if not begun.created:
            return begun.run
        run_log = RunLog(
            run=begun.run.name,
            fencing_token=begun.fencing_token,
            store=self._store,
            clock=self._clock,
            last_sequence=begun.run.last_sequence,
        )
        if begun.started is not None:
            run_log.adopt(begun.started)
        reuse = team.spec.sharing.evidence_reuse
        turn = Turn(
            team=team,
            question=asked.messages[-1].content,
            history=[*begun.history, *asked.messages[:-1]],
            world=self._world,
            log=run_log,
            ledger=Ledger(policy=reuse.policy, min_similarity=float(reuse.min_similarity)),
            stages=stages,
        )
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("a run begins in a task of its own")
        return _Active(asked=asked, row=begun.run, turn=turn, task=task)

    async def follow(self, run: str, *, after: int) -> AsyncIterator[list[Item]]:
        """A run's events after a sequence, until its end; with texts if it runs here.

        Raises:
            NotFound: RUN_NOT_FOUND.
            Unavailable: The run stopped being worked on here; ask again.
        """
        known = self._find(run)
        if known is not None:
            try:
                async for items in known.follow(after):
                    yield items
            except LogUnavailable as error:
                raise Unavailable(
                    f"{run} is not worked on by this process any more; follow it again",
                    reason="DEPENDENCY_UNAVAILABLE",
                    metadata={"run": run},
                ) from error
            return
        row = await self._store.get(run)
        while True:
            events = await self._store.events(run, after=after)
            if events:
                yield list(events)
                after = events[-1].sequence
                if events[-1].is_last:
                    return
            else:
                if row.state != "RUNNING":
                    return
                await asyncio.sleep(_POLL_S)
                row = await self._store.get(run)

    async def cancel(self, run: str) -> RunRow:
        """Asks a run to stop; its stream tells when it has.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: RUN_FINISHED.
            Unavailable: Another process works on it; ask again.
        """
        active = self._active.get(run)
        if active is not None and active.asked.caller == current_caller():
            active.cancelled = True
            self._stop(active)
            return active.row
        row = await self._store.get(run)
        if row.state != "RUNNING":
            raise FailedPrecondition(
                f"{run} has ended: {row.state}", reason="RUN_FINISHED", metadata={"run": run}
            )
        raise Unavailable(
            f"{run} is worked on by another process; ask again",
            reason="DEPENDENCY_UNAVAILABLE",
            metadata={"run": run},
        )

    def ready_team(self, namespace: str, team_name: str) -> AgentTeam:
        """The team, if it can answer. Raises NotFound, FailedPrecondition."""
        name = team_name.removeprefix("teams/")
        team = self._world.catalogue.team(namespace, name)
        if team is None:
            known = ", ".join(t.metadata.name for t in self._world.catalogue.teams(namespace)) or "none"
            raise NotFound(
                f'no team "{name}" in namespace "{namespace}" (there are: {known}); apply its manifest',
                reason="TEAM_NOT_FOUND",
                metadata={"team": name, "namespace": namespace},
            )
        problems = self._world.catalogue.team_problems(namespace, name)
        if problems:
            raise FailedPrecondition(
                f'team "{name}" is not ready: {"; ".join(problems)}',
                reason="TEAM_NOT_READY",
                metadata={"team": name},
            )
        return team

    # --- within ---------------------------------------------------------------

    def _check_places(self, asked: _Asked) -> None:
        team, active = asked.team, self._places[asked.place]
        limit = team.spec.limits.max_concurrent_runs
        if active >= limit:
            if any(a.asked.is_same(asked) for a in self._active.values()):
                return  # a repeated call: it is answered with that run
            raise ResourceExhausted(
                f"team {team.metadata.name} has {active} active runs (limits.maxConcurrentRuns: {limit})",
                reason="TOO_MANY_RUNS",
                metadata={"team": team.metadata.name, "limit": str(limit)},
                retry_after=_BUSY_RETRY,
            )

    def _find(self, run: str) -> RunLog | None:
        active = self._active.get(run)
        if active is not None:
            return active.turn.log if active.asked.caller == current_caller() else None
        finished = self._finished.get(run)
        return finished.log if finished is not None and finished.caller == current_caller() else None

    def _stop(self, active: _Active) -> None:
        # Once only, and not when it ends already: both would cut off the storing of its end.
        if not active.stopped and active.turn.end is None:
            active.stopped = True
            active.task.cancel()

    async def _carry(self, asked: _Asked, stages: StageClock, begun: "asyncio.Future[RunRow]") -> None:
        """A run's task: nothing that happens in it may reach the others."""
        try:
            active = await self._begin(asked, stages)
            if not begun.done():
                begun.set_result(active.row if isinstance(active, _Active) else active)
            if isinstance(active, _Active):
                await self._work_on(active)
        except Exception as error:
            if begun.done():
                log.error("run_crashed", exc_info=error)
            else:
                begun.set_exception(error)
        finally:
            begun.cancel()  # where the process stops in between
            self._places[asked.place] -= 1
            if not self._places[asked.place]:
                del self._places[asked.place]

    async def _work_on(self, active: _Active) -> None:
        run = active.row.name
        self._active[run] = active
        ACTIVE_RUNS.set(len(self._active))
        try:
            # The run outlives the call that began it: its own caller, no deadline but its own.
            with scope(caller=active.asked.caller):
                try:
                    await execute(active.turn)
                except asyncio.CancelledError:
                    await self._stopped(active)
        except (ServiceError, LogUnavailable) as error:
            log.warning("run_given_up", run=run, error=str(error))
        except Exception as error:
            log.error("run_crashed", run=run, exc_info=error)
        finally:
            await active.turn.log.close()
            self._active.pop(run, None)
            ACTIVE_RUNS.set(len(self._active))
            if active.turn.log.finished:
                self._finished[run] = _Finished(caller=active.asked.caller, log=active.turn.log)
                if len(self._finished) > _KEEP_FINISHED:
                    self._finished.popitem(last=False)

    async def _stopped(self, active: _Active) -> None:
        if active.turn.log.failure is not None:
            return  # the lease is lost: whoever has it ends the run
        if active.turn.end is not None:
            await conclude(active.turn)
            return
        if active.cancelled:
            why: ServiceError = Cancelled("the run was cancelled", reason="RUN_CANCELLED")
        else:
            why = Unavailable("the service was stopped; ask again", reason="RUN_ABANDONED")
        await fail(active.turn, why)

    async def _renew_leases(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY.total_seconds())
            if not self._active:
                continue
            try:
                with scope(caller=_SELF, timeout=RENEW_EVERY):
                    lost = await self._store.renew(list(self._active))
            except ServiceError as error:
                # The leases outlive two failures; the third one loses them, and appends will say so.
                log.warning("leases_not_renewed", error=error.message)
                continue
            for run in lost:
                active = self._active.get(run)
                # One that ends right now counts as lost, too; its last append tells which it is.
                if active is not None and active.turn.end is None:
                    log.warning("lease_lost", run=run)
                    active.turn.log.failure = Conflict(
                        f"{run} was taken over by another process", reason="LEASE_LOST"
                    )
                    self._stop(active)

    async def _end_abandoned_runs(self) -> None:
        while True:
            try:
                with scope(caller=_SELF, timeout=LEASE):
                    acquired = await self._store.acquire_expired()
            except ServiceError as error:
                log.warning("expired_runs_not_acquired", error=error.message)
                acquired = []
            for run in acquired:
                active = self._active.get(run.run.name)
                if active is not None and active.turn.log.failure is None:
                    # Nobody could renew our own lease for a while; the run is ours again.
                    active.turn.log.own_again(run.fencing_token)
                    continue
                try:
                    with scope(caller=run.caller, timeout=LEASE):
                        await self._end_abandoned(run)
                except (ServiceError, LogUnavailable) as error:
                    log.warning("abandoned_run_not_ended", run=run.run.name, error=str(error))
            await asyncio.sleep(RENEW_EVERY.total_seconds())

    async def _end_abandoned(self, acquired: Acquired) -> None:
        """Ends a run whose process is gone: with its answer if the log has it, else with the reason."""
        name = acquired.run.name
        events: list[StoredEvent] = []
        while batch := await self._store.events(name, after=events[-1].sequence if events else 0):
            events.extend(batch)
        answered = any(e.kind == "message_completed" and not e.member for e in events)
        run_log = RunLog(
            run=name,
            fencing_token=acquired.fencing_token,
            store=self._store,
            clock=self._clock,
            last_sequence=events[-1].sequence if events else 0,
        )
        error = None
        if not answered:
            error = Unavailable(
                "the process that worked on the run is gone; ask again", reason="RUN_ABANDONED"
            )
        seconds = (self._clock.now() - events[0].time).total_seconds() if events else 0.0
        run_log.emit(
            RunFinished(
                state="SUCCEEDED" if answered else "FAILED",
                summary=Summary(usage=Usage(), seconds=seconds, stages=()),
                error=error,
            )
        )
        try:
            await run_log.flush()
        finally:
            await run_log.close()
        log.info("abandoned_run_ended", run=name, answered=answered)


_SELF = Caller(tenant="", user="", service="orchestrator")
