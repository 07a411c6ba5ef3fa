"""Cuts a parsed document into chunks.

Sections (headings, pages) are never mixed, except that a heading without a
text of its own goes with the next section, and that RECURSIVE knows pages
only. Within a section: paragraphs, then lines, then sentences, then words,
then characters, so that a cut falls at the best place that fits. No text is
lost: every word is in some chunk. The same text is always cut alike.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from retrieval.core import pieces
from retrieval.core.model import ChunkDraft, Chunking, ChunkingStrategy
from retrieval.core.pieces import MAX_CHARACTERS, Piece
from retrieval.core.tokens import TokenCounter

# Headings in front of the text may take this part of a chunk's tokens.
_CONTEXT_SHARE = 4
_MAX_LOCATION_CHARACTERS = 1_000

_BLANK_LINES = re.compile(r"\A(?:[ \t]*\n)+")

_PIECES: dict[ChunkingStrategy, Callable[[str, int, TokenCounter], Iterator[Piece]]] = {
    ChunkingStrategy.AUTO: pieces.markdown,
    ChunkingStrategy.RECURSIVE: pieces.prose,
    ChunkingStrategy.MARKDOWN: pieces.markdown,
    ChunkingStrategy.CODE: pieces.code,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a document.

    Attributes:
        text: Its text, its own heading line included.
        headings: The headings above the text, outermost first.
        page: What to call the place if there are no headings, such as "page 3".
        heading_only: The text is nothing but a heading.
    """

    text: str
    headings: tuple[str, ...] = ()
    page: str = ""
    heading_only: bool = False

    @property
    def location(self) -> str:
        """For people: where the text stands."""
        place = " > ".join(self.headings)
        if self.page:
            place = f"{self.page}: {place}" if place else self.page
        return place[:_MAX_LOCATION_CHARACTERS]


def cut(sections: Sequence[Section], chunking: Chunking, tokens: TokenCounter) -> list[ChunkDraft]:
    """The chunks of all sections, in order. Sections of only white space have none."""
    return list(cuts(sections, chunking, tokens))


def cuts(sections: Iterable[Section], chunking: Chunking, tokens: TokenCounter) -> Iterator[ChunkDraft]:
    """See `cut`; one by one, for a caller that has enough at some point."""
    if chunking.strategy == ChunkingStrategy.RECURSIVE:
        sections = _by_page(sections)
    for section in _with_headings_attached(sections):
        context = _context(section, chunking, tokens)
        for text, line in _cut_text(section.text, chunking, context, tokens):
            location = section.location
            if line:
                lines = f"lines {line}-{line + text.count(chr(10))}"
                location = f"{location}, {lines}" if location else lines
            yield ChunkDraft(text=text, context=context, location=location)


def _by_page(sections: Iterable[Section]) -> Iterator[Section]:
    """Headings are text like any other."""
    for page, group in itertools.groupby(sections, key=lambda section: section.page):
        yield Section(text="".join(section.text for section in group), page=page)


def _with_headings_attached(sections: Iterable[Section]) -> Iterator[Section]:
    waiting = ""
    last: Section | None = None
    for section in sections:
        if not section.text.strip():
            continue
        text = waiting + section.text
        if section.heading_only:
            waiting, last = text if text.endswith("\n") else text + "\n", section
            continue
        yield Section(text=text, headings=section.headings, page=section.page)
        waiting = ""
    if waiting and last is not None:
        yield Section(text=waiting, headings=last.headings, page=last.page)


def _context(section: Section, chunking: Chunking, tokens: TokenCounter) -> str:
    """The innermost headings that fit into their share."""
    allowed = chunking.max_tokens // _CONTEXT_SHARE
    kept: list[str] = []
    for heading in reversed(section.headings):
        context = " > ".join([heading, *kept])
        if tokens.count(context) > allowed:
            break
        kept.insert(0, heading)
    return " > ".join(kept)


def _cut_text(text: str, chunking: Chunking, context: str, tokens: TokenCounter) -> Iterator[tuple[str, int]]:
    """Packs pieces until the room is full; the next chunk begins with the last ones again.

    Yields:
        Text and the line in which it begins, 0 if that is of no use.
    """
    room = chunking.max_tokens - (tokens.count(context) if context else 0)
    overlap = min(chunking.overlap_tokens, room // 2)
    window: list[Piece] = []
    for piece in _PIECES[chunking.strategy](text, room, tokens):
        if window and not _fits([*window, piece], room):
            yield from _shown(window, chunking, context, tokens)
            window = _tail(window, min(overlap, room - piece.tokens))
            while window and not _fits([*window, piece], room):
                window.pop(0)
        window.append(piece)
    if window:
        yield from _shown(window, chunking, context, tokens)


def _fits(window: Sequence[Piece], room: int) -> bool:
    size = window[0].head_tokens + sum(piece.tokens for piece in window)
    return size <= room and len(window[0].head) + sum(len(piece.text) for piece in window) <= MAX_CHARACTERS


def _shown(
    window: Sequence[Piece], chunking: Chunking, context: str, tokens: TokenCounter
) -> Iterator[tuple[str, int]]:
    text = window[0].head + "".join(piece.text for piece in window)
    line = window[0].line
    if window[0].verbatim:
        begun = _BLANK_LINES.sub("", text)
        line += text[: len(text) - len(begun)].count("\n") if line else 0
        text = begun
    else:
        text = text.lstrip()
    text = text.rstrip()
    if not text:
        return
    embedded = ChunkDraft(text=text, context=context, location="").embedded_text
    if tokens.count(embedded) <= chunking.max_tokens or len(text) == 1:
        yield text, line
        return
    # A tokenizer may make more of two pieces together than of each alone.
    if len(window) > 1:
        middle = len(window) // 2
        halves = [window[:middle], window[middle:]]
    else:
        whole = window[0].text
        middle = (
            whole.rfind(" ", 1, len(whole) // 2) if " " in whole[1 : len(whole) // 2] else len(whole) // 2
        )
        halves = [[replace(window[0], text=part, head="")] for part in (whole[:middle], whole[middle:])]
    for half in halves:
        yield from _shown(half, chunking, context, tokens)


def _tail(window: Sequence[Piece], overlap: int) -> list[Piece]:
    """The last pieces that fit into the overlap."""
    kept: list[Piece] = []
    size = 0
    for piece in reversed(window):
        if size + piece.tokens > overlap or sum(len(k.text) for k in kept) + len(piece.text) > 4_000:
            break
        kept.insert(0, piece)
        size += piece.tokens
    return kept if len(kept) < len(window) else kept[1:]
