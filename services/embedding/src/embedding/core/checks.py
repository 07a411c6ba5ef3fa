"""What is wrong with a request, said before any model sees it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from manifests.base import model_said
from servicekit.errors import FieldViolation, InvalidArgument

MAX_TEXTS = 256
_NAMED_VIOLATIONS = 16  # of 256 empty texts, the first say enough

_NAME = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_MODEL = re.compile(rf"(?:tenants/{_NAME}/)?models/{_NAME}")


def model_name(field: str, value: str) -> str:
    """What the caller calls the model: `name`, or `tenant/name` of another one's. Raises: InvalidArgument."""
    if _MODEL.fullmatch(value) is None:
        what = "must be models/{model}, such as models/builtin, or tenants/{tenant}/models/{model}"
        raise InvalidArgument.field(field, what, value)
    return model_said(value)


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
