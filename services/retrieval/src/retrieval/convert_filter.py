"""Filters and metadata values: protobuf to domain and back."""

from collections.abc import Mapping

from agentteams.retrieval.v1 import filter_pb2 as filter_pb

from retrieval.core.filters import (
    MAX_DEPTH,
    And,
    Compare,
    Filter,
    Has,
    Not,
    OneOf,
    Operator,
    Or,
)
from retrieval.core.model import Scalar
from servicekit.errors import InvalidArgument


def filter_from_pb(message: filter_pb.Filter, *, field: str = "filter") -> Filter:
    """The same tree; `core.filters.checked` compares it with the knowledge base's fields.

    Raises:
        InvalidArgument: A part that must be set is not; names the path in the tree.
    """
    return _filter(message, field, MAX_DEPTH)


def values_from_pb(values: Mapping[str, filter_pb.Value], *, field: str) -> dict[str, Scalar]:
    """Metadata of a document.

    Raises:
        InvalidArgument: A value that is not set.
    """
    return {name: _value(value, f'{field}["{name}"]') for name, value in values.items()}


def values_to_pb(values: Mapping[str, Scalar]) -> dict[str, filter_pb.Value]:
    """Metadata of a document or a chunk."""
    return {name: value_to_pb(value) for name, value in values.items()}


def value_to_pb(value: Scalar) -> filter_pb.Value:
    """One value."""
    match value:
        case bool():
            return filter_pb.Value(bool_value=value)
        case int():
            return filter_pb.Value(int_value=value)
        case float():
            return filter_pb.Value(double_value=value)
        case str():
            return filter_pb.Value(string_value=value)


def _filter(message: filter_pb.Filter, path: str, levels: int) -> Filter:
    if not levels:
        raise InvalidArgument.field(path, f"must be at most {MAX_DEPTH} levels deep")
    match message.WhichOneof("kind"):
        case "all_of":
            return And(_filters(message.all_of, f"{path}.all_of", levels))
        case "any_of":
            return Or(_filters(message.any_of, f"{path}.any_of", levels))
        case "none_of":
            return Not(_filter(message.none_of, f"{path}.none_of", levels - 1))
        case "compare":
            compare = message.compare
            return Compare(
                compare.field,
                _operator(compare.operator, f"{path}.compare.operator"),
                _value(compare.value, f"{path}.compare.value"),
            )
        case "one_of":
            values = message.one_of.values
            return OneOf(
                message.one_of.field,
                tuple(_value(value, f"{path}.one_of.values[{i}]") for i, value in enumerate(values)),
            )
        case "has":
            return Has(message.has)
        case _:
            raise InvalidArgument.field(
                path, "must be one of all_of, any_of, none_of, compare, one_of and has; none is set"
            )


def _filters(message: filter_pb.FilterList, path: str, levels: int) -> tuple[Filter, ...]:
    return tuple(_filter(each, f"{path}.filters[{i}]", levels - 1) for i, each in enumerate(message.filters))


def _operator(value: int, path: str) -> Operator:
    try:
        return Operator(value)
    except ValueError:
        names = ", ".join(f"OPERATOR_{operator.name}" for operator in Operator)
        raise InvalidArgument.field(path, f"must be one of {names}", value) from None


def _value(message: filter_pb.Value, path: str) -> Scalar:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidArgument.field(
            path, "must have one of string_value, int_value, double_value and bool_value"
        )
    value: Scalar = getattr(message, kind)
    return value
