"""Which evidence an answer rests on."""

import pytest

from orchestrator.core.citations import cite
from orchestrator.core.model import Evidence
from tests.support.fake_knowledge import chunk

EVIDENCE = [
    Evidence(number=1, chunk=chunk("a", "The warranty of the blue kettle lasts three years.")),
    Evidence(number=2, chunk=chunk("b", "Returns are free of charge within thirty days.")),
]


@pytest.mark.parametrize(
    ("answer", "cited", "unknown"),
    [
        ("Three [1].", [1], []),
        ("Both [2][1], and again [2].", [2, 1], []),
        ("Both [1, 2] and [7].", [1, 2], [7]),
        ("Array index [12345] is no mark, nor is [x].", [], []),
    ],
)
def test_marks_are_citations_and_unknown_numbers_are_none(
    answer: str, cited: list[int], unknown: list[int]
) -> None:
    citations, strangers = cite(answer, EVIDENCE)
    assert [c.number for c in citations if c.by_model] == cited
    assert strangers == unknown


def test_without_a_mark_the_closest_chunk_is_attributed() -> None:
    citations, _ = cite("The kettle has a warranty: it lasts three years.", EVIDENCE)
    assert [(c.number, c.by_model) for c in citations] == [(1, False)]


def test_an_answer_about_something_else_has_no_citation() -> None:
    assert cite("I do not know anything about that.", EVIDENCE) == ((), [])


def test_only_a_wrong_mark_falls_back_to_attribution() -> None:
    citations, unknown = cite("The warranty of the kettle lasts three years [9].", EVIDENCE)
    assert [(c.number, c.by_model) for c in citations] == [(1, False)]
    assert unknown == [9]


def test_a_chunk_that_fits_far_better_than_the_named_one_is_attributed_too() -> None:
    citations, _ = cite("The warranty of the blue kettle lasts three years [2].", EVIDENCE)
    assert [(c.number, c.by_model) for c in citations] == [(2, True), (1, False)]
    citations, _ = cite("Returns are free of charge; the kettle is blue [2].", EVIDENCE)
    assert [(c.number, c.by_model) for c in citations] == [(2, True)]
