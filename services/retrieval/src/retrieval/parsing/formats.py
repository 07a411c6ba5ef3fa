"""One reader for each kind of file: bytes to sections and warnings."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retrieval.core import media
from retrieval.core.chunking import Section
from retrieval.parsing.errors import Unreadable
from retrieval.parsing.markup import html, markdown, restructured
from retrieval.parsing.text import decode

Parsed = tuple[list[Section], list[str]]

_ROWS_A_SECTION = 50
_MAX_DEPTH = 60


def read(file: Path, media_type: str) -> Parsed:
    """The sections of a file, and what went less than perfectly.

    Raises:
        Unreadable: It cannot be read, or has no text.
    """
    reader = _READERS.get(media_type, _plain)
    sections, warnings = reader(file)
    if not any(section.text.strip() for section in sections):
        raise Unreadable(_without_text(media_type), reason="DOCUMENT_EMPTY")
    return sections, warnings


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


def _pdf(file: Path) -> Parsed:
    from pypdf import PdfReader  # noqa: PLC0415  # 0.2 s that other kinds need not pay
    from pypdf.errors import PyPdfError  # noqa: PLC0415

    sections: list[Section] = []
    blank: list[int] = []
    broken: list[int] = []
    try:
        reader = PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("the PDF is protected by a password; upload a copy without one")
        pages = len(reader.pages)
    except (PyPdfError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        raise Unreadable(
            f"the file is not a readable PDF ({_said(error)}). Open it in a viewer and save it again."
        ) from error
    for number in range(1, pages + 1):
        try:
            text = reader.pages[number - 1].extract_text()
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001  # pypdf raises anything on a damaged page; the others may be fine
            broken.append(number)
            continue
        if text.strip():
            sections.append(Section(text=text.replace("\0", " "), page=f"page {number}"))
        else:
            blank.append(number)
    if broken and not sections:
        raise Unreadable(f"none of the PDF's {pages} pages could be read. Save it again and upload the copy.")
    warnings = []
    if blank:
        warnings.append(f"{_pages(blank)} of {pages} without text (scanned?): not indexed")
    if broken:
        warnings.append(f"{_pages(broken)} of {pages} damaged: not indexed")
    return sections, warnings


def _pages(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    return f"page {shown}" if len(numbers) == 1 else f"{len(numbers)} pages ({shown})"


def _docx(file: Path) -> Parsed:
    import docx  # noqa: PLC0415  # 0.2 s that other kinds need not pay
    from docx.document import Document as DocxDocument  # noqa: PLC0415
    from docx.table import Table  # noqa: PLC0415

    try:
        document: DocxDocument = docx.Document(str(file))
    except Exception as error:  # python-docx raises zipfile, lxml and KeyErrors alike
        raise Unreadable(
            f"the file is not a readable Word document ({_said(error)}). Save it again as .docx."
        ) from error
    lines: list[str] = []
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            rows = (" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows)
            lines.append("\n".join(rows) + "\n\n")
            continue
        style = block.style.name if block.style is not None else ""
        level = _heading_level(style or "")
        # A text that looks like a heading but is none must not become one.
        text = block.text.replace("\n#", "\n\\#")
        if level and text.strip():
            lines.append(f"{'#' * level} {' '.join(text.split())}\n\n")
        else:
            lines.append(("\\" if text.startswith(("#", "```", "~~~")) else "") + text + "\n\n")
    return markdown("".join(lines)), []


def _heading_level(style: str) -> int:
    if style == "Title":
        return 1
    name, _, number = style.rpartition(" ")
    return min(6, int(number)) if name == "Heading" and number.isdigit() else 0


def _csv(delimiter: str) -> Callable[[Path], Parsed]:
    def read_csv(file: Path) -> Parsed:
        text, warnings = decode(file.read_bytes())
        csv.field_size_limit(len(text) + 1)
        used = _delimiter(text) if delimiter == "," else delimiter
        try:
            rows = [row for row in csv.reader(io.StringIO(text), delimiter=used) if any(map(str.strip, row))]
        except csv.Error as error:
            raise Unreadable(f"the file is not readable CSV: {error}") from error
        if len(rows) < 2:
            return [Section(text=text)], warnings
        header, *body = rows
        sections = []
        for start in range(0, len(body), _ROWS_A_SECTION):
            part = body[start : start + _ROWS_A_SECTION]
            place = f"rows {start + 1}-{start + len(part)}"
            sections.append(Section(text="\n\n".join(_row_text(header, row) for row in part), page=place))
        return sections, warnings

    return read_csv


def _delimiter(text: str) -> str:
    first = text.partition("\n")[0]
    return max(",;\t|", key=first.count) if any(sign in first for sign in ",;\t|") else ","


def _row_text(header: list[str], row: list[str]) -> str:
    names = header + [""] * (len(row) - len(header))
    return "\n".join(
        f"{name.strip()}: {value.strip()}" if name.strip() else value.strip()
        for name, value in zip(names, row + [""] * (len(header) - len(row)), strict=True)
        if value.strip() or name.strip()
    )


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


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


_READERS: dict[str, Callable[[Path], Parsed]] = {
    media.MARKDOWN: _by_outline(markdown),
    media.RST: _by_outline(restructured),
    media.HTML: _by_outline(html),
    media.TEXT: _plain,
    media.PDF: _pdf,
    media.DOCX: _docx,
    media.CSV: _csv(","),
    media.TSV: _csv("\t"),
    media.JSON: _json,
    media.JSON_LINES: _jsonl,
}
