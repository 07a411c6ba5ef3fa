"""Asks teams their golden sets by schedule.

Every process looks through all of them; one takes a golden set that is due, under a lease, and stores the
scores only if it still holds it. What a killed process had in hand is asked again when the lease ends.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from evaluation.core.golden import Evaluation, GoldenRuns, Result
from evaluation.core.schedule import Claim, GoldenPolicy, GoldenSet, GoldenSets, GoldenTeams
from evaluation.core.worker import SERVICE
from servicekit.clock import Clock
from servicekit.context import Caller, scope
from servicekit.errors import Conflict, ServiceError
from servicekit.leased_work import do_while_leased
from servicekit.schedules import retry_delay

log = structlog.get_logger()

USER = "golden-set"
"""On whose behalf teams are asked: nobody waits for the answers."""
_CALL = timedelta(seconds=10)
_HAND_OVER = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenLimits:
    """Of the schedule.

    Attributes:
        poll: How often what is due is looked for.
        lease: How long a golden set is left to a process that says nothing.
        longest: An evaluation that takes longer has failed.
        parallel: Golden sets at a time.
        orphaned: How long one is kept that no manifest wants.
    """

    poll: timedelta = timedelta(seconds=10)
    lease: timedelta = timedelta(minutes=2)
    longest: timedelta = timedelta(hours=6)
    parallel: int = 2
    orphaned: timedelta = timedelta(days=1)


Wanted = tuple[GoldenSet, GoldenPolicy]


class GoldenWorker:
    """Asks what is due.

    Args:
        sets: The golden sets.
        teams: What the manifests say of them.
        golden: Asks one.
        seen: Told of all that manifests want, after each look through them.
        ended: Told of each evaluation whether it was done.
    """

    def __init__(
        self,
        *,
        sets: GoldenSets,
        teams: GoldenTeams,
        golden: GoldenRuns,
        clock: Clock,
        limits: GoldenLimits,
        seen: Callable[[Sequence[Wanted]], None] = lambda _: None,
        ended: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._sets = sets
        self._teams = teams
        self._golden = golden
        self._clock = clock
        self._limits = limits
        self._seen = seen
        self._ended = ended
        self._busy: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._orphans: dict[tuple[str, str], datetime] = {}

    async def work(self) -> None:
        """Works until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    await self.look(group)
                except ServiceError as error:
                    log.warning("golden_sets_not_looked_at", reason=error.reason, error=error.message)
                await asyncio.sleep(self._limits.poll.total_seconds())

    async def look(self, group: asyncio.TaskGroup) -> None:
        """Looks through all once, and begins what is due.

        Raises:
            ServiceError: The session service does not answer.
        """
        with scope(caller=Caller("", "", SERVICE), timeout=_CALL * 6):
            found = await self._sets.all()
        wanted: list[Wanted] = []
        for one in found:
            policy = self._teams.golden(one.tenant, one.team)
            if policy is not None:
                wanted.append((one, policy))
        self._seen(wanted)
        await self._drop(found, {(one.tenant, one.team) for one, _ in wanted})
        now = self._clock.now()
        due = [(one.due(policy, at_once=now), one, policy) for one, policy in wanted]
        # What has waited longest first, so that nobody is passed over for ever.
        for time, one, policy in sorted(due, key=lambda row: (row[0], row[1].schedule.turn)):
            key = (one.tenant, one.team)
            if time > now or len(self._busy) >= self._limits.parallel:
                break
            if key not in self._busy and (claim := await self._claim(one)) is not None:
                task = group.create_task(self._evaluate(one, policy, claim))
                self._busy[key] = task
                task.add_done_callback(lambda _, key=key: self._busy.pop(key, None))  # type: ignore[misc]

    async def _drop(self, found: Sequence[GoldenSet], wanted: set[tuple[str, str]]) -> None:
        now = self._clock.now()
        orphans = {(one.tenant, one.team): one for one in found if (one.tenant, one.team) not in wanted}
        self._orphans = {key: self._orphans.get(key, now) for key in orphans}
        for key, since in self._orphans.items():
            if now - since >= self._limits.orphaned:
                with scope(caller=Caller(key[0], "", SERVICE), timeout=_CALL):
                    await self._sets.drop(orphans[key])

    async def _claim(self, one: GoldenSet) -> Claim | None:
        with scope(caller=Caller(one.tenant, "", SERVICE), timeout=_CALL):
            return await self._sets.claim(one, lease=self._limits.lease)

    async def _evaluate(self, one: GoldenSet, policy: GoldenPolicy, claim: Claim) -> None:
        results: list[Result] = []

        async def renew(lease: timedelta = self._limits.lease) -> bool:
            with scope(caller=Caller(one.tenant, "", SERVICE), timeout=_CALL):
                return await self._sets.renew(one, claim.token, lease=lease, done=len(results))

        async def lost() -> None:
            log.info("golden_set_lost", tenant=one.tenant, team=one.team)

        async def stopped() -> None:
            await renew(_HAND_OVER)  # another process goes on at once

        work = self._do(one, policy, claim, results, renew)
        try:
            await do_while_leased(work, renew=renew, lease=self._limits.lease, lost=lost, stopped=stopped)
        except ServiceError as error:  # the end could not be stored: the lease runs out, and it is done again
            log.warning("golden_set_not_ended", team=one.team, reason=error.reason, error=error.message)

    async def _do(
        self,
        one: GoldenSet,
        policy: GoldenPolicy,
        claim: Claim,
        results: list[Result],
        renew: Callable[[], Awaitable[bool]],
    ) -> None:
        longest = self._limits.longest
        try:
            with scope(caller=Caller(one.tenant, USER, SERVICE), timeout=longest):
                async with asyncio.timeout(longest.total_seconds()):
                    asked = self._golden.run(one.team, claim.questions, patient=True)
                    async with aclosing(asked):  # type: ignore[type-var]
                        async for result in asked:
                            results.append(result)
                            self._check(one, policy)
                            if not await renew():
                                return
            evaluation = Evaluation(
                team_revision=policy.revision, golden_set_sha256=one.sha256, results=results
            )
            with scope(caller=Caller(one.tenant, "", SERVICE), timeout=_CALL):
                stored = await self._sets.finish(one, claim.token, evaluation)
        except ServiceError as error:
            await self._failed(one, claim, error.message)
        except TimeoutError:
            await self._failed(one, claim, f"it took longer than {longest}")
        except Exception as error:  # a bug of ours or of a library must not end the worker
            log.error("golden_set_crashed", team=one.team, exc_info=error)
            await self._failed(one, claim, f"internal error ({type(error).__name__})")
        else:
            self._ended(True)
            log.info("golden_set_asked", tenant=one.tenant, team=one.team, stored=stored)

    def _check(self, one: GoldenSet, policy: GoldenPolicy) -> None:
        now = self._teams.golden(one.tenant, one.team)
        if now is None or now.revision != policy.revision:
            raise Conflict(
                "the team changed while it was asked", reason="CONFLICT", metadata={"team": one.team}
            )

    async def _failed(self, one: GoldenSet, claim: Claim, message: str) -> None:
        log.warning("golden_set_failed", tenant=one.tenant, team=one.team, error=message)
        self._ended(False)
        retry = self._clock.now() + retry_delay(one.failures)
        with scope(caller=Caller(one.tenant, "", SERVICE), timeout=_CALL):
            await self._sets.fail(one, claim.token, message[:1000], retry=retry)
