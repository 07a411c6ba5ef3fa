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


def test_words_that_every_chunk_has_say_nothing_about_which_one_was_used() -> None:
    evidence = [
        Evidence(number=1, chunk=chunk("a", "An agent without documents does not call a model: it asks.")),
        Evidence(number=2, chunk=chunk("b", "An agent that searches is given a tool by its model.")),
    ]
    citations, _ = cite("An agent with no documents asks for documents [2].", evidence)
    assert [(c.number, c.by_model) for c in citations] == [(2, True), (1, False)]


def test_a_number_that_no_named_chunk_has_comes_from_the_one_that_has_it() -> None:
    evidence = [
        Evidence(number=1, chunk=chunk("a", "The owner gets a lease of 3 seconds on the run.")),
        Evidence(
            number=2, chunk=chunk("b", "The lease that an owner gets on a run is given back at its end.")
        ),
        Evidence(number=3, chunk=chunk("c", "Chapter 3 is about kettles.")),
    ]
    citations, _ = cite("The lease that an owner gets on a run is 3 seconds [2].", evidence)
    assert [(c.number, c.by_model) for c in citations] == [(2, True), (1, False)]
    # The number alone does not make a chunk the source.
    citations, _ = cite("The lease is given back 3 times [2].", evidence[1:])
    assert [c.number for c in citations] == [2]
