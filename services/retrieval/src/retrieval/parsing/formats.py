"""One reader for each kind of file: bytes to sections and warnings."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retrieval.core import media
from retrieval.core.chunking import Section
from retrieval.core.model import ChunkingStrategy
from retrieval.parsing.errors import Unreadable
from retrieval.parsing.markup import markdown, restructured
from retrieval.parsing.pdf import pdf
from retrieval.parsing.sheets import excel, separated
from retrieval.parsing.slides import slides
from retrieval.parsing.text import decode
from retrieval.parsing.web import html
from retrieval.parsing.word import word

Parsed = tuple[list[Section], list[str]]

_MAX_DEPTH = 60


def read(file: Path, media_type: str) -> Parsed:
    """The sections of a file, and what went less than perfectly.

    Raises:
        Unreadable: It cannot be read, or has no text.
    """
    reader = READERS.get(media_type, _plain)
    sections, warnings = reader(file)
    if not any(section.text.strip() for section in sections):
        raise Unreadable(_without_text(media_type), reason="DOCUMENT_EMPTY")
    return sections, warnings


def as_asked(media_type: str, strategy: ChunkingStrategy) -> tuple[str, ChunkingStrategy]:
    """How to read and how to cut a kind of file, if its knowledge base asks for this strategy."""
    if strategy == ChunkingStrategy.AUTO and media_type == media.SOURCE:
        return media_type, ChunkingStrategy.CODE
    if strategy == ChunkingStrategy.MARKDOWN and media_type in (media.TEXT, media.SOURCE):
        return media.MARKDOWN, strategy
    if strategy == ChunkingStrategy.CODE and media_type in (media.MARKDOWN, media.RST):
        return media.TEXT, strategy
    return media_type, strategy


def _without_text(media_type: str) -> str:
    if media_type == media.PDF:
        return (
            "the PDF has no text on any page: it is probably scanned. Run it through text recognition (OCR) "
            "and upload the result."
        )
    return "the document has no text, only white space or markup"


def _plain(file: Path) -> Parsed:
    text, warnings = decode(file.read_bytes())
    return [Section(text=text)], warnings


def _by_outline(outline: Callable[[str], list[Section]]) -> Callable[[Path], Parsed]:
    def read_outline(file: Path) -> Parsed:
        text, warnings = decode(file.read_bytes())
        return outline(text), warnings

    return read_outline


def _json(file: Path) -> Parsed:
    text, warnings = decode(file.read_bytes())
    try:
        value = json.loads(text)
        return [Section(text="\n".join(_json_lines(value)))], warnings
    except json.JSONDecodeError as error:
        return [Section(text=text)], [
            *warnings,
            f"not valid JSON (line {error.lineno}: {error.msg}): read as plain text",
        ]
    except (RecursionError, ValueError):
        return [Section(text=text)], [*warnings, f"nested deeper than {_MAX_DEPTH}: read as plain text"]


def _jsonl(file: Path) -> Parsed:
    text, warnings = decode(file.read_bytes())
    sections = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            shown = "\n".join(_json_lines(json.loads(line)))
        except (ValueError, RecursionError):
            warnings.append(f"line {number} is not valid JSON: read as plain text")
            shown = line
        sections.append(Section(text=shown, page=f"line {number}"))
    return sections, warnings[:20]


def _json_lines(value: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """One line for each leaf: `a.b[2]: text`, so that a cut keeps the place with the value."""
    if depth > _MAX_DEPTH:
        raise ValueError("too deep")
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _json_lines(inner, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _json_lines(inner, f"{path}[{index}]", depth + 1)
    else:
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield f"{path}: {shown}" if path else shown


READERS: dict[str, Callable[[Path], Parsed]] = {
    media.MARKDOWN: _by_outline(markdown),
    media.RST: _by_outline(restructured),
    media.HTML: _by_outline(html),
    media.TEXT: _plain,
    media.PDF: pdf,
    media.DOCX: word,
    media.PPTX: slides,
    media.XLSX: excel,
    media.CSV: separated(","),
    media.TSV: separated("\t"),
    media.JSON: _json,
    media.JSON_LINES: _jsonl,
}
