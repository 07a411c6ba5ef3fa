"""What tuning needs from the catalogue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from retrieval.core.model import Vectors
from retrieval.core.tuning.model import Candidate, Job, Kind, Measurement, Tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class QuerySample:
    """The vector of a query that was asked."""

    tenant: str
    knowledge_base: str
    model_fingerprint: str
    vector: Vectors


class QuerySamples(Protocol):
    """Vectors of queries, a bounded number for each knowledge base."""

    async def add(self, samples: Sequence[QuerySample], *, now: datetime) -> None:
        """Keeps them; old ones make room at random. Those of knowledge bases that are gone are dropped."""
        ...

    async def read(self, tenant: str, knowledge_base: str, model_fingerprint: str, *, limit: int) -> Vectors:
        """The newest, one a row; those of another model are left out."""
        ...


class Tunings(Protocol):
    """Jobs and results. Every method is one transaction.

    Those that take a job and answer with a bool say False if its lease is lost.
    """

    async def request(
        self, tenant: str, knowledge_base: str, *, kind: Kind, reason: str, now: datetime
    ) -> Tuning:
        """Queues a tuning, unless one waits or runs.

        Raises:
            NotFound: The knowledge base is not there.
        """
        ...

    async def get(self, tenant: str, ids: Sequence[str]) -> Mapping[str, Tuning]:
        """By knowledge base; those that were never tuned are left out."""
        ...

    async def candidates(self, *, after: tuple[str, str], limit: int) -> list[Candidate]:
        """Knowledge bases of all tenants by tenant and id, those behind `after`."""
        ...

    async def claim(self, *, lease: timedelta, now: datetime) -> Job | None:
        """The next job: one that waits, or whose worker's lease ended."""
        ...

    async def renew(self, job: Job, *, lease: timedelta, now: datetime) -> bool:
        """Keeps the job, and the pause if there is one."""
        ...

    async def finish(
        self, job: Job, measured: Measurement | None, *, policy: str, check_time: datetime, now: datetime
    ) -> bool:
        """DONE. `measured` None: what was measured before still holds."""
        ...

    async def fail(self, job: Job, message: str, *, check_time: datetime, now: datetime) -> bool:
        """FAILED; what was measured before still holds."""
        ...

    async def postpone(self, job: Job, *, until: datetime, now: datetime) -> bool:
        """PENDING again, not before `until`."""
        ...

    async def remove(self, job: Job) -> None:
        """The knowledge base is gone."""
        ...

    async def set_shadow(self, job: Job, collection: str, *, lease: timedelta, now: datetime) -> bool:
        """Names the shadow, before it is made, and pauses indexing. Empty: there is none any more."""
        ...

    async def indexing(self, job: Job, *, now: datetime) -> int:
        """Documents of the knowledge base that a worker may still be writing."""
        ...

    async def swap(self, job: Job, measured: Measurement, *, since: datetime, now: datetime) -> bool:
        """Serves from the shadow and ends the pause.

        False also if the knowledge base serves from another collection than `job.former` by now, or
        something was indexed after `since`.
        """
        ...

    async def gone(self, job: Job, documents: Sequence[str]) -> list[str]:
        """Of these documents, those that are deleted or being deleted."""
        ...
