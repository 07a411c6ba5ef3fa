import itertools
import re

from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.core.chunking import Section, cut
from retrieval.core.model import Chunking
from retrieval.core.tokens import EstimatedTokens

TOKENS = EstimatedTokens()
ALPHABET = st.sampled_from("ab cdé.!?\n\n\t 漢字,;#|`x")
TEXTS = st.lists(st.text(ALPHABET, max_size=60) | st.text(max_size=200), max_size=8).map("".join)


def bare(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(text=TEXTS, size=st.integers(16, 60))
@settings(max_examples=150, deadline=None)
def test_without_overlap_the_chunks_are_the_text(text: str, size: int) -> None:
    chunks = cut([Section(text=text)], Chunking(max_tokens=size, overlap_tokens=0), TOKENS)
    assert bare("".join(chunk.text for chunk in chunks)) == bare(text)
    assert all(TOKENS.count(chunk.embedded_text) <= size for chunk in chunks)


SEPARATORS = st.lists(st.sampled_from([" ", "\n", "\n\n", ". ", "! ", "\n\n\n"]), max_size=120)


@given(
    sections=st.lists(SEPARATORS, min_size=1, max_size=3),
    size=st.integers(16, 60),
    overlap=st.integers(0, 30),
)
@settings(max_examples=100, deadline=None)
def test_with_overlap_every_word_is_there_in_order(
    sections: list[list[str]], size: int, overlap: int
) -> None:
    words = iter(range(10_000))
    parts = [
        Section(text="".join(f"w{next(words)}{mark}" for mark in marks), headings=("A heading", f"Part {n}"))
        for n, marks in enumerate(sections)
    ]
    chunks = cut(parts, Chunking(max_tokens=size, overlap_tokens=min(overlap, size - 1)), TOKENS)
    next_word = 0
    for chunk in chunks:
        found = [int(word) for word in re.findall(r"w(\d+)", chunk.text)]
        # A run without a gap that begins with what is known and ends with something new.
        assert found == list(range(found[0], found[-1] + 1))
        assert found[0] <= next_word <= found[-1]
        next_word = found[-1] + 1
        assert TOKENS.count(chunk.embedded_text) <= size
    assert next_word == next(words)


def test_overlap_repeats_whole_sentences() -> None:
    text = " ".join(f"Sentence number {n} says little." for n in range(12))
    chunks = cut([Section(text=text)], Chunking(max_tokens=30, overlap_tokens=10), TOKENS)
    assert len(chunks) > 3
    for before, after in itertools.pairwise(chunks):
        first = after.text.split(". ")[0]
        assert before.text.endswith(first + ".") or before.text.endswith(first)


def test_headings_stand_in_front_of_what_is_embedded() -> None:
    section = Section(text="## Setup\n\nRun it.", headings=("Guide", "Setup"))
    (chunk,) = cut([section], Chunking(), TOKENS)
    assert chunk.location == "Guide > Setup"
    assert chunk.embedded_text == "Guide > Setup\n\n## Setup\n\nRun it."
    assert chunk.text == "## Setup\n\nRun it."


def test_a_heading_without_text_goes_with_the_next_section() -> None:
    sections = [
        Section(text="# Guide\n", headings=("Guide",), heading_only=True),
        Section(text="## Setup\nRun it.\n", headings=("Guide", "Setup")),
        Section(text="# End\n", headings=("End",), heading_only=True),
    ]
    chunks = cut(sections, Chunking(), TOKENS)
    assert [chunk.text for chunk in chunks] == ["# Guide\n## Setup\nRun it.", "# End"]


def test_long_headings_do_not_crowd_out_the_text() -> None:
    headings = (*["very long heading " * 20] * 3, "Short")
    chunks = cut([Section(text="word " * 100, headings=headings)], Chunking(max_tokens=20), TOKENS)
    assert {chunk.context for chunk in chunks} == {"Short"}


def test_a_text_without_spaces_is_cut_in_bounded_time() -> None:
    chunks = cut([Section(text="x" * 1_000_000)], Chunking(), TOKENS)
    assert sum(len(chunk.text) for chunk in chunks) >= 1_000_000
    assert max(len(chunk.text.encode()) for chunk in chunks) < 65_535
