"""What the servicer needs of a store. `tests/contract` holds every one to it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

from session.core.model import (
    AcquiredRun,
    AppendedEvents,
    BegunRun,
    Event,
    Lease,
    Message,
    NewEvent,
    NewRun,
    NewSession,
    Owner,
    RenewedLeases,
    Run,
    Session,
)
from session.core.pages import Page
from session.core.user_data import ANY_TIME, MemoryStore, SessionTimes, UserDataStore


class SessionStore(UserDataStore, MemoryStore, Protocol):
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
            ResourceExhausted: SESSION_QUEUE_FULL: MAX_WAITING_RUNS wait already.
            InvalidArgument: REQUEST_ID_REUSED, or INVALID_FIELD: the session is
                another team's.
        """
        ...

    async def append_events(
        self, owner: Owner, run: str, *, fencing_token: int, events: Sequence[NewEvent]
    ) -> AppendedEvents:
        """Appends all or none; skips those stored already; renews the lease.

        The end of a run begins the next one that waits in its session.

        Raises:
            NotFound: RUN_NOT_FOUND.
            Conflict: LEASE_LOST: somebody else owns the run; stop.
            FailedPrecondition: SEQUENCE_GAP or RUN_FINISHED.
            InvalidArgument: INVALID_FIELD: another event with that sequence is stored.
        """
        ...

    async def renew_leases(self, owner: Owner | None, runs: Sequence[str], *, lease: Lease) -> RenewedLeases:
        """Renews the leases of `lease.owner`; a duration of 0 gives them back.

        `owner` None: of every tenant, for an orchestrator's own calls.
        """
        ...

    async def acquire_expired_runs(self, *, lease: Lease, limit: int) -> tuple[AcquiredRun, ...]:
        """Takes over runs of every tenant that nobody works on.

        First those whose leases have expired and whose back-off is over,
        longest expired first; then runs that wait although their session is
        free. Fewer than there are if they would have more than REPLY_BYTES.
        """
        ...

    async def request_cancel(self, owner: Owner, run: str) -> Run:
        """Asks a run to stop; one that waits ends at once, one that is CANCELLED stays as it is.

        Raises:
            NotFound: RUN_NOT_FOUND.
            FailedPrecondition: RUN_FINISHED: it has succeeded or failed.
        """
        ...

    async def get_run(self, owner: Owner, run: str) -> Run:
        """Raises NotFound: RUN_NOT_FOUND."""
        ...

    async def list_runs(
        self, owner: Owner, *, session: str, team: str, before: tuple[datetime, str] | None, limit: int
    ) -> tuple[Run, ...]:
        """Runs of the owner (of `session`, of `team` unless empty), newest first.

        `before` is the place to go on after: (create time, id) of the
        last run seen.
        """
        ...

    async def list_run_events(
        self, owner: Owner, run: str, *, after_sequence: int, limit: int
    ) -> tuple[Event, ...]:
        """Events after a sequence, in order, as many as fit into PAGE_BYTES; none: there are no more.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        ...


MIN_LEASE = timedelta(seconds=1)
MAX_LEASE = timedelta(minutes=10)
