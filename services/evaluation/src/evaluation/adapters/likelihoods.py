"""Reads how likely a text is from the log-probabilities of a prompt that ends with it."""

from collections.abc import Mapping, Sequence
from typing import Any

_BROKEN = "\ufffd"  # a token that holds a part of a character is shown as this
_MOST_BYTES = 4  # of a character


def text_logprob(tokens: Sequence[Mapping[str, Mapping[str, Any]] | None], text: str) -> float:
    """The sum over the tokens of `text`, in nats.

    Args:
        tokens: Of the prompt or of its end, each `{id: {"logprob": …, "decoded_token": …}}`; None: unknown.
        text: What the prompt ends with.

    Raises:
        ValueError: The prompt does not end with it.
    """
    total, left, broken = 0.0, text, 0
    for token in reversed(tokens):
        if token is None or not left.strip():
            break
        # One: its own. An endpoint that adds likelier ones puts the token's own first.
        own = next(iter(token.values()))
        piece = str(own["decoded_token"])
        if _BROKEN in piece or not piece:
            broken += 1
        else:
            at = left.rfind(piece)
            if at < 0 and piece.lstrip(" ") == left.strip():
                at, piece = 0, left  # a tokenizer that puts a blank before the first word
            # Between two pieces there may be blanks that the tokenizer keeps to itself, and broken ones.
            if at < 0 or _bytes(left[at + len(piece) :]) > _MOST_BYTES * broken:
                break
            left, broken = left[:at], 0
        total += float(own["logprob"])
    if _bytes(left) > _MOST_BYTES * broken:
        raise ValueError(f"they do not end with the text that was sent: {len(left)} characters are missing")
    return total


def _bytes(text: str) -> int:
    return len(text.strip().encode())
