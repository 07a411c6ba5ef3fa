"""What manifests take from Secrets."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from pydantic import Field, StringConstraints

from manifests.base import (
    HEADER_PATTERN,
    SECRET_KEY_PATTERN,
    SECRET_NAME_PATTERN,
    Model,
    Violation,
    dotted,
)
from manifests.cel import Cel, Schema

_OURS = ("connection", "content-length", "content-type", "host", "transfer-encoding")


_LONG = Schema((("maxLength", 253),))
_HEADER = Schema((("maxLength", 128),))

HEADER_RULES = (
    Cel(
        f"!has(self.headersFrom) || self.headersFrom.all(h, !(h.name.lowerAscii() in {list(_OURS)}))",
        f"{', '.join(_OURS)} are set by the HTTP client; remove them",
        ".headersFrom",
    ),
    Cel(
        "!has(self.headersFrom) || self.headersFrom.all(h, "
        "self.headersFrom.exists_one(o, o.name.lowerAscii() == h.name.lowerAscii()))",
        "a header is there twice; remove one of the two",
        ".headersFrom",
    ),
)
"""The twin of header_violations, for a model with the field headersFrom."""


class SecretKeyRef(Model):
    """Refers to one key of a Secret of the same namespace."""

    name: Annotated[str, StringConstraints(pattern=SECRET_NAME_PATTERN), _LONG] = Field(
        description="Name of the Secret. In local mode: a folder below the secrets folder."
    )
    key: Annotated[str, StringConstraints(pattern=SECRET_KEY_PATTERN), _LONG] = Field(
        description="Key within the Secret. In local mode: a file in that folder."
    )


class SecretValue(Model):
    """Where a value comes from."""

    secret_key_ref: SecretKeyRef = Field(description="A key of a Secret.")


class HeaderFrom(Model):
    """A header of HTTP requests whose value is secret."""

    name: Annotated[str, StringConstraints(pattern=HEADER_PATTERN), _HEADER] = Field(
        description="The header, such as X-Api-Key."
    )
    value_from: SecretValue = Field(description="Where its value is.")


def header_violations(headers: Sequence[HeaderFrom], *at: str | int) -> Iterator[Violation]:
    """What is wrong with a list of headers at that field."""
    seen: dict[str, int] = {}
    for index, header in enumerate(headers):
        name = header.name.lower()
        if name in _OURS:
            message = f'"{header.name}" is set by the HTTP client'
            yield Violation((*at, index, "name"), message, "remove it")
        elif name in seen:
            message = f'"{header.name}" is in {dotted(at)}[{seen[name]}] already'
            yield Violation((*at, index, "name"), message, "remove one of the two")
        seen.setdefault(name, index)
