"""Text that only grows, made of text that may begin anew.

A retried model call, or a run that another orchestrator took over, begins its
text again; the OpenAI wire cannot take back what a client has. So:

1. While the new text repeats what the client has, nothing is sent.
2. As soon as it goes further, only what is new is sent.
3. If it differs, the marker line RESTART is sent, and then the new text whole.

What the client has always ends with the answer, and `answer_offset` says at
which character that begins (0 unless something came before it).
"""

from gateway.core.model import TextPiece

RESTART = "\n\n[The answer begins anew:]\n\n"
# Between what a team says before it uses a tool and what it says afterwards.
SEPARATOR = "\n\n"


class TextGap(Exception):
    """A piece is missing; the stream has to be read again."""


class Transcript:
    """What one client has of one run's text."""

    def __init__(self) -> None:
        self.answer_offset = 0
        self._message = ""
        self._text = ""  # as its writer has it now
        self._sent = ""  # as the client has it; ahead of `_text` while a text is repeated
        self._ended = False  # the model has ended this text; the next one is another, not a retry

    @property
    def text(self) -> str:
        """The current text, as its writer has it."""
        return self._text

    def add(self, piece: TextPiece) -> str:
        """Takes a piece; returns what the client gets.

        Raises:
            TextGap: The piece does not join on.
        """
        if piece.message != self._message:
            self._message = piece.message
            self._text = ""
        size = len(self._text)
        if piece.offset > size:
            raise TextGap(f"{piece.message}: characters {size} to {piece.offset} are missing")
        if piece.offset == size and size == len(self._sent) and not self._ended:
            self._text = self._sent = self._text + piece.text
            return piece.text
        self._text = self._text[: piece.offset] + piece.text
        return self._catch_up()

    def end_text(self) -> None:
        """The model has ended the text that it was writing."""
        self._ended = bool(self._sent)

    def finish(self, answer: str) -> str:
        """Takes the whole answer; returns what the client lacks of it."""
        if answer.strip() == self._sent.strip():
            return ""
        self._text = answer
        if self._sent and not answer.startswith(self._sent):
            return self._begin(answer)
        return self._catch_up()

    def _catch_up(self) -> str:
        text, sent = self._text, self._sent
        if text.startswith(sent):
            self._sent = text
            self._ended = False if len(text) > len(sent) else self._ended
            return text[len(sent) :]
        if sent.startswith(text):
            return ""
        return self._begin(text)

    def _begin(self, text: str) -> str:
        between = SEPARATOR if self._ended else RESTART
        self.answer_offset += len(self._sent) + len(between)
        self._sent = text
        self._ended = False
        return between + text
