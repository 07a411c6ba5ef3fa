"""Ids that sort by the time they were made."""

import os
import re
import time

# Crockford's base 32, lower case: no i, l, o, u, so nobody misreads an id.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", re.IGNORECASE)


def new_id() -> str:
    """A new id of 26 characters: 48 bits of time in ms, then 80 random bits."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def is_uuid4(text: str) -> bool:
    """Whether the text is a UUID of version 4, in its usual form."""
    return _UUID4.fullmatch(text) is not None
