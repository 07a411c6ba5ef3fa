"""Word and PowerPoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.core.chunking import Section
from retrieval.parsing.errors import Unreadable, numbered
from retrieval.parsing.markup import markdown
from retrieval.parsing.package import check_package, unreadable
from retrieval.parsing.tables import flowing

if TYPE_CHECKING:
    from docx.table import Table as DocxTable
    from docx.table import _Cell
    from pptx.slide import Slide
    from pptx.table import Table as PptxTable

_WORD = ("Word document", ".docx")
_SLIDES = ("PowerPoint presentation", ".pptx")
_MAX_NESTING = 20


def word(file: Path) -> tuple[list[Section], list[str]]:
    """Paragraphs and tables in their order, by heading."""
    import docx  # noqa: PLC0415  # 0.2 s that other kinds need not pay
    from docx.table import Table  # noqa: PLC0415

    check_package(file, kind=_WORD[0], suffix=_WORD[1]).close()
    try:
        document = docx.Document(str(file))
        blocks = document.iter_inner_content()
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # python-docx raises zipfile, lxml and KeyErrors alike
        raise unreadable(*_WORD, error) from error
    lines: list[str] = []
    for block in blocks:
        if isinstance(block, Table):
            lines.append("\n".join(_escaped(line) for line in flowing(_word_rows(block, 0))) + "\n\n")
            continue
        style = block.style.name if block.style is not None else ""
        level = _heading_level(style or "")
        if level and block.text.strip():
            lines.append(f"{'#' * level} {' '.join(block.text.split())}\n\n")
        else:
            lines.append("\n".join(_escaped(line) for line in block.text.split("\n")) + "\n\n")
    pictures = len(document.inline_shapes)
    warnings = [f"{numbered('picture', list(range(1, pictures + 1)))}: not read"] if pictures else []
    return markdown("".join(lines)), warnings


def _escaped(text: str) -> str:
    """A text that looks like a heading or a fence but is none must not become one."""
    return "\\" + text if text.lstrip().startswith(("#", "```", "~~~", "===", "---")) else text


def _heading_level(style: str) -> int:
    if style == "Title":
        return 1
    name, _, number = style.rpartition(" ")
    return min(6, int(number)) if name == "Heading" and number.isdigit() else 0


def _word_rows(table: "DocxTable", depth: int) -> list[list[str]]:
    if depth > _MAX_NESTING:
        raise Unreadable(f"the document has tables nested deeper than {_MAX_NESTING}; simplify it")
    rows = []
    for row in table.rows:
        cells: list[str] = []
        before = None
        for cell in row.cells:
            # A cell over several columns comes once for each of them.
            cells.append("" if cell._tc is before else _cell_text(cell, depth))
            before = cell._tc
        rows.append(cells)
    return rows


def _cell_text(cell: "_Cell", depth: int) -> str:
    nested = (" / ".join(flowing(_word_rows(table, depth + 1))) for table in cell.tables)
    return " ".join([cell.text, *nested])


def slides(file: Path) -> tuple[list[Section], list[str]]:
    """Title, text, tables and notes of each slide."""
    from pptx import Presentation  # noqa: PLC0415  # 0.3 s that other kinds need not pay

    check_package(file, kind=_SLIDES[0], suffix=_SLIDES[1]).close()
    try:
        found = list(Presentation(str(file)).slides)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # python-pptx raises zipfile, lxml and KeyErrors alike
        raise unreadable(*_SLIDES, error) from error
    sections: list[Section] = []
    silent: list[int] = []
    broken: list[int] = []
    for number, slide in enumerate(found, 1):
        try:
            title, text = _slide(slide)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001  # a damaged slide raises anything; the others may be fine
            broken.append(number)
            continue
        if text.strip():
            sections.append(Section(text=text, headings=(title,) if title else (), page=f"slide {number}"))
        else:
            silent.append(number)
    if broken and not sections:
        raise Unreadable(f"none of the {len(found)} slides could be read. Save it again as .pptx.")
    warnings = []
    if silent:
        warnings.append(f"{numbered('slide', silent)} of {len(found)} without text (pictures?): not indexed")
    if broken:
        warnings.append(f"{numbered('slide', broken)} of {len(found)} damaged: not indexed")
    return sections, warnings


def _slide(slide: "Slide") -> tuple[str, str]:
    titled = slide.shapes.title
    title = " ".join(titled.text_frame.text.split()) if titled is not None else ""
    parts = [title] if title else []
    parts += _shapes(slide.shapes, None if titled is None else titled.shape_id, 0)
    if slide.has_notes_slide:
        frame = slide.notes_slide.notes_text_frame
        notes = frame.text.strip() if frame is not None else ""
        if notes:
            parts.append(f"Notes: {notes}")
    return title, "\n\n".join(part.replace("\v", "\n") for part in parts)


def _shapes(shapes: object, skipped: int | None, depth: int) -> Iterator[str]:
    if depth > _MAX_NESTING:
        raise Unreadable(f"the presentation has groups nested deeper than {_MAX_NESTING}; simplify it")
    for shape in shapes:  # type: ignore[attr-defined]  # the library has no type that all kinds share
        if shape.shape_id == skipped:
            continue
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes, None, depth + 1)
        elif shape.has_text_frame and shape.text_frame.text.strip():
            yield shape.text_frame.text
        elif getattr(shape, "has_table", False):
            yield "\n".join(_slide_table(shape.table))


def _slide_table(table: "PptxTable") -> list[str]:
    rows = [["" if cell.is_spanned else cell.text for cell in row.cells] for row in table.rows]
    return flowing(rows, header=True if table.first_row else None)
