"""A bound on what waits: beyond it callers are told to come back, not queued."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from servicekit.errors import ResourceExhausted


class Admission:
    """Counts the texts that are queued or being embedded.

    Args:
        max_texts: Texts at a time. A call of more than that is let in when nothing else is there.
        observe: Told by how much the count changes.
        retry_after: What refused callers are told to wait.
    """

    def __init__(
        self,
        *,
        max_texts: int,
        observe: Callable[[int], None] = lambda _: None,
        retry_after: timedelta = timedelta(seconds=1),
    ) -> None:
        self._max = max_texts
        self._observe = observe
        self._retry_after = retry_after
        self._held = 0

    @contextmanager
    def hold(self, texts: int) -> Iterator[None]:
        """Holds a place for the block.

        Raises:
            ResourceExhausted: As `take`.
        """
        self.take(texts)
        try:
            yield
        finally:
            self.give(texts)

    def take(self, texts: int) -> None:
        """Takes places; `give` returns them.

        Raises:
            ResourceExhausted: MODEL_RATE_LIMITED; too many texts are there already.
        """
        if self._held and self._held + texts > self._max:
            raise ResourceExhausted(
                f"{self._held} texts are waiting to be embedded and {texts} more exceed the limit of "
                f"{self._max}; try again in {self._retry_after.total_seconds():g} s",
                reason="MODEL_RATE_LIMITED",
                metadata={"waiting": str(self._held), "texts": str(texts), "limit": str(self._max)},
                retry_after=self._retry_after,
            )
        self._change(texts)

    def give(self, texts: int) -> None:
        """Returns places that were taken."""
        self._change(-texts)

    def _change(self, by: int) -> None:
        self._held += by
        self._observe(by)
