"""An answer taken apart."""

import pytest

from evaluation.core.claims import MAX_SENTENCES, sentences, texts


def parts(answer: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """Each sentence as it stands in the answer, its claim, and what it cites."""
    return [(answer[s.start : s.end], s.claim, s.cites) for s in sentences(answer)]


def test_sentences_keep_their_places_and_their_marks() -> None:
    answer = "The warranty is two years [1]. Repairs are free. [2, 3] Ask the shop (see 4.2)."
    assert parts(answer) == [
        ("The warranty is two years [1].", "The warranty is two years.", (1,)),
        ("Repairs are free. [2, 3]", "Repairs are free.", (2, 3)),
        ("Ask the shop (see 4.2).", "Ask the shop (see 4.2).", ()),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "It weighs 3.5 kg and costs 1.200 euros.",
        "Dr. Smith wrote it, e.g. the chapter on glue.",
        "Milvus vs. Postgres is no contest here.",
        "See docs/api.md or https://example.com/a.b?c=d for the whole story.",
    ],
)
def test_a_full_stop_within_a_sentence_does_not_end_it(text: str) -> None:
    assert [part[0] for part in parts(text)] == [text]


@pytest.mark.parametrize(
    "text",
    [
        "Hello there!",
        "Sure, here is the answer.",
        "Would you like to know more about it?",
        "# The warranty of all products",
        "These are the steps to take:",
        "I do not know how long the warranty is.",
        "The documents do not mention a warranty.",
        "Two years.",
        "[1]",
    ],
)
def test_what_claims_nothing_is_no_claim(text: str) -> None:
    assert [claim for _, claim, _ in parts(text) if claim] == []


def test_lists_and_markup_are_claims_without_their_signs() -> None:
    answer = (
        "Steps:\n\n1. **Open** the `case` first [2].\n- Take out the battery\n\n```\nnot a sentence.\n```\n"
    )
    assert [(claim, cites) for _, claim, cites in parts(answer) if claim] == [
        ("Open the case first.", (2,)),
        ("Take out the battery", ()),
    ]


def test_other_scripts_have_sentences_too() -> None:
    assert len(parts("保修期为两年 是的 没错。 修理 是 免费的 真的。")) == 2


def test_an_endless_answer_is_looked_at_as_far_as_the_bound() -> None:
    assert len(sentences("This is a sentence of words. " * 3_000)) == MAX_SENTENCES


def test_a_passage_has_sentences_as_text() -> None:
    assert texts("One line\nbroken. Another   one.") == ["One line", "broken.", "Another one."]
