"""The question set fits the documents that it is about."""

import re
from pathlib import Path

import pytest

from bench.questions import load

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [" ".join(path.read_text(encoding="utf-8").split()) for path in (ROOT / "docs").rglob("*.md")]


def test_there_are_twenty_questions() -> None:
    asked = [question.ask for question in load()]
    assert len(asked) == len(set(asked)) == 20


@pytest.mark.parametrize("question", load(), ids=lambda question: question.ask)
def test_every_answer_stands_in_the_documents_and_not_everywhere(question) -> None:  # type: ignore[no-untyped-def]
    places = [text for text in DOCUMENTS if question.is_answered_by(text)]
    assert 1 <= len(places) <= 3


def test_white_space_and_case_do_not_matter() -> None:
    question = next(q for q in load() if q.chunk.pattern == "lease of 3 seconds")
    assert question.is_answered_by("A Lease of\n  3 seconds.")
    assert not question.is_answered_by("a lease of 30 seconds")


@pytest.mark.parametrize("entry", ["{ask: x}", "{ask: x, chunk: '('}", "text"])
def test_a_wrong_entry_is_named(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text(f"questions: [{entry}]")
    with pytest.raises(ValueError, match=re.escape("questions[0]")):
        load(path)
