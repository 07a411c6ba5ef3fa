"""Spans of this process, as they would be exported."""

from collections.abc import Iterator
from contextlib import contextmanager

from servicekit import spans
from servicekit.spans import Recording, Span


class Kept:
    """A Sink that keeps what comes; nothing is sampled by chance."""

    ratio, slow_ns = 0.0, 10**18

    def __init__(self, *, content: bool = False) -> None:
        self.content = content
        self.spans: list[Span] = []
        self.parts: list[bytes] = []

    @property
    def names(self) -> list[str]:
        """Of the spans, in the order in which they ended."""
        return [span.name for span in self.spans]

    def take(self, recording: Recording, span: Span) -> None:
        """See Sink."""
        self.spans.append(span)

    def take_part(self, recording: Recording, part: bytes) -> None:
        """See Sink."""
        self.parts.append(part)


@contextmanager
def recorded(*, content: bool = False) -> Iterator[Kept]:
    """Traces are on while the block runs; with `content` they may hold what was said."""
    kept = Kept(content=content)
    before = spans.use_sink(kept)
    try:
        yield kept
    finally:
        spans.use_sink(before)


def root(*, keep: bool | None, name: str = "root") -> Span:
    """A span to begin with; `with` makes it the current one."""
    return Span(Recording(7, keep=keep), name, None, parent_id=0)
