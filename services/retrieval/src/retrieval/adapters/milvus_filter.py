"""Filters as expressions of Milvus, for Lite and for servers alike but for where metadata is.

Metadata is a JSON column, and on Lite loose fields too; a document's path is
the column `title`. What was found by trying (Lite 3.2, 2.3.5), and holds for
later servers too:

- Lite turns every row, its vector too, into Python objects if a filter names a
  JSON column, but of loose fields only those that the filter names.
- A comparison with a key that is not there is null on Lite, so that `not` of it
  finds nothing; on servers it is false, but `!=` is true. So `not` is pushed
  down to the comparisons, and each of those says what a missing key means.
- `exists` must stand in brackets.
- There is no form of `like` that is the same everywhere: what begins with a
  text is what sorts at or behind it and before the next text of its length.
- Lite knows no `\\u` in strings and servers no raw line end; the smallest int64
  cannot be written for servers; Lite has no `in` for loose fields.
"""

import math
from collections.abc import Callable, Sequence

from retrieval.adapters.milvus_rows import LOOSE, METADATA, loose_name
from retrieval.core.filters import (
    DOCUMENT,
    PATH,
    And,
    Compare,
    Filter,
    Has,
    Not,
    OneOf,
    Operator,
    Or,
)
from retrieval.core.metadata import FIELD_NAME, MAX_INT64, MIN_INT64
from retrieval.core.model import Scalar

_COLUMNS = {PATH: "title", DOCUMENT: "document"}
_ESCAPED = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_SYMBOLS = {
    Operator.EQUAL: "==",
    Operator.NOT_EQUAL: "!=",
    Operator.LESS: "<",
    Operator.LESS_OR_EQUAL: "<=",
    Operator.GREATER: ">",
    Operator.GREATER_OR_EQUAL: ">=",
}
_OPPOSITE = {
    Operator.EQUAL: Operator.NOT_EQUAL,
    Operator.NOT_EQUAL: Operator.EQUAL,
    Operator.LESS: Operator.GREATER_OR_EQUAL,
    Operator.LESS_OR_EQUAL: Operator.GREATER,
    Operator.GREATER: Operator.LESS_OR_EQUAL,
    Operator.GREATER_OR_EQUAL: Operator.LESS,
}
_AFTER_SURROGATES, _SURROGATES, _LAST = 0xE000, 0xD800, 0x10FFFF


def expression(filter_: Filter, *, loose: bool) -> str:
    """The expression that finds what `core.filters.matches` finds. Always in brackets.

    Args:
        filter_: As `core.filters.checked` returned it.
        loose: Whether the collection has loose fields for metadata.
    """
    return _Writer(loose=loose).write(filter_, negated=False)


def literal(value: Scalar) -> str:
    """The value in Milvus' expression language. Neither Lite nor 2.3 has templates."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            if not math.isfinite(value):
                raise ValueError(f"{value} has no literal")
            return repr(value)
        case str():
            if "\0" in value:
                raise ValueError("a string with the character of code 0 has no literal")
            return f'"{value.translate(_ESCAPED)}"'


class _Writer:
    def __init__(self, *, loose: bool) -> None:
        self._loose = loose

    def write(self, node: Filter, *, negated: bool) -> str:
        match node:
            case And(filters):
                return _joined("or" if negated else "and", [self.write(f, negated=negated) for f in filters])
            case Or(filters):
                return _joined("and" if negated else "or", [self.write(f, negated=negated) for f in filters])
            case Not(inner):
                return self.write(inner, negated=not negated)
            case Compare(field, op, value):
                return self._leaf(field, negated, lambda at, no: _compared(at, op, value, negated=no))
            case OneOf(field, values):
                return self._leaf(field, negated, lambda at, no: self._one_of(at, values, negated=no))
            case Has(field):
                return self._has(field, negated=negated)

    def _has(self, field: str, *, negated: bool) -> str:
        if field in _COLUMNS:  # every chunk has them
            return _always(not negated)
        path = self._path(field)
        return f"(not (exists {path}))" if negated else f"(exists {path})"

    def _leaf(self, field: str, negated: bool, compared: Callable[[str, bool], str]) -> str:
        if field in _COLUMNS:
            return compared(_COLUMNS[field], negated)
        there = self._has(field, negated=negated)
        return f"({there} {'or' if negated else 'and'} {compared(self._path(field), negated)})"

    def _path(self, field: str) -> str:
        if FIELD_NAME.fullmatch(field) is None:
            raise ValueError(f"{field!r} is not the name of a metadata field")
        return f'{LOOSE}["{loose_name(field)}"]' if self._loose else f'{METADATA}["{field}"]'

    def _one_of(self, at: str, values: Sequence[Scalar], *, negated: bool) -> str:
        every = list(dict.fromkeys(values))
        can_be_listed = not at.startswith(LOOSE)
        # The smallest int64 has no literal, hence no place in a list.
        listed = [value for value in every if can_be_listed and value != MIN_INT64]
        parts = [
            _compared(at, Operator.EQUAL, value, negated=negated) for value in every if value not in listed
        ]
        if listed:
            members = f"({at} in [{', '.join(map(literal, listed))}])"
            parts.append(f"(not {members})" if negated else members)
        return _joined("and" if negated else "or", parts)


def _compared(at: str, op: Operator, value: Scalar, *, negated: bool) -> str:
    """For a field that is there."""
    if op == Operator.STARTS_WITH:
        return _starts_with(at, str(value), negated=negated)
    if negated:
        op = _OPPOSITE[op]
    if value == MIN_INT64 and isinstance(value, int):
        return _smallest(at, op)
    return f"({at} {_SYMBOLS[op]} {literal(value)})"


def _smallest(at: str, op: Operator) -> str:
    """Servers read the digits before the minus, and 2^63 does not fit."""
    if op in (Operator.EQUAL, Operator.LESS_OR_EQUAL):
        return f"({at} < {-MAX_INT64})"
    if op in (Operator.NOT_EQUAL, Operator.GREATER):
        return f"({at} >= {-MAX_INT64})"
    return _always(op == Operator.GREATER_OR_EQUAL)


def _starts_with(at: str, prefix: str, *, negated: bool) -> str:
    end = _next(prefix)
    if not prefix:
        return _always(not negated)
    if negated:
        below = f"({at} < {literal(prefix)})"
        return below if end is None else f"({below} or ({at} >= {literal(end)}))"
    above = f"({at} >= {literal(prefix)})"
    return above if end is None else f"({above} and ({at} < {literal(end)}))"


def _next(prefix: str) -> str | None:
    """The first text behind all that begin so, in the order of code points, which is that of UTF-8."""
    rest = prefix.rstrip(chr(_LAST))
    if not rest:
        return None
    code = ord(rest[-1]) + 1
    return rest[:-1] + chr(_AFTER_SURROGATES if code == _SURROGATES else code)


def _always(value: bool) -> str:
    return '(id != "")' if value else '(id == "")'


def _joined(word: str, parts: Sequence[str]) -> str:
    """In halves: Lite walks down a long chain by recursion."""
    if len(parts) == 1:
        return parts[0]
    middle = len(parts) // 2
    return f"({_joined(word, parts[:middle])} {word} {_joined(word, parts[middle:])})"
