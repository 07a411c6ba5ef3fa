"""Questions of golden sets: what is refused, and how it is said."""

from dataclasses import dataclass, replace

import pytest

from servicekit.errors import InvalidArgument
from servicekit.golden import check_questions


@dataclass(frozen=True)
class Question:
    """As messages have it."""

    id: str = "q1"
    question: str = "Which port?"
    sources: tuple[str, ...] = ("a.md",)
    facts: tuple[str, ...] = ("80",)


GOOD = Question()


def test_what_is_good_passes() -> None:
    check_questions([GOOD, replace(GOOD, id="q2", sources=(), facts=())])
    check_questions([replace(GOOD, id=f"q{number}") for number in range(500)])


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([], "questions: must be 1 to 500"),
        ([replace(GOOD, id=f"q{number}") for number in range(501)], "questions: must be 1 to 500 (got 501)"),
        ([GOOD, GOOD], "questions[1].id: is another question's already; choose another"),
        ([replace(GOOD, id=" ")], "questions[0].id: is required"),
        ([replace(GOOD, question="x" * 8_193)], "questions[0].question: has 8193 characters, at most 8192"),
        ([replace(GOOD, question="a\0b")], "questions[0].question: has a NUL character; remove it"),
        ([replace(GOOD, sources=("a",) * 51)], "questions[0].sources: at most 50"),
        ([replace(GOOD, facts=("a", ""))], "questions[0].facts[1]: is required"),
    ],
)
def test_what_is_not_is_named(questions: list[Question], said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_questions(questions)
    assert caught.value.reason == "INVALID_FIELD"
    assert said in caught.value.message
