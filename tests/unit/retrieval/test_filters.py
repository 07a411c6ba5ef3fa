"""What filters mean, and which are refused."""

import math
from collections.abc import Mapping

import pytest
from agentteams.retrieval.v1 import filter_pb2 as pb
from google.protobuf import json_format

from retrieval.convert_filter import filter_from_pb, value_to_pb, values_from_pb
from retrieval.core.filters import (
    MAX_DEPTH,
    MAX_NODES,
    And,
    Compare,
    Filter,
    Has,
    Not,
    OneOf,
    Operator,
    Or,
    checked,
    matches,
)
from retrieval.core.metadata import checked_metadata
from retrieval.core.model import MetadataField, MetadataType, Scalar
from servicekit.errors import InvalidArgument

FIELDS = (
    MetadataField(name="product", type=MetadataType.STRING),
    MetadataField(name="year", type=MetadataType.INT64),
    MetadataField(name="price", type=MetadataType.DOUBLE),
    MetadataField(name="public", type=MetadataType.BOOL),
)
FULL: Mapping[str, Scalar] = {"product": "kettle", "year": 2020, "price": 9.5, "public": False}
PRODUCT_IS_X = Compare("product", Operator.EQUAL, "x")


def found(filter_: Filter, metadata: Mapping[str, Scalar]) -> bool:
    return matches(checked(filter_, FIELDS), document="d1", path="guide/a.md", metadata=metadata)


@pytest.mark.parametrize(
    ("filter_", "full", "empty"),
    [
        (Compare("product", Operator.EQUAL, "kettle"), True, False),
        (Compare("product", Operator.EQUAL, "Kettle"), False, False),
        (Compare("product", Operator.NOT_EQUAL, "pot"), True, False),
        (Compare("product", Operator.STARTS_WITH, "ket"), True, False),
        (Compare("product", Operator.STARTS_WITH, "k%t"), False, False),
        (Compare("year", Operator.LESS, 2020), False, False),
        (Compare("year", Operator.LESS_OR_EQUAL, 2020), True, False),
        (Compare("year", Operator.GREATER, 2019), True, False),
        (Compare("price", Operator.GREATER_OR_EQUAL, 9), True, False),
        (Compare("public", Operator.EQUAL, False), True, False),
        (OneOf("year", (2019, 2020)), True, False),
        (OneOf("product", ("pot", "pan")), False, False),
        (Has("price"), True, False),
        (Not(Compare("year", Operator.EQUAL, 2020)), False, True),
        (Not(Compare("year", Operator.EQUAL, 1)), True, True),
        (Not(Has("year")), False, True),
        (And((Has("year"), Compare("$path", Operator.STARTS_WITH, "guide/"))), True, False),
        (Or((Has("year"), Compare("$document", Operator.EQUAL, "d1"))), True, True),
    ],
    ids=str,
)
def test_what_a_filter_finds(filter_: Filter, full: bool, empty: bool) -> None:
    assert (found(filter_, FULL), found(filter_, {})) == (full, empty)


def test_no_filter_finds_everything() -> None:
    assert matches(None, document="d", path="p", metadata={})


@pytest.mark.parametrize(
    ("filter_", "path", "says"),
    [
        (PRODUCT_IS_X, None, ""),
        (Compare("colour", Operator.EQUAL, "x"), "filter.compare.field", "price, product, public, year"),
        (Compare("scope", Operator.EQUAL, "x"), "filter.compare.field", "$path"),
        (Compare("$tenant", Operator.EQUAL, "x"), "filter.compare.field", "$document"),
        (Compare("year", Operator.EQUAL, "2020"), "filter.compare.value", "a whole number"),
        (Compare("year", Operator.EQUAL, 1.5), "filter.compare.value", "a whole number"),
        (Compare("year", Operator.EQUAL, True), "filter.compare.value", "a whole number"),
        (Compare("public", Operator.EQUAL, 1), "filter.compare.value", "true or false"),
        (Compare("price", Operator.LESS, math.nan), "filter.compare.value", "finite"),
        (Compare("price", Operator.LESS, math.inf), "filter.compare.value", "finite"),
        (Compare("product", Operator.LESS, "x"), "filter.compare.operator", "for numbers"),
        (Compare("public", Operator.GREATER, True), "filter.compare.operator", "for numbers"),
        (Compare("year", Operator.STARTS_WITH, 2), "filter.compare.operator", "for strings"),
        (Compare("product", Operator.EQUAL, "é" * 513), "filter.compare.value", "1024 bytes"),
        (Compare("product", Operator.EQUAL, "a\0b"), "filter.compare.value", "code 0"),
        (OneOf("year", ()), "filter.one_of.values", "1 to 256"),
        (OneOf("year", tuple(range(257))), "filter", "256 values"),
        (Or((OneOf("year", tuple(range(128))), OneOf("price", tuple(range(129))))), "filter", "256 values"),
        (OneOf("year", (1, "2")), "filter.one_of.values[1]", "a whole number"),
        (Has("colour"), "filter.has", "metadata field"),
        (And(()), "filter.all_of.filters", "1 to 32"),
        (Or((PRODUCT_IS_X,) * 33), "filter.any_of.filters", "1 to 32"),
        (
            And((PRODUCT_IS_X, Not(Or((Has("year"), Has("nope")))))),
            "filter.all_of.filters[1].none_of.any_of.filters[1].has",
            "metadata field",
        ),
    ],
    ids=str,
)
def test_errors_name_the_path_in_the_tree(filter_: Filter, path: str | None, says: str) -> None:
    if path is None:
        checked(filter_, FIELDS)
        return
    with pytest.raises(InvalidArgument) as caught:
        checked(filter_, FIELDS)
    assert [violation.field for violation in caught.value.violations] == [path]
    assert says in caught.value.message


def test_a_filter_has_bounds_of_size_and_depth() -> None:
    wide = And((Or((PRODUCT_IS_X,) * 30), Or((PRODUCT_IS_X,) * 31)))
    assert MAX_NODES == 1 + 2 + 61
    checked(wide, FIELDS)
    with pytest.raises(InvalidArgument, match="at most 64 nodes"):
        checked(And((*wide.filters, PRODUCT_IS_X)), FIELDS)

    deep: Filter = PRODUCT_IS_X
    for _ in range(MAX_DEPTH - 1):
        deep = Not(deep)
    checked(deep, FIELDS)
    with pytest.raises(InvalidArgument, match="8 levels deep"):
        checked(Not(deep), FIELDS)


def test_values_become_those_of_their_field() -> None:
    filter_ = checked(And((OneOf("price", (9, 2**63 - 1)), Compare("price", Operator.LESS, -0.0))), FIELDS)
    assert filter_ == And((OneOf("price", (9.0, float(2**63))), Compare("price", Operator.LESS, 0.0)))
    assert isinstance(filter_, And)
    below = filter_.filters[1]
    assert isinstance(below, Compare)
    assert math.copysign(1, float(below.value)) == 1


def test_metadata_of_a_document_is_checked_alike() -> None:
    assert checked_metadata({"price": 3, "year": -(2**63)}, FIELDS, field="header.metadata") == {
        "price": 3.0,
        "year": -(2**63),
    }
    for metadata, path in (({"nope": 1}, '["nope"]'), ({"year": "1"}, '["year"]'), ({"price": math.inf}, "")):
        with pytest.raises(InvalidArgument) as caught:
            checked_metadata(metadata, FIELDS, field="header.metadata")
        assert caught.value.violations[0].field.startswith("header.metadata" + path)
    with pytest.raises(InvalidArgument, match="has no metadata fields"):
        checked_metadata({"nope": 1}, (), field="header.metadata")


def _pb(text: dict[str, object]) -> pb.Filter:
    return json_format.ParseDict(text, pb.Filter())


def test_a_filter_of_the_wire_is_the_same_tree() -> None:
    message = _pb(
        {
            "all_of": {
                "filters": [
                    {"compare": {"field": "year", "operator": "OPERATOR_LESS", "value": {"int_value": "5"}}},
                    {"any_of": {"filters": [{"has": "price"}]}},
                    {"none_of": {"one_of": {"field": "public", "values": [{"bool_value": True}]}}},
                ]
            }
        }
    )
    assert filter_from_pb(message) == And(
        (Compare("year", Operator.LESS, 5), Or((Has("price"),)), Not(OneOf("public", (True,))))
    )


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({}, "f"),
        ({"all_of": {"filters": [{"has": "a"}, {}]}}, "f.all_of.filters[1]"),
        ({"none_of": {}}, "f.none_of"),
        ({"compare": {"field": "a", "value": {"int_value": "1"}}}, "f.compare.operator"),
        ({"compare": {"field": "a", "operator": 9, "value": {"int_value": "1"}}}, "f.compare.operator"),
        ({"compare": {"field": "a", "operator": 1}}, "f.compare.value"),
        ({"one_of": {"field": "a", "values": [{"int_value": "1"}, {}]}}, "f.one_of.values[1]"),
        ({"none_of": {"none_of": {"none_of": {"none_of": {"none_of": {"none_of": {"none_of": {"none_of": {
            "has": "a"}}}}}}}}}, "f" + ".none_of" * 8),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_missing_on_the_wire_is_named(message: dict[str, object], path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        filter_from_pb(_pb(message), field="f")
    assert [violation.field for violation in caught.value.violations] == [path]


@pytest.mark.parametrize("value", ["", "a", 0, 5, -(2**63), 2**63 - 1, 0.5, 2.0, True, False])
def test_values_keep_their_type_on_the_wire(value: Scalar) -> None:
    there = values_from_pb({"x": value_to_pb(value)}, field="m")["x"]
    assert (type(there), there) == (type(value), value)
