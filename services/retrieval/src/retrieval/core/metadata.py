"""Values of metadata fields: which ones a document may have."""

import math
import re
from collections.abc import Mapping, Sequence

from retrieval.core.model import MetadataField, MetadataType, Scalar
from servicekit.errors import InvalidArgument

MAX_STRING_BYTES = 1024
MIN_INT64, MAX_INT64 = -(2**63), 2**63 - 1
FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
_WORDS = {
    MetadataType.STRING: "a string",
    MetadataType.INT64: "a whole number",
    MetadataType.DOUBLE: "a number",
    MetadataType.BOOL: "true or false",
}


def checked_value(value: Scalar, type_: MetadataType, *, field: str) -> Scalar:
    """The value as its field holds it: a whole number becomes a double where one is wanted.

    Raises:
        InvalidArgument: It is of another type, too long, or not finite. Names `field`.
    """
    match type_, value:
        case MetadataType.BOOL, bool():
            return value
        case MetadataType.STRING, str():
            return _string(value, field)
        case ((MetadataType.INT64 | MetadataType.DOUBLE), bool()):
            pass
        case MetadataType.INT64, int() if MIN_INT64 <= value <= MAX_INT64:
            return value
        case MetadataType.DOUBLE, int() if MIN_INT64 <= value <= MAX_INT64:
            return float(value)
        case MetadataType.DOUBLE, float() if math.isfinite(value):
            return value + 0.0  # -0.0 becomes 0.0: stores may tell them apart
        case MetadataType.DOUBLE, float():
            raise InvalidArgument.field(field, "must be a finite number; leave the field out instead", value)
    raise InvalidArgument.field(field, f"must be {_WORDS[type_]}, as the field's type says", value)


def checked_metadata(
    values: Mapping[str, Scalar], fields: Sequence[MetadataField], *, field: str
) -> dict[str, Scalar]:
    """A document's values, if the knowledge base has their fields.

    Raises:
        InvalidArgument: A field that it has not, or a value of another type.
    """
    types = {known.name: known.type for known in fields}
    checked = {}
    for name in sorted(values):
        path = f'{field}["{name}"]'
        if name not in types:
            raise InvalidArgument.field(path, unknown_field(types), name)
        checked[name] = checked_value(values[name], types[name], field=path)
    return checked


def unknown_field(known: Mapping[str, object]) -> str:
    """What is wrong with a field that the knowledge base has not."""
    if not known:
        return "the knowledge base has no metadata fields; add it to metadata_fields first"
    return f"must be a metadata field of the knowledge base: {', '.join(sorted(known))}"


def _string(value: str, field: str) -> str:
    if len(value.encode()) > MAX_STRING_BYTES:
        raise InvalidArgument.field(field, f"must have at most {MAX_STRING_BYTES} bytes", value)
    if "\0" in value:
        raise InvalidArgument.field(field, "must not contain the character of code 0", value)
    return value
