"""Where each strategy cuts, and what holds for all of them with real tokenizers."""

import re
import textwrap

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from retrieval.core import media
from retrieval.core.chunking import Section, cut
from retrieval.core.model import Chunking, ChunkingStrategy
from retrieval.core.tokens import EstimatedTokens, ModelTokens, TokenCounter
from retrieval.parsing.formats import as_asked
from retrieval.parsing.markup import markdown

TOKENS = EstimatedTokens()
CORPUS = ["w10 w11 w123 the cell of a table and def function(self): return value | --- ``` # head\n"] * 3


@pytest.fixture(scope="module")
def counters(tmp_path_factory: pytest.TempPathFactory) -> list[TokenCounter]:
    """The estimate, and the two kinds of tokenizer that embedding models have."""
    word_piece = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    word_piece.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    word_piece.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=120, special_tokens=["[UNK]"], show_progress=False)
    )
    pairs = Tokenizer(models.BPE())
    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, show_progress=False))
    folder = tmp_path_factory.mktemp("tokenizers")
    found: list[TokenCounter] = [TOKENS]
    for name, tokenizer in (("wordpiece", word_piece), ("bpe", pairs)):
        tokenizer.save(str(folder / name))
        found.append(ModelTokens(folder / name))
    return found


def block(kind: str, words: list[str]) -> str:
    if kind == "table":
        rows = "".join(f"| {word} | x |\n" for word in words)
        return f"| name | other |\n|---|---|\n{rows}"
    if kind == "fence":
        return "```\n" + "\n\n".join(f"  {word}" for word in words) + "\n```\n"
    if kind == "code":
        lines = (f"{'    ' * (n % 3)}{word}():\n" + "\n" * (n % 2) for n, word in enumerate(words))
        return "".join(lines)
    if kind == "line":
        return " ".join(words) + "\n"
    return ". ".join(words) + ".\n\n"


BLOCKS = st.lists(
    st.tuples(st.sampled_from(["table", "fence", "code", "line", "prose"]), st.integers(1, 25)),
    min_size=1,
    max_size=5,
)


@given(
    blocks=BLOCKS,
    size=st.integers(16, 60),
    overlap=st.integers(0, 30),
    strategy=st.sampled_from(ChunkingStrategy),
    which=st.integers(0, 2),
)
@settings(max_examples=150, deadline=None)
def test_every_word_in_order_none_too_long_and_always_alike(
    *,
    counters: list[TokenCounter],
    blocks: list[tuple[str, int]],
    size: int,
    overlap: int,
    strategy: ChunkingStrategy,
    which: int,
) -> None:
    numbers = iter(range(10_000))
    text = "".join(block(kind, [f"w{next(numbers)}" for _ in range(count)]) for kind, count in blocks)
    tokens = counters[which]
    chunking = Chunking(max_tokens=size, overlap_tokens=min(overlap, size - 1), strategy=strategy)
    sections = [
        Section(text=text, headings=("A heading",), page=""),
        Section(text="the end", headings=("A heading", "End")),
    ]
    chunks = cut(sections, chunking, tokens)
    assert chunks == cut(sections, chunking, tokens)
    assert all(tokens.count(chunk.embedded_text) <= size for chunk in chunks)
    next_word = 0
    for chunk in chunks:
        found = [int(word) for word in re.findall(r"w(\d+)", chunk.text)]
        if found:
            assert found == list(range(found[0], found[-1] + 1))
            assert found[0] <= next_word  # behind the last word there may be a fence alone
            repeated = " ".join(f"w{n}" for n in range(found[0], next_word))
            assert tokens.count(repeated) <= overlap
            next_word = max(next_word, found[-1] + 1)
    assert next_word == next(numbers)
    assert "the end" in chunks[-1].text


def test_a_table_that_is_cut_has_its_head_in_every_chunk() -> None:
    rows = "".join(f"| bolt {n} | {n}.50 |\n" for n in range(30))
    text = f"Prices:\n\n| Part | Price |\n|------|------:|\n{rows}\nThe end of it.\n"
    chunks = cut(markdown(text), Chunking(max_tokens=60, overlap_tokens=0), TOKENS)
    assert len(chunks) > 3
    for chunk in chunks[:-1]:
        assert chunk.text.count("| Part | Price |\n|------|------:|\n") == 1
        assert chunk.text.endswith("|")
    assert chunks[-1].text.endswith("The end of it.")
    assert chunks[-1].text.startswith("| Part | Price |")


def test_tables_and_code_that_fit_are_whole() -> None:
    table = "| a | b |\n|---|---|\n" + "| one. Two! Three? | x |\n" * 3
    code = "```python\ndef f():\n\n    return 1. + 2\n\n# not a heading\n```\n"
    text = f"{'Words before it. ' * 9}\n\n{table}\n{'Words between them. ' * 9}\n\n{code}"
    chunks = cut(markdown(text), Chunking(max_tokens=70, overlap_tokens=0), TOKENS)
    assert sum(table.strip() in chunk.text for chunk in chunks) == 1
    assert sum(code.strip() in chunk.text for chunk in chunks) == 1
    torn = cut(
        markdown(text),
        Chunking(max_tokens=70, overlap_tokens=0, strategy=ChunkingStrategy.RECURSIVE),
        TOKENS,
    )
    assert not any(code.strip() in chunk.text for chunk in torn)


SOURCE = '''\
"""A module."""

import os


@decorated
def first(a, b):
    """Adds."""
    if a:
        return a + b

    return b


class Shop:
    """Sells."""

    def open(self):
        self.is_open = True
        return self

    def close(self):
        try:
            self.lock()
        except OSError:
            raise
        self.is_open = False


def last(): return os
'''
BRACES = """\
package shop;

// Opens it.
func Open(a int) {
\tif a > 0 {
\t\treturn
\t} else {
\t\tpanic("no")
\t}
}

type Shop struct {
\tname string
}
"""


def code_chunks(text: str, size: int) -> list[tuple[str, str]]:
    chunking = Chunking(max_tokens=size, overlap_tokens=0, strategy=ChunkingStrategy.CODE)
    return [(chunk.location, chunk.text) for chunk in cut([Section(text=text)], chunking, TOKENS)]


def test_code_is_cut_between_definitions() -> None:
    chunks = code_chunks(SOURCE, 46)
    assert [text.split("\n")[0] for _, text in chunks] == [
        '"""A module."""',
        "class Shop:",
        "    def close(self):",
    ]
    assert chunks[2] == (
        "lines 22-30",
        textwrap.indent(
            "def close(self):\n    try:\n        self.lock()\n    except OSError:\n        raise\n"
            "    self.is_open = False",
            "    ",
        )
        + "\n\n\ndef last(): return os",
    )
    lines = SOURCE.split("\n")
    for location, text in chunks:
        first, last = map(int, re.findall(r"\d+", location))
        assert "\n".join(lines[first - 1 : last]) == text


def test_braces_close_what_they_opened() -> None:
    assert [text for _, text in code_chunks(BRACES, 40)] == [
        BRACES[: BRACES.index("\ntype")].strip(),
        BRACES[BRACES.index("type") :].strip(),
    ]


def test_recursive_knows_pages_but_no_headings() -> None:
    sections = [*markdown("# One\n\na b c\n\n# Two\n\nd e f\n"), Section(text="g", page="page 2")]
    chunking = Chunking(strategy=ChunkingStrategy.RECURSIVE)
    assert [(c.location, c.context, c.text) for c in cut(sections, chunking, TOKENS)] == [
        ("", "", "# One\n\na b c\n\n# Two\n\nd e f"),
        ("page 2", "", "g"),
    ]


@pytest.mark.parametrize(
    ("kind", "asked", "read_as", "cut_as"),
    [
        (media.SOURCE, ChunkingStrategy.AUTO, media.SOURCE, ChunkingStrategy.CODE),
        (media.MARKDOWN, ChunkingStrategy.AUTO, media.MARKDOWN, ChunkingStrategy.AUTO),
        (media.TEXT, ChunkingStrategy.MARKDOWN, media.MARKDOWN, ChunkingStrategy.MARKDOWN),
        (media.MARKDOWN, ChunkingStrategy.CODE, media.TEXT, ChunkingStrategy.CODE),
        (media.PDF, ChunkingStrategy.MARKDOWN, media.PDF, ChunkingStrategy.MARKDOWN),
        (media.SOURCE, ChunkingStrategy.RECURSIVE, media.SOURCE, ChunkingStrategy.RECURSIVE),
    ],
)
def test_kinds_of_file_and_strategies(
    kind: str, asked: ChunkingStrategy, read_as: str, cut_as: ChunkingStrategy
) -> None:
    assert as_asked(kind, asked) == (read_as, cut_as)


def test_hostile_texts_are_cut_in_bounded_time() -> None:
    for text in ("((" * 100_000, "\n" * 200_000, "| a | b |\n|---|---|\n" * 800, "  " * 100_000 + "x"):
        for strategy in ChunkingStrategy:
            chunks = cut([Section(text=text)], Chunking(strategy=strategy), TOKENS)
            assert all(TOKENS.count(chunk.text) <= 200 for chunk in chunks)
    deep = "".join(" " * n + "x\n" for n in range(600))
    assert cut([Section(text=deep)], Chunking(strategy=ChunkingStrategy.CODE), TOKENS)
