"""What a parser says of a document that it cannot read."""


class Unreadable(Exception):
    """The document is at fault. The message says what is wrong and what helps; `reason` is of errors.v1."""

    def __init__(self, message: str, *, reason: str = "DOCUMENT_UNREADABLE") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason


def said(error: BaseException) -> str:
    """A library's words, short enough for a message."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def numbered(what: str, numbers: list[int]) -> str:
    """`page 3`, or `3 pages (1, 2, 3)`."""
    shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    return f"{what} {shown}" if len(numbers) == 1 else f"{len(numbers)} {what}s ({shown})"
