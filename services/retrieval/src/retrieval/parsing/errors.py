"""What a parser says of a document that it cannot read."""


class Unreadable(Exception):
    """The document is at fault. The message says what is wrong and what helps; `reason` is of errors.v1."""

    def __init__(self, message: str, *, reason: str = "DOCUMENT_UNREADABLE") -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
