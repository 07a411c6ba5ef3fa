"""Cuts a parsed document into chunks.

Sections (headings, pages) are never mixed, except that a heading without a
text of its own goes with the next section. Within a section: paragraphs, then
lines, then sentences, then words, then characters, so that a cut falls at the
best place that fits. No text is lost: every word is in some chunk.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from retrieval.core.model import ChunkDraft, Chunking
from retrieval.core.tokens import TokenCounter

# A chunk must fit a store's text field: 65,535 bytes, four a character at worst.
_MAX_CHARACTERS = 16_000
# Headings in front of the text may take this part of a chunk's tokens.
_CONTEXT_SHARE = 4
_MAX_LOCATION_CHARACTERS = 1_000

_PARAGRAPHS = re.compile(r"(?<=\n)(?=[ \t]*\n)")
_LINES = re.compile(r"(?<=\n)")
_SENTENCES = re.compile(r"(?<=[.!?。！？])(?=[\s\u4e00-\u9fff])")
_WORDS = re.compile(r"(?<=\s)(?=\S)")


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


@dataclass(frozen=True, slots=True)
class _Piece:
    text: str
    tokens: int


def cut(sections: Sequence[Section], chunking: Chunking, tokens: TokenCounter) -> list[ChunkDraft]:
    """The chunks of all sections, in order. Sections of only white space have none."""
    return list(cuts(sections, chunking, tokens))


def cuts(sections: Iterable[Section], chunking: Chunking, tokens: TokenCounter) -> Iterator[ChunkDraft]:
    """See `cut`; one by one, for a caller that has enough at some point."""
    for section in _with_headings_attached(sections):
        context = _context(section, chunking, tokens)
        room = chunking.max_tokens - (tokens.count(context) if context else 0)
        overlap = min(chunking.overlap_tokens, room // 2)
        for text in _cut_text(section.text, room, overlap, tokens):
            yield ChunkDraft(text=text, context=context, location=section.location)


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


def _cut_text(text: str, room: int, overlap: int, tokens: TokenCounter) -> Iterator[str]:
    """Packs pieces until the room is full; the next chunk begins with the last ones again."""
    window: list[_Piece] = []
    size = 0
    for piece in _pieces(text, room, tokens):
        characters = sum(len(kept.text) for kept in window) + len(piece.text)
        if window and (size + piece.tokens > room or characters > _MAX_CHARACTERS):
            yield from _shown(window)
            window = _tail(window, min(overlap, room - piece.tokens))
            size = sum(kept.tokens for kept in window)
        window.append(piece)
        size += piece.tokens
    if window:
        yield from _shown(window)


def _shown(window: Sequence[_Piece]) -> Iterator[str]:
    text = "".join(piece.text for piece in window).strip()
    if text:
        yield text


def _tail(window: Sequence[_Piece], overlap: int) -> list[_Piece]:
    """The last pieces that fit into the overlap."""
    kept: list[_Piece] = []
    size = 0
    for piece in reversed(window):
        if size + piece.tokens > overlap or sum(len(k.text) for k in kept) + len(piece.text) > 4_000:
            break
        kept.insert(0, piece)
        size += piece.tokens
    return kept if len(kept) < len(window) else kept[1:]


def _pieces(text: str, room: int, tokens: TokenCounter) -> Iterator[_Piece]:
    """Sentences where a text has some: an overlap is made of whole pieces."""
    for paragraph in _PARAGRAPHS.split(text):
        for line in _LINES.split(paragraph):
            for sentence in _SENTENCES.split(line):
                if sentence:
                    yield from _fitting(sentence, room, tokens)


def _fitting(text: str, room: int, tokens: TokenCounter) -> Iterator[_Piece]:
    """The text itself if it fits, else its words packed together, else runs of characters."""
    # Counting a whole book at once to learn that it does not fit would be slow: a
    # token has at most a few dozen characters in practice.
    count = tokens.count(text) if len(text) <= _MAX_CHARACTERS else room + 1
    if count <= room:
        yield _Piece(text, count)
        return
    words = _WORDS.split(text)
    if len(words) == 1:
        yield from _characters(text, room, tokens)
        return
    packed, size = "", 0
    for word in words:
        count = tokens.count(word) if len(word) <= _MAX_CHARACTERS else room + 1
        if packed and (size + count > room or len(packed) + len(word) > _MAX_CHARACTERS):
            yield _Piece(packed, size)
            packed, size = "", 0
        if count > room:
            yield from _characters(word, room, tokens)
            continue
        packed, size = packed + word, size + count
    if packed:
        yield _Piece(packed, size)


def _characters(text: str, room: int, tokens: TokenCounter) -> Iterator[_Piece]:
    """Halves until each part fits; a part of one character is not cut further."""
    if len(text) <= _MAX_CHARACTERS:
        count = tokens.count(text)
        if count <= room or len(text) == 1:
            yield _Piece(text, min(count, room))
            return
    middle = len(text) // 2
    yield from _characters(text[:middle], room, tokens)
    yield from _characters(text[middle:], room, tokens)
