"""What the servicer needs of a store. `tests/contract` holds every one to it."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol

from session.core.golden_sets import GoldenSetStore
from session.core.model import (
    EVERY_RUN,
    AcquiredRun,
    AppendedEvents,
    BegunRun,
    Event,
    Lease,
    Message,
    NewEvent,
    NewInput,
    NewRun,
    NewSession,
    Owner,
    RenewedLeases,
    Run,
    RunFilter,
    RunInput,
    RunState,
    Session,
)
from session.core.pages import Page
from session.core.quotas import QuotaStore
from session.core.scores import ScoreStore
from session.core.user_data import ANY_TIME, MemoryStore, SessionTimes, UserDataStore


class SessionStore(UserDataStore, MemoryStore, ScoreStore, QuotaStore, GoldenSetStore, Protocol):
    """Sessions, messages, runs and events. Ids are bare, not resource names.

    What belongs to another owner is as if it did not exist. Every method
    raises Unavailable(DEPENDENCY_UNAVAILABLE) when the database does not
    answer; it is safe to call again then.
    """

    async def create_session(self, owner: Owner, new: NewSession) -> Session:
        """Creates a session, or returns the one of the first call with the request id.

        Raises:
            InvalidArgument: REQUEST_ID_REUSED: the id came with another body before.
        """
        ...

    async def get_session(self, owner: Owner, session: str) -> Session:
        """Raises NotFound: SESSION_NOT_FOUND."""
        ...

    async def list_sessions(
        self,
        owner: Owner,
        *,
        team: str,
        before: tuple[datetime, str] | None,
        limit: int,
        times: SessionTimes = ANY_TIME,
    ) -> tuple[Session, ...]:
        """Sessions of the owner (of `team` unless empty, within `times`), last used first.

        `before` is the place to go on after: (update time, id) of the
        last session seen. A session that is used meanwhile moves to the
        front; no session comes twice.
        """
        ...

    async def update_session(self, owner: Owner, session: str, *, display_name: str) -> Session:
        """Raises NotFound: SESSION_NOT_FOUND."""
        ...

    async def delete_session(self, owner: Owner, session: str) -> None:
        """Deletes a session with everything below it.

        Raises:
            NotFound: SESSION_NOT_FOUND.
            FailedPrecondition: SESSION_BUSY: it has a run that is not finished, also one that waits.
        """
        ...

    async def list_messages(
        self, owner: Owner, session: str, *, after_sequence: int, limit: int
    ) -> Page[Message]:
        """Messages after a sequence, oldest first, as many as fit into PAGE_BYTES; one at least.

        Raises:
            NotFound: SESSION_NOT_FOUND.
        """
        ...

    async def begin_run(self, owner: Owner, new: NewRun) -> BegunRun:
        """Stores session (if new), input, run and first event in one transaction.

        If another run of the session is not finished, `new.on_busy` decides;
        a run that waits is stored with its input, and both become part of
        the conversation when it begins.

        A repeated call returns the run of the first. It is `created` again
        only for the owner of its lease while nothing was appended.

        Raises:
            NotFound: SESSION_NOT_FOUND.
            FailedPrecondition: SESSION_BUSY: another run of the session is not finished.
            ResourceExhausted: SESSION_QUEUE_FULL: MAX_WAITING_RUNS wait already;
                TOO_MANY_RUNS: `new.max_active_runs` of the tenant's runs of the team run already;
                QUOTA_EXHAUSTED: as many of the tenant run as it may have.
            InvalidArgument: REQUEST_ID_REUSED, or INVALID_FIELD: the session is
                another team's.
        """
        ...

    async def append_events(
        self,
        owner: Owner,
        run: str,
        *,
        fencing_token: int,
        events: Sequence[NewEvent],
        park_until: datetime | None = None,
    ) -> AppendedEvents:
        """Appends all or none; skips those stored already; renews the lease.

        The end of a run begins the next one that waits in its session.
        `park_until`: the run becomes WAITING, unless somebody has said
        something that the log does not hold yet, or asked it to stop.

        Raises:
            NotFound: RUN_NOT_FOUND.
            Conflict: LEASE_LOST: somebody else owns the run; stop.
            FailedPrecondition: SEQUENCE_GAP or RUN_FINISHED.
            InvalidArgument: INVALID_FIELD: another event with that sequence is stored, the run is
                to be parked and asks nobody, or a summary covers messages that are not there.
        """
        ...

    async def renew_leases(
        self, owner: Owner | None, runs: Sequence[str], *, lease: Lease, tenant: str = ""
    ) -> RenewedLeases:
        """Renews the leases of `lease.owner`; a duration of 0 gives them back.

        `owner` None: everybody's, of `tenant` or of every tenant, for an orchestrator's own calls.
        """
        ...

    async def acquire_expired_runs(
        self, *, lease: Lease, limit: int, which: RunFilter = EVERY_RUN
    ) -> tuple[AcquiredRun, ...]:
        """Takes over runs that nobody works on.

        First those whose leases have expired and whose back-off is over,
        longest expired first, and those that have waited for a person as long
        as they may; then runs that wait although their session is free. Fewer
        than there are if they would have more than REPLY_BYTES.
        """
        ...

    async def owner_of_run(self, tenant: str, run: str) -> Owner:
        """Whose run it is, for a service of the tenant. Raises NotFound: RUN_NOT_FOUND."""
        ...

    async def provide_input(
        self, owner: Owner, run: str, new: NewInput, *, check: Callable[[bytes], None]
    ) -> Run:
        """Stores what a person says; a WAITING run is RUNNING then, and whoever asks next has it.

        `check` gets the request's `body`, and raises if the input does not answer it.
        The same input again changes nothing.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: RUN_FINISHED.
            InvalidArgument: INPUT_NOT_REQUESTED: not asked for, or not any more.
            AlreadyExists: INPUT_PROVIDED: something else was said before.
        """
        ...

    async def inputs_of_run(self, owner: Owner, run: str) -> tuple[RunInput, ...]:
        """What people said to a run that its log does not hold yet."""
        ...

    async def request_cancel(self, owner: Owner, run: str) -> Run:
        """Asks a run to stop; one that is CANCELLED stays as it is.

        One that is PENDING ends at once; one that is WAITING is RUNNING then,
        for whoever asks next to end it.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: RUN_FINISHED: it has succeeded or failed.
        """
        ...

    async def get_run(self, owner: Owner, run: str) -> Run:
        """Raises NotFound: RUN_NOT_FOUND."""
        ...

    async def list_runs(
        self,
        owner: Owner,
        *,
        session: str,
        team: str,
        before: tuple[datetime, str] | None,
        limit: int,
        state: RunState | None = None,
    ) -> tuple[Run, ...]:
        """Runs of the owner (of `session`, of `team` unless empty, in `state`), newest first.

        `before` is the place to go on after: (create time, id) of the
        last run seen.
        """
        ...

    async def list_run_events(
        self, owner: Owner, run: str, *, after_sequence: int, limit: int, wait: timedelta = timedelta(0)
    ) -> tuple[Event, ...]:
        """Events after a sequence, in order, as many as fit into PAGE_BYTES; none: there are no more.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        ...


MIN_LEASE = timedelta(seconds=1)
MAX_LEASE = timedelta(minutes=10)
