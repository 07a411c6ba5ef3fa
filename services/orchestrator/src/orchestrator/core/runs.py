"""All runs of this process: begins them, takes over those of others, answers calls about them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import structlog

from manifests import AgentTeam
from orchestrator.core.active import Active
from orchestrator.core.admission import ready_team, too_many_runs
from orchestrator.core.approving import provide
from orchestrator.core.beginning import Asked, turn_of
from orchestrator.core.context.conversation import history_messages, retention
from orchestrator.core.following import Following
from orchestrator.core.held import HeldRuns
from orchestrator.core.leases import Leases
from orchestrator.core.log import Item
from orchestrator.core.model import HistorySummarized, Message, RunInput, StoredEvent
from orchestrator.core.pool import Pool
from orchestrator.core.ports import Acquired, BusyPolicy, LeaseTimes, Peers, RunRow, SessionLog
from orchestrator.core.recorded import Recorded
from orchestrator.core.resume import end_recorded, note_take_over, refusal
from orchestrator.core.run import execute
from orchestrator.core.stages import StageClock
from orchestrator.core.structured import Schema
from orchestrator.core.tracing import RunTrace
from orchestrator.core.turn import Turn, World
from servicekit.clock import Clock
from servicekit.context import Caller, current_caller
from servicekit.errors import FailedPrecondition, ServiceError, Unavailable

log = structlog.get_logger()

Place = tuple[str, str]  # whose limit of active runs it counts for: tenant and team


class Runs:
    """Owns the runs of one orchestrator process.

    Args:
        world: What runs work with.
        store: Where sessions and logs are.
        peers: Other orchestrators.
        clock: For stages and retries.
        address: Where the others call this process; empty: they cannot.
        times: Of the leases that `store` asks for.
        pool: Whose runs are worked on here.
    """

    def __init__(
        self,
        *,
        world: World,
        store: SessionLog,
        peers: Peers,
        clock: Clock,
        address: str = "",
        times: LeaseTimes = LeaseTimes(),  # noqa: B008  frozen
        pool: Pool = Pool(),  # noqa: B008  frozen
    ) -> None:
        self._world = world
        self._store = store
        self._peers = peers
        self._clock = clock
        self._address = address
        self._pool = pool
        self._held = HeldRuns(
            store=store,
            clock=clock,
            caller=pool.caller,
            arrived=self._arrived,
            take=self._take,
        )
        self._places: Counter[Place] = Counter()  # taken
        self._group: asyncio.TaskGroup | None = None
        self._draining = False
        self._leases = Leases(
            store=store,
            clock=clock,
            times=times,
            pool=pool,
            runs=lambda: list(self._held.active),
            renewed=self._held.renewed,
            take=self._take,
        )
        self._following = Following(store=store, peers=peers, address=address, find=self._held.log_of)

    # --- the process' loops -------------------------------------------------

    async def work(self) -> None:
        """Carries the runs' tasks for the process' life."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._leases.renew())
            group.create_task(self._leases.take_over())

    async def drain(self, grace: timedelta) -> None:
        """Lets the runs end within the grace period, and hands over what is left then."""
        self._draining = True
        self._leases.stop()
        await self._held.drain(grace)
        self._following.stop()

    # --- calls ----------------------------------------------------------------

    async def start(
        self,
        *,
        team_name: str,
        session: str,
        messages: Sequence[Message],
        request_id: str,
        on_busy: BusyPolicy = "ENQUEUE",
        answer_schema: Schema | None = None,
    ) -> RunRow:
        """Begins a run and returns; it goes on by itself, even if the caller has hung up by then.

        The run is PENDING if the session has another one and `on_busy` lets it wait.

        Raises:
            NotFound: TEAM_NOT_FOUND, SESSION_NOT_FOUND.
            FailedPrecondition: TEAM_NOT_READY, TEAM_SERVED_ELSEWHERE, SESSION_BUSY.
            ResourceExhausted: TOO_MANY_RUNS, SESSION_QUEUE_FULL.
            Unavailable: The process starts or stops.
        """
        if self._group is None or self._draining:
            state = "stopping" if self._draining else "starting"
            raise Unavailable(f"the process is {state}; ask again", reason="DEPENDENCY_UNAVAILABLE")
        stages, trace = StageClock(self._clock), RunTrace.begin(team_name, tenant=current_caller().tenant)
        with trace.refused_unless_begun(), stages.stage("accept"):
            caller = current_caller()
            asked = Asked(
                caller=caller,
                team=ready_team(self._world.catalogue, caller, team_name),
                session=session,
                messages=messages,
                request_id=request_id,
                on_busy=on_busy,
                answer_schema=answer_schema,
            )
            self._pool.check(asked.team)
            self._check_places(asked)
        begun: asyncio.Future[RunRow] = asyncio.get_running_loop().create_future()
        # A task from here on: a run that is stored must be worked on, whoever listens.
        with trace.use():
            work = self._begin(asked, stages, begun, trace)
            self._carry((caller.tenant, asked.team.metadata.name), work)
        return await begun

    def follow(self, run: str, *, after: int, forwarded: bool = False) -> AsyncIterator[Sequence[Item]]:
        """See Following.follow."""
        return self._following.follow(run, after=after, forwarded=forwarded)

    async def cancel(self, run: str, *, forwarded: bool = False) -> RunRow:
        """Asks a run to stop; its stream tells when it has. One that was cancelled already is returned.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: RUN_FINISHED.
        """
        active = self._held.active.get(run)
        if active is not None and active.caller == current_caller():
            self._held.cancel(active)
            if not forwarded:  # else the note is there already
                try:
                    await self._store.request_cancel(run)  # for whoever goes on if this process dies now
                except ServiceError as error:
                    log.info("cancel_not_noted", run=run, error=error.message)
            return active.row
        finished = self._held.finished.get(run)
        if finished is not None and finished.caller == current_caller():
            if finished.row.state == "CANCELLED":
                return finished.row
            raise FailedPrecondition(f"{run} has ended", reason="RUN_FINISHED", metadata={"run": run})
        row = await self._store.request_cancel(run)
        if row.owner_address and row.owner_address != self._address and not forwarded and not row.is_over:
            try:
                await self._peers.cancel(row.owner_address, run)
            except ServiceError as error:
                # The owner finds the note with its next renewal.
                log.info("owner_not_reached", run=run, owner=row.owner_address, error=error.message)
        return row

    async def provide(self, run: str, said: RunInput, *, forwarded: bool = False) -> RunRow:
        """What the caller says to a run that asked for it. Raises as `approving.provide`."""
        row = await provide(self._store, self._world.catalogue, run, said)
        active = self._held.active.get(run)
        if active is not None:
            self._held.deliver(active, [replace(said, user=current_caller().user)])
        elif row.owner_address in ("", self._address):
            self._leases.look()  # it waited, and is free now
        elif not forwarded:
            try:
                await self._peers.provide(row.owner_address, run, said)
            except ServiceError as error:
                # The owner finds it with its next renewal.
                log.info("owner_not_reached", run=run, owner=row.owner_address, error=error.message)
        return row

    # --- beginning and taking over ----------------------------------------------

    def _check_places(self, asked: Asked) -> None:
        team, limit = asked.team, asked.team.spec.limits.max_concurrent_runs
        active = self._places[asked.caller.tenant, team.metadata.name]
        if active < limit:
            return
        for other in self._held.active.values():
            # A repeated call is answered with that run; one behind another of its session only waits.
            if other.caller == asked.caller and (
                other.request_id == asked.request_id or other.row.session == asked.session
            ):
                return
        raise too_many_runs(team, active)

    def _carry(self, place: Place, work: Coroutine[Any, Any, None]) -> None:
        """Gives a run a task and a place among its team's."""
        if self._group is None:
            raise AssertionError("runs are carried by work()")
        self._places[place] += 1
        self._group.create_task(self._carried(place, work))

    async def _carried(self, place: Place, work: Coroutine[Any, Any, None]) -> None:
        """A run's task: nothing that happens in it may reach the others."""
        try:
            await work
        except Exception as error:
            log.error("run_crashed", exc_info=error)
        finally:
            work.close()
            self._places[place] -= 1
            if not self._places[place]:
                del self._places[place]

    async def _begin(
        self, asked: Asked, stages: StageClock, begun: "asyncio.Future[RunRow]", trace: RunTrace
    ) -> None:
        team = asked.team
        try:
            with stages.stage("session_load"):
                stored = await self._store.begin(
                    request_id=asked.request_id,
                    team=f"teams/{team.metadata.name}",
                    session=asked.session,
                    messages=asked.messages,
                    history_messages=history_messages(team),
                    team_revision=team.revision,
                    on_busy=asked.on_busy,
                    max_active_runs=team.spec.limits.max_concurrent_runs,
                    answer_schema=asked.answer_schema,
                    retention=retention(team),
                )
        except asyncio.CancelledError:
            begun.cancel()
            raise
        except Exception as error:
            trace.refuse()
            if begun.done():
                raise
            begun.set_exception(error)
            return
        if not begun.done():
            begun.set_result(stored.run)
        if stored.run.state == "PENDING" and asked.on_busy == "INTERRUPT":
            self._interrupt(asked.caller, stored.run)
        if not stored.created or not stored.fencing_token or stored.run.name in self._held.active:
            trace.refuse()
            return
        active = self._held.register(
            asked.caller, stored.run, stored.fencing_token, trace, request_id=asked.request_id
        )
        active.log.adopt([stored.started] if stored.started is not None else [])
        fresh = Recorded(answer_schema=asked.answer_schema)

        async def work() -> None:
            said = [*stored.history, *asked.messages]
            active.turn = self._turn(active, team, said, stored.summary, stages=stages, recorded=fresh)
            await execute(active.turn)

        await self._held.work_on(active, work)

    def _interrupt(self, caller: Caller, waiting: RunRow) -> None:
        """Does at once what the store would tell with the next renewal."""
        for active in self._held.active.values():
            if active.caller == caller and active.row.session == waiting.session:
                self._held.cancel(active)

    def _take(self, acquired: Acquired) -> None:
        """Goes on with a run that is ours now."""
        name = acquired.run.name
        active = self._held.active.get(name)
        if active is not None and active.log.failure is None and active.log.own_again(acquired.fencing_token):
            return  # nobody could renew our own lease for a while; the run is ours again
        team = acquired.run.team.removeprefix("teams/")
        self._carry((acquired.caller.tenant, team), self._resume(acquired, active))

    async def _resume(self, acquired: Acquired, before: Active | None) -> None:
        run = acquired.run
        RunTrace(None).set_current()  # not that of the run whose end brought us this one
        if before is not None:
            self._held.lose(before)
            await asyncio.wait([before.task])
        active = self._held.register(acquired.caller, run, acquired.fencing_token, RunTrace(None))

        async def work() -> None:
            if self._draining:
                raise asyncio.CancelledError  # it was ours for a moment only
            events = await self._events(run.name)
            active.log.adopt(events)
            recorded = Recorded.of(events)
            name = run.team.removeprefix("teams/")
            active.trace = RunTrace.resume(name, run.attempt, events)
            active.name_trace()
            active.trace.set_current()
            team = self._world.catalogue.team(acquired.caller.tenant, name)
            why = refusal(acquired, team, recorded)
            if team is None or why is not None or recorded.answer is not None:
                place = (acquired.caller.tenant, name)
                calls, clock = self._world.calls, self._clock
                await end_recorded(active.log, recorded, events, clock, why, place=place, calls=calls)
                return
            earlier = (self._clock.now() - events[0].time).total_seconds() if events else 0.0
            stages = StageClock(self._clock, earlier_s=max(0.0, earlier))
            said = [*acquired.history, *acquired.input]
            active.turn = self._turn(active, team, said, acquired.summary, stages=stages, recorded=recorded)
            active.turn.inputs.deliver(acquired.inputs)
            await execute(active.turn)

        note_take_over(acquired, self._clock.now())
        await self._held.work_on(active, work)

    def _arrived(self) -> None:
        self._following.arrived()

    async def _events(self, run: str) -> list[StoredEvent]:
        events: list[StoredEvent] = []
        while page := await self._store.events(run, after=events[-1].sequence if events else 0):
            events.extend(page)
        return events

    def _turn(
        self,
        active: Active,
        team: AgentTeam,
        conversation: Sequence[Message],
        summary: HistorySummarized | None,
        *,
        stages: StageClock,
        recorded: Recorded,
    ) -> Turn:
        return turn_of(
            team,
            conversation,
            summary,
            world=self._world,
            log=active.log,
            earlier=lambda: self._store.session_logs(active.row),
            stages=stages,
            recorded=recorded,
            attempt=active.row.attempt,
        )
