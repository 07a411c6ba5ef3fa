"""What is wrong with a request, said before any model sees it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from servicekit.errors import FieldViolation, InvalidArgument

MAX_TEXTS = 256
_NAMED_VIOLATIONS = 16  # of 256 empty texts, the first say enough

_MODEL = re.compile(r"models/([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)")


def model_name(field: str, value: str) -> str:
    """The name in `models/{name}`. Raises: InvalidArgument."""
    match = _MODEL.fullmatch(value)
    if match is None:
        raise InvalidArgument.field(field, "must be models/{model}, such as models/builtin", value)
    return match[1]


def check_texts(texts: Sequence[str], field: str) -> None:
    """Refuses none, too many, and empty ones. Raises: InvalidArgument."""
    if not texts:
        raise InvalidArgument.field(field, f"must hold 1 to {MAX_TEXTS} {field}", 0)
    if len(texts) > MAX_TEXTS:
        raise InvalidArgument.field(
            field, f"must hold 1 to {MAX_TEXTS} {field}; send the rest in another call", len(texts)
        )
    empty = [index for index, text in enumerate(texts) if not text or text.isspace()]
    if not empty:
        return
    named = [f"{field}[{index}]" for index in empty[:_NAMED_VIOLATIONS]]
    wrong = "is empty or only white space; leave it out"
    raise InvalidArgument(
        f"{named[0]}: {wrong}" + (f" (and {len(empty) - 1} more)" if len(empty) > 1 else ""),
        reason="INVALID_FIELD",
        metadata={"field": named[0], "empty_texts": str(len(empty))},
        violations=[FieldViolation(each, wrong) for each in named],
    )
