"""What the gateway needs of others."""

from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from typing import Protocol

from gateway.core.model import NoScores, Question, Run, RunItem, Scores, StoredMessage, StoredRun, Team


class Orchestrator(Protocol):
    """Runs questions, on behalf of the current caller."""

    async def check(self) -> None:
        """Returns if it serves.

        Raises:
            Unavailable: It does not.
        """
        ...

    async def ask(self, question: Question, *, request_id: str) -> tuple[Run, AsyncGenerator[RunItem, None]]:
        """Starts a run, and follows it (see `follow`); the same request id gives the same run.

        The caller closes the generator.

        Raises:
            ServiceError: The run was not started, or it is not known whether it was.
        """
        ...

    def follow(self, run: Run) -> AsyncGenerator[RunItem, None]:
        """All that happens to the run until RunEnded, which is last; finds a lost stream again.

        Raises:
            ServiceError: The run's events cannot be had; it may go on all the same.
        """
        ...

    async def scores(self, run: Run, *, after: int, within: timedelta) -> Scores | NoScores:
        """The scores of a run that has ended with the event `after`, or that there are none in time.

        Raises:
            ServiceError: It cannot be known.
        """
        ...

    async def team(self, name: str) -> Team:
        """One team. Raises: NotFound and other ServiceErrors."""
        ...

    async def teams(self) -> Sequence[Team]:
        """All teams of the caller, by name. Raises: ServiceError."""
        ...


class Conversations(Protocol):
    """What is stored of the current caller's runs and sessions."""

    async def run(self, name: str) -> StoredRun:
        """A run, with what was found out about its answer. Raises: NotFound and other ServiceErrors."""
        ...

    async def messages(
        self, session: str, *, page_size: int, page_token: str
    ) -> tuple[Sequence[StoredMessage], str]:
        """A page of a session's messages, oldest first, and the token of the next one; empty: the last.

        Raises:
            ServiceError: There is no such session, or the token is none.
        """
        ...
