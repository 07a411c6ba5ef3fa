"""Filters as people write them."""

import contextlib
import json

import pytest
from agentteams.retrieval.v1 import filter_pb2 as pb
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st

from manifests.filters import FilterError, parse_filter


def parsed(text: str) -> pb.Filter:
    return ParseDict(parse_filter(text), pb.Filter())


def compare(field: str, operator: str, **value: object) -> pb.Filter:
    made = pb.Comparison(field=field, value=pb.Value(**value))  # type: ignore[arg-type]
    made.operator = pb.Comparison.Operator.Value(f"OPERATOR_{operator}")
    return pb.Filter(compare=made)


def both(*filters: pb.Filter) -> pb.Filter:
    return pb.Filter(all_of=pb.FilterList(filters=filters))


def either(*filters: pb.Filter) -> pb.Filter:
    return pb.Filter(any_of=pb.FilterList(filters=filters))


YEAR = compare("year", "GREATER_OR_EQUAL", int_value=2020)
EN = compare("lang", "EQUAL", string_value="en")
DRAFT = pb.Filter(has="draft")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("year >= 2020", YEAR),
        ('lang == "en"', EN),
        ("lang=='en'", EN),
        ("has draft", DRAFT),
        ("not has draft", pb.Filter(none_of=DRAFT)),
        ('year >= 2020 and lang == "en" and has draft', both(YEAR, EN, DRAFT)),
        ('has draft or year >= 2020 and lang == "en"', either(DRAFT, both(YEAR, EN))),
        ('(has draft or year >= 2020) and lang == "en"', both(either(DRAFT, YEAR), EN)),
        ('not (year >= 2020 and lang == "en")', pb.Filter(none_of=both(YEAR, EN))),
        ("score < -0.5", compare("score", "LESS", double_value=-0.5)),
        ("score < 1e3", compare("score", "LESS", double_value=1000)),
        ("open != false", compare("open", "NOT_EQUAL", bool_value=False)),
        ('$path startswith "guide/"', compare("$path", "STARTS_WITH", string_value="guide/")),
        (
            "lang in ['en', \"d\\u0065\"]",
            pb.Filter(
                one_of=pb.Membership(
                    field="lang", values=[pb.Value(string_value="en"), pb.Value(string_value="de")]
                )
            ),
        ),
    ],
)
def test_what_is_meant(text: str, meant: pb.Filter) -> None:
    assert parsed(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "character 1: expected a metadata field"),
        ("year", "character 5: expected ==, !=, <, <=, >, >=, startswith or in, found the end"),
        ("year = 2020", "character 6: '=' is not expected"),
        (
            "lang == en",
            "a value: a string in quotes, a number, true or false, found en",
        ),
        ("year >= 2020 lang", "character 14: expected and, or, or the end, found lang"),
        ("(has draft", "character 11: expected ), found the end"),
        ("lang in []", "character 10: expected a value"),
        ("lang in ['a'", "character 13: expected ], found the end"),
        ('lang == "\\x"', "is not a string as JSON has it"),
        ("year > 99999999999999999999", "more than 64 bits"),
        ("not " * 20 + "has draft", "at most 8 levels deep"),
        ("(" * 2000, "at most 8 levels deep"),
        ("x" * 4097, "at most 4096 characters"),
        ("Year > 1", "character 1: 'Y' is not expected"),
        ("$path; drop", "character 6: ';' is not expected"),
    ],
)
def test_what_means_nothing_is_told_where(text: str, said: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert said in str(caught.value)


@given(st.text(st.characters(codec="utf-8"), max_size=60))
def test_a_string_stays_what_it_is(value: str) -> None:
    assert parsed(f"lang == {json.dumps(value)}").compare.value.string_value == value


@given(st.text("abc()[]<>=!,'\"\\ 01.-andornotin", max_size=40))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    with contextlib.suppress(FilterError):
        parsed(text)
