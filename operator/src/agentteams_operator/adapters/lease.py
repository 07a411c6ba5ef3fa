"""Who of the replicas works: the holder of a Lease."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import httpx2
import structlog
from lightkube import ApiError, AsyncClient
from lightkube.models.coordination_v1 import LeaseSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.coordination_v1 import Lease

log = structlog.get_logger()

_FAILURES = (httpx2.HTTPError, OSError, TimeoutError)


class LeaderLease:
    """Runs the work while this process holds the lease, and waits while it does not.

    As clients in Go do it: a lease of others counts as over when it was not renewed for its duration by our
    own clock, whatever times it holds, so that clocks may differ.

    Args:
        lease: Others may take over after so long without a renewal.
        renew_every: Pause between renewals; well below `give_up`.
        give_up: The work stops after so long without a successful renewal; below `lease`.
    """

    def __init__(
        self, client: AsyncClient, *, name: str, namespace: str, identity: str,
        lease: timedelta = timedelta(seconds=15), renew_every: timedelta = timedelta(seconds=3),
        give_up: timedelta = timedelta(seconds=10),
    ) -> None:  # fmt: skip
        self._client = client
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._lease_s = lease.total_seconds()
        self._renew_s = renew_every.total_seconds()
        self._give_up_s = give_up.total_seconds()
        self._seen: tuple[str, float] = ("", 0.0)

    async def hold(self, work: Callable[[], Awaitable[None]]) -> None:
        """Until it is cancelled: waits for the lease, works, waits again after a loss; gives it back."""
        while True:
            await self._acquire()
            log.info("leading", identity=self._identity)
            try:
                await self._work(work)
            finally:
                await asyncio.shield(self._release())
            log.warning("lease_lost", identity=self._identity)

    async def _acquire(self) -> None:
        while not await self._try():  # noqa: ASYNC110  nobody tells when a lease runs out
            await asyncio.sleep(self._renew_s * random.uniform(0.8, 1.2))

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        try:
            renewed = asyncio.get_running_loop().time()
            while True:
                done, _ = await asyncio.wait([working], timeout=self._renew_s)
                if done:
                    working.result()
                    return
                now = asyncio.get_running_loop().time()
                if await self._try():
                    renewed = now
                elif now - renewed >= self._give_up_s:
                    return
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)

    async def _try(self) -> bool:
        """Whether it is ours now."""
        try:
            async with asyncio.timeout(self._give_up_s / 2):
                return await self._take()
        except ApiError as error:
            if error.status.code not in (404, 409):
                log.warning("lease_not_renewed", error=error.status.message)
        except _FAILURES as error:
            log.warning("lease_not_renewed", error=type(error).__name__)
        return False

    async def _take(self) -> bool:
        try:
            lease = await self._client.get(Lease, self._name, namespace=self._namespace)
        except ApiError as error:
            if error.status.code != 404:
                raise
            await self._client.create(self._ours(None))
            return True
        spec = lease.spec or LeaseSpec()
        now = asyncio.get_running_loop().time()
        version = str(lease.metadata.resourceVersion) if lease.metadata else ""
        if self._seen[0] != version:
            self._seen = (version, now)
        held = spec.holderIdentity or ""
        if held and held != self._identity:
            seconds = float(spec.leaseDurationSeconds or self._lease_s)
            if now - self._seen[1] < seconds:
                return False
        await self._client.replace(self._ours(lease))
        return True

    def _ours(self, before: Lease | None) -> Lease:
        now = datetime.now(UTC)
        spec = (before.spec if before else None) or LeaseSpec()
        again = spec.holderIdentity == self._identity
        return Lease(
            metadata=ObjectMeta(
                name=self._name,
                namespace=self._namespace,
                # A lease that changed since we read it is refused.
                resourceVersion=before.metadata.resourceVersion if before and before.metadata else None,
            ),
            spec=LeaseSpec(
                holderIdentity=self._identity,
                leaseDurationSeconds=max(1, round(self._lease_s)),
                acquireTime=spec.acquireTime if again else now,
                renewTime=now,
                leaseTransitions=(spec.leaseTransitions or 0) + (0 if again or not before else 1),
            ),
        )

    async def _release(self) -> None:
        """Gives it back, so that another need not wait; if that fails, it waits."""
        try:
            async with asyncio.timeout(self._renew_s):
                lease = await self._client.get(Lease, self._name, namespace=self._namespace)
                if lease.spec is None or lease.spec.holderIdentity != self._identity:
                    return
                lease.spec.holderIdentity = ""
                lease.spec.leaseDurationSeconds = 1
                await self._client.replace(lease)
        except (ApiError, *_FAILURES) as error:
            log.info("lease_not_given_back", error=type(error).__name__)
