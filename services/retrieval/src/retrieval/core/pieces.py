"""Texts to the pieces that a cut must not go through, if they fit.

Prose: sentences. Markdown: whole tables and blocks of code too; of a table
that is too long the rows, each of which knows the table's head. Source code:
definitions, by indentation and blank lines, which all languages have; what is
too long is taken apart one level of indentation deeper.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from retrieval.core.tokens import TokenCounter

# A chunk must fit a store's text field: 65,535 bytes, four a character at worst.
MAX_CHARACTERS = 16_000
# A table's head is repeated if it takes at most this part of the room.
_HEAD_SHARE = 2

_PARAGRAPHS = re.compile(r"(?<=\n)(?=[ \t]*\n)")
_LINES = re.compile(r"(?<=\n)")
_SENTENCES = re.compile(r"(?<=[.!?。！？])(?=[\s\u4e00-\u9fff])")
_WORDS = re.compile(r"(?<=\s)(?=\S)")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_RULE = re.compile(r" {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*")
# A line at the outer level that goes on with what stands above it.
_GOES_ON = re.compile(r"[\])}]|(?:else|elif|except|finally|catch|end|fi|done|esac|then|do|rescue|ensure)\b")


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text.

    Attributes:
        tokens: How many it has.
        head: Stands in front of a chunk that begins with this piece: a table's head.
        head_tokens: How many that has.
        line: Of the text, from 1, in which it begins; 0: nobody asked.
        verbatim: The indentation of its first line matters.
    """

    text: str
    tokens: int
    head: str = ""
    head_tokens: int = 0
    line: int = 0
    verbatim: bool = False


def prose(text: str, room: int, tokens: TokenCounter) -> Iterator[Piece]:
    """Sentences where a text has some: an overlap is made of whole pieces."""
    for paragraph in _split(_PARAGRAPHS, text):
        for line in _split(_LINES, paragraph):
            for sentence in _split(_SENTENCES, line):
                yield from fitting(sentence, room, tokens)


def markdown(text: str, room: int, tokens: TokenCounter) -> Iterator[Piece]:
    """Tables and blocks of code are whole where they fit."""
    for block, kind in _blocks(text):
        count = _count(block, room, tokens)
        if kind == "prose":
            yield from prose(block, room, tokens)
        elif count <= room:
            yield Piece(block, count)
        elif kind == "code":
            for piece in code(block, room, tokens):
                yield replace(piece, line=0)
        else:
            yield from _table(block, room, tokens)


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Runs of lines, and whether they are prose, code or a table. Nothing is lost."""
    lines = list(_split(_LINES, text))
    start = index = 0
    while index < len(lines):
        mark = _FENCE.match(lines[index])
        if mark:
            end = _fence_end(lines, index, mark[1])
            kind = "code"
        elif index + 1 < len(lines) and "|" in lines[index] and _is_rule(lines[index + 1]):
            end = index + 2
            while end < len(lines) and "|" in lines[end]:
                end += 1
            kind = "table"
        else:
            index += 1
            continue
        if start < index:
            yield "".join(lines[start:index]), "prose"
        yield "".join(lines[index:end]), kind
        start = index = end
    if start < len(lines):
        yield "".join(lines[start:]), "prose"


def _fence_end(lines: Sequence[str], start: int, fence: str) -> int:
    for index in range(start + 1, len(lines)):
        mark = _FENCE.match(lines[index])
        if mark and mark[1].startswith(fence) and not lines[index].strip().strip(fence[0]):
            return index + 1
    return len(lines)


def _is_rule(line: str) -> bool:
    return "-" in line and "|" in line and bool(_RULE.fullmatch(line.rstrip("\n")))


def _table(block: str, room: int, tokens: TokenCounter) -> Iterator[Piece]:
    lines = list(_split(_LINES, block))
    head = "".join(lines[:2])
    head_tokens = tokens.count(head) if len(head) <= MAX_CHARACTERS // _HEAD_SHARE else room
    yield from prose(head, room, tokens)
    if head_tokens > room // _HEAD_SHARE:
        head, head_tokens = "", 0
    for line in lines[2:]:
        for piece in fitting(line, room - head_tokens, tokens, MAX_CHARACTERS - len(head)):
            yield Piece(piece.text, piece.tokens, head, head_tokens)


def code(text: str, room: int, tokens: TokenCounter) -> Iterator[Piece]:
    """Definitions where they fit, else their parts, else lines."""
    lines = list(_split(_LINES, text))
    yield from _units(lines, 0, len(lines), room, tokens)


def _units(lines: Sequence[str], start: int, end: int, room: int, tokens: TokenCounter) -> Iterator[Piece]:
    """Those of the outermost indentation in these lines. Not recursive: code can be nested to any depth."""
    waiting = [(start, end)]
    while waiting:
        first, last = waiting.pop()
        text = "".join(lines[first:last])
        count = _count(text, room, tokens)
        if count <= room:
            if text:
                yield Piece(text, count, line=first + 1, verbatim=True)
            continue
        if last - first == 1:
            for piece in fitting(text, room, tokens):
                yield Piece(piece.text, piece.tokens, line=first + 1, verbatim=True)
            continue
        starts = _starts(lines, first, last)
        waiting += reversed(list(zip(starts, [*starts[1:], last], strict=True)))


def _starts(lines: Sequence[str], first: int, last: int) -> list[int]:
    """Where the units begin: at least two of them."""
    indents = [_indent(line) for line in lines[first:last]]
    shown = [indent for indent in indents if indent is not None]
    # The lines of the outermost level; if the first alone is, it heads what is one level deeper.
    for outer in sorted(set(shown))[:2]:
        starts = [first]
        for index in range(first + 1, last):
            indent = indents[index - first]
            if indent is None or indent > outer or _GOES_ON.match(lines[index].lstrip()):
                continue
            before = indents[index - first - 1]
            if before is None or before > outer:
                starts.append(index)
        if len(starts) > 1:
            return starts
    middle = (first + last) // 2
    return [first, middle]


def _indent(line: str) -> int | None:
    bare = line.strip()
    return len(line.expandtabs(4)) - len(line.expandtabs(4).lstrip()) if bare else None


def fitting(text: str, room: int, tokens: TokenCounter, characters: int = MAX_CHARACTERS) -> Iterator[Piece]:
    """The text itself if it fits, else its words packed together, else runs of characters."""
    if not text:
        return
    count = _count(text, room, tokens, characters)
    if count <= room:
        yield Piece(text, count)
        return
    packed: list[str] = []
    size = length = 0
    for word in _split(_WORDS, text):
        count = _count(word, room, tokens, characters)
        if packed and (size + count > room or length + len(word) > characters):
            yield Piece("".join(packed), size)
            packed, size, length = [], 0, 0
        if count > room:
            yield from _characters(word, room, tokens, characters)
            continue
        packed.append(word)
        size += count
        length += len(word)
    if packed:
        yield Piece("".join(packed), size)


def _characters(text: str, room: int, tokens: TokenCounter, characters: int) -> Iterator[Piece]:
    """Halves until each part fits; a part of one character is not cut further."""
    count = _count(text, room, tokens, characters)
    if count <= room or len(text) == 1:
        yield Piece(text, min(count, room))
        return
    middle = len(text) // 2
    yield from _characters(text[:middle], room, tokens, characters)
    yield from _characters(text[middle:], room, tokens, characters)


def _count(text: str, room: int, tokens: TokenCounter, characters: int = MAX_CHARACTERS) -> int:
    """Counting a whole book at once, to learn that it does not fit, would be slow."""
    return tokens.count(text) if len(text) <= characters else room + 1


def _split(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    """As `pattern.split`, but one by one: a line of a hundred megabytes has many words."""
    start = 0
    for match in pattern.finditer(text):
        if match.start() > start:
            yield text[start : match.start()]
            start = match.start()
    if start < len(text):
        yield text[start:]
