"""What a search has learnt and given up so far."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from retrieval.core.model import ReasonCode
from retrieval.core.search_model import Reason
from servicekit.errors import DeadlineExceeded, NotFound, ServiceError
from servicekit.telemetry import stage_seconds


class CouldNotLookError(Exception):
    """Nothing can be given; the reasons say why."""


@dataclass(slots=True)
class Progress:
    """Reasons and times of one search.

    A reason has two parts: what happened, and what was done instead. The second
    is left out when in the end nothing could be done.
    """

    stages: dict[str, float] = field(default_factory=dict)
    _given_up: list[tuple[ReasonCode, str, str]] = field(default_factory=list)

    @property
    def degraded(self) -> bool:
        """Whether anything was given up."""
        return bool(self._given_up)

    def give_up(self, code: ReasonCode, what: str, *, instead: str = "") -> None:
        """Goes on with less. Said once, however often it happens."""
        if (code, what, instead) not in self._given_up:
            self._given_up.append((code, what, instead))

    def store_failed(self, error: ServiceError, *, instead: str = "") -> None:
        """Goes on without what the store was asked for."""
        if isinstance(error, DeadlineExceeded):
            code, what = ReasonCode.DEADLINE, "the deadline came before the store answered; allow more time"
        elif isinstance(error, NotFound):
            code, what = (
                ReasonCode.STORE_UNAVAILABLE,
                "the collection is missing in Milvus: its data was lost or is another server's. Create the "
                "knowledge base again with the same fields to index its documents anew.",
            )
        else:
            code, what = ReasonCode.STORE_UNAVAILABLE, error.message
        self.give_up(code, what, instead=instead)

    def reasons(self, *, failed: bool) -> tuple[Reason, ...]:
        """All of them, in the order of events."""
        said = (
            Reason(code=code, message=f"{what}; {instead}" if instead and not failed else what)
            for code, what, instead in self._given_up
        )
        return tuple(dict.fromkeys(said))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures the block; several blocks of a name add up."""
        started = time.perf_counter()
        try:
            with stage_seconds(name):
                yield
        finally:
            self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - started
