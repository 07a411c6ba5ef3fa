"""Filters: which chunks a search may find.

A filter is a small tree over a document's metadata, its path and its id. What
it means is `matches`; every store must find what that finds. A comparison with
a field that the document lacks is false, and `Not` turns that into true.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from retrieval.core.metadata import checked_value, unknown_field
from retrieval.core.model import MetadataField, MetadataType, Scalar
from servicekit.errors import InvalidArgument

MAX_NODES = 64
MAX_DEPTH = 8
MAX_FILTERS = 32  # of one All or Any
MAX_VALUES = 256  # of all OneOf together: Lite compares one after the other, 13 µs a row and value

PATH = "$path"
DOCUMENT = "$document"
_BUILT_IN = {PATH: MetadataType.STRING, DOCUMENT: MetadataType.STRING}


class Operator(IntEnum):
    """How a field is compared. Same numbers as on the wire."""

    EQUAL = 1
    NOT_EQUAL = 2
    LESS = 3
    LESS_OR_EQUAL = 4
    GREATER = 5
    GREATER_OR_EQUAL = 6
    STARTS_WITH = 7


@dataclass(frozen=True, slots=True)
class And:
    """All of them hold."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of them holds at least."""

    filters: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """It does not hold, or the document lacks the field."""

    filter: "Filter"


@dataclass(frozen=True, slots=True)
class Compare:
    """The document has the field, and it compares so with the value."""

    field: str
    op: Operator
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """The document has the field, and it is one of the values."""

    field: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Has:
    """The document has the field."""

    field: str


Filter = And | Or | Not | Compare | OneOf | Has

_COMPARED: dict[Operator, Callable[[Scalar, Scalar], bool]] = {
    Operator.EQUAL: lambda has, wanted: has == wanted,
    Operator.NOT_EQUAL: lambda has, wanted: has != wanted,
    Operator.LESS: lambda has, wanted: has < wanted,  # type: ignore[operator]  # checked() saw to the types
    Operator.LESS_OR_EQUAL: lambda has, wanted: has <= wanted,  # type: ignore[operator]
    Operator.GREATER: lambda has, wanted: has > wanted,  # type: ignore[operator]
    Operator.GREATER_OR_EQUAL: lambda has, wanted: has >= wanted,  # type: ignore[operator]
    Operator.STARTS_WITH: lambda has, wanted: str(has).startswith(str(wanted)),
}


def matches(filter_: Filter | None, *, document: str, path: str, metadata: Mapping[str, Scalar]) -> bool:
    """Whether a chunk of the document may be found. No filter finds all of them.

    Args:
        document: The last part of the document's name.
    """
    if filter_ is None:
        return True
    values = {**metadata, PATH: path, DOCUMENT: document}

    def holds(node: Filter) -> bool:
        match node:
            case And(filters):
                return all(holds(each) for each in filters)
            case Or(filters):
                return any(holds(each) for each in filters)
            case Not(inner):
                return not holds(inner)
            case Compare(field, op, value):
                return field in values and _COMPARED[op](values[field], value)
            case OneOf(field, wanted):
                return field in values and values[field] in wanted
            case Has(field):
                return field in values

    return holds(filter_)


def checked(filter_: Filter, fields: Sequence[MetadataField], *, field: str = "filter") -> Filter:
    """The filter, with values as the knowledge base's fields hold them; stores take no other.

    Args:
        fields: Those of the knowledge base.
        field: Where the filter is in the request; errors name a path below it.

    Raises:
        InvalidArgument: Too large, a field that is not there, or a value of another type.
    """
    _check_size(filter_, field)
    types = {known.name: known.type for known in fields}

    def type_of(name: str, path: str) -> MetadataType:
        known = _BUILT_IN.get(name) or types.get(name)
        if known is None:
            raise InvalidArgument.field(path, f"{unknown_field(types)}, or {PATH} or {DOCUMENT}", name)
        return known

    def check(node: Filter, path: str) -> Filter:
        match node:
            case And(filters):
                return And(tuple(check(each, at) for each, at in _numbered(filters, f"{path}.all_of")))
            case Or(filters):
                return Or(tuple(check(each, at) for each, at in _numbered(filters, f"{path}.any_of")))
            case Not(inner):
                return Not(check(inner, f"{path}.none_of"))
            case Compare(name, op, value):
                type_ = type_of(name, f"{path}.compare.field")
                _check_operator(op, type_, f"{path}.compare.operator")
                return Compare(name, op, checked_value(value, type_, field=f"{path}.compare.value"))
            case OneOf(name, values):
                type_ = type_of(name, f"{path}.one_of.field")
                if not values:
                    raise InvalidArgument.field(f"{path}.one_of.values", f"must be 1 to {MAX_VALUES} values")
                return OneOf(
                    name,
                    tuple(
                        checked_value(value, type_, field=f"{path}.one_of.values[{number}]")
                        for number, value in enumerate(values)
                    ),
                )
            case Has(name):
                type_of(name, f"{path}.has")
                return node

    return check(filter_, field)


def _numbered(filters: Sequence[Filter], path: str) -> Iterator[tuple[Filter, str]]:
    if not 1 <= len(filters) <= MAX_FILTERS:
        raise InvalidArgument.field(
            f"{path}.filters", f"must be 1 to {MAX_FILTERS} filters; nest more of them", len(filters)
        )
    return ((each, f"{path}.filters[{number}]") for number, each in enumerate(filters))


def _check_operator(op: Operator, type_: MetadataType, path: str) -> None:
    if op in (Operator.EQUAL, Operator.NOT_EQUAL):
        return
    if op == Operator.STARTS_WITH:
        if type_ != MetadataType.STRING:
            raise InvalidArgument.field(path, f"STARTS_WITH is for strings; the field holds {type_.name}")
    elif type_ not in (MetadataType.INT64, MetadataType.DOUBLE):
        raise InvalidArgument.field(path, f"{op.name} is for numbers; the field holds {type_.name}")


def _check_size(filter_: Filter, path: str) -> None:
    """Level by level, so that a deep tree is refused before anything walks down into it."""
    level: list[Filter] = [filter_]
    nodes = values = 0
    for _ in range(MAX_DEPTH):
        nodes += len(level)
        if nodes > MAX_NODES:
            raise InvalidArgument.field(
                path, f"must have at most {MAX_NODES} nodes; use one_of for many values"
            )
        values += sum(len(node.values) for node in level if isinstance(node, OneOf))
        if values > MAX_VALUES:
            raise InvalidArgument.field(
                path, f"must have at most {MAX_VALUES} values of one_of in all; search several times", values
            )
        level = [inner for node in level for inner in _below(node)]
        if not level:
            return
    raise InvalidArgument.field(path, f"must be at most {MAX_DEPTH} levels deep")


def _below(node: Filter) -> tuple[Filter, ...]:
    match node:
        case And(filters) | Or(filters):
            return filters
        case Not(inner):
            return (inner,)
        case _:
            return ()
