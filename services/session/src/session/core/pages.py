"""How much fits into one response."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

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


T = TypeVar("T", bound=Sized)


def newest_within(messages: Sequence[T], budget_bytes: int) -> Sequence[T]:
    """The newest messages (the last ones) that fit."""
    for index in range(len(messages) - 1, -1, -1):
        budget_bytes -= size_bytes(messages[index])
        if budget_bytes < 0:
            return messages[index + 1 :]
    return messages


def oldest_within(messages: Sequence[T], budget_bytes: int) -> Sequence[T]:
    """The oldest messages (the first ones) that fit, and always one."""
    for index, message in enumerate(messages):
        budget_bytes -= size_bytes(message)
        if budget_bytes < 0:
            return messages[: max(index, 1)]
    return messages


def size_bytes(message: Sized) -> int:
    """About as many bytes as it has on the wire, and never fewer."""
    text = message.content
    # isascii() is a flag of the string, encode() would copy it.
    return (1 if text.isascii() else 4) * len(text) + len(message.citations) + 256


def sizes_bytes(messages: Sequence[Sized]) -> int:
    """Of all together."""
    return sum(map(size_bytes, messages))
