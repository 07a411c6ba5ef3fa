"""Hostile metadata and filters over it, made by hypothesis."""

from collections.abc import Callable
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from retrieval.core.filters import DOCUMENT, PATH, And, Compare, Filter, Has, Not, OneOf, Operator, Or
from retrieval.core.model import MetadataField, MetadataType, Scalar

Example = TypeVar("Example")

FIELDS = (
    MetadataField(name="text", type=MetadataType.STRING),
    MetadataField(name="whole", type=MetadataType.INT64),
    MetadataField(name="real", type=MetadataType.DOUBLE),
    MetadataField(name="flag", type=MetadataType.BOOL),
)
_PIECES = [
    *(
        "a",
        "A",
        "a%",
        "%",
        "_",
        "\\",
        '"',
        "'",
        "\n",
        "\r",
        "\t",
        "\x01",
        "\x1b",
        "\x7f",
        "$",
        "`",
        "--",
        "/*",
    ),
    *(
        "é",
        "e\u0301",
        "日",
        "😀",
        "\U0010ffff",
        "\ud7ff",
        "\ue000",
        "\u2028",
        "{x}",
        " ",
        "null",
        "true",
        "1",
    ),
    *('") or (id != "', "\\u0041", 'scope == "', "]) or true"),
]
strings = st.one_of(
    st.lists(st.sampled_from(_PIECES), max_size=3).map("".join),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5),
)
whole = st.one_of(
    st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), -(2**63) + 1, 2**53, 2**53 + 1, 2**62 + 1]),
    st.integers(-(2**63), 2**63 - 1),
)
real = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 0.1, 5e-324, 1.7976931348623157e308, -1e308, 2.0**63, -(2.0**63), 1e22]),
    st.floats(allow_nan=False, allow_infinity=False),
)
_VALUES: dict[str, SearchStrategy[Scalar]] = {
    "text": strings,
    "whole": whole,
    "real": real,
    "flag": st.booleans(),
}
metadata = st.fixed_dictionaries({}, optional=_VALUES)

_OPERATORS = {
    "text": (Operator.EQUAL, Operator.NOT_EQUAL, Operator.STARTS_WITH),
    "whole": tuple(Operator)[:6],
    "real": tuple(Operator)[:6],
    "flag": (Operator.EQUAL, Operator.NOT_EQUAL),
}


def _leaf(field: str) -> SearchStrategy[Filter]:
    value = _VALUES.get(field, strings)
    operators = _OPERATORS.get(field, _OPERATORS["text"])
    return st.one_of(
        st.builds(Compare, st.just(field), st.sampled_from(operators), value),
        st.builds(OneOf, st.just(field), st.lists(value, min_size=1, max_size=4).map(tuple)),
        st.just(Has(field)),
    )


def _node(inner: SearchStrategy[Filter]) -> SearchStrategy[Filter]:
    several = st.lists(inner, min_size=1, max_size=3).map(tuple)
    return st.one_of(st.builds(Not, inner), st.builds(And, several), st.builds(Or, several))


filters: SearchStrategy[Filter] = st.recursive(
    st.sampled_from([*_VALUES, PATH, DOCUMENT]).flatmap(_leaf), _node, max_leaves=5
)


def examples(strategy: SearchStrategy[Example], number: int) -> list[Example]:
    """The same ones in every run: a store is asked for all of them over one connection."""
    made: list[Example] = []

    @settings(
        max_examples=number,
        database=None,
        derandomize=True,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: Example) -> None:
        made.append(example)

    run: Callable[[], None] = collect
    run()
    return made
