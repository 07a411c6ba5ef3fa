"""How much fits into one response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

# A response may have 16 MiB (servicekit.client). Texts fill half of it at most ...
PAGE_BYTES = 8 * 1024 * 1024
# ... except where several runs come at once, each with a page of texts.
REPLY_BYTES = 14 * 1024 * 1024


class Sized(Protocol):
    """A message, stored or new."""

    @property
    def content(self) -> str:
        """The text."""
        ...

    @property
    def citations(self) -> bytes:
        """Serialised."""
        ...


T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """A part of a list. `more`: there was more when it was read."""

    items: tuple[T, ...]
    more: bool


def newest_within(items: Sequence[T], budget_bytes: int, size: Callable[[T], int]) -> Sequence[T]:
    """The newest items (the last ones) that fit."""
    for index in range(len(items) - 1, -1, -1):
        budget_bytes -= size(items[index])
        if budget_bytes < 0:
            return items[index + 1 :]
    return items


def oldest_within(items: Sequence[T], budget_bytes: int, size: Callable[[T], int]) -> Sequence[T]:
    """The oldest items (the first ones) that fit, and always one."""
    for index, item in enumerate(items):
        budget_bytes -= size(item)
        if budget_bytes < 0:
            return items[: max(index, 1)]
    return items


def size_bytes(message: Sized) -> int:
    """About as many bytes as it has on the wire, and never fewer."""
    text = message.content
    # isascii() is a flag of the string, encode() would copy it.
    return (1 if text.isascii() else 4) * len(text) + len(message.citations) + 256


def sizes_bytes(messages: Sequence[Sized]) -> int:
    """Of all together."""
    return sum(map(size_bytes, messages))
