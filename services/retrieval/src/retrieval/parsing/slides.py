"""PowerPoint."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.core.chunking import Section
from retrieval.parsing.errors import Unreadable, numbered
from retrieval.parsing.package import check_package, unreadable
from retrieval.parsing.tables import flowing

if TYPE_CHECKING:
    from pptx.slide import Slide
    from pptx.table import Table as PptxTable

_SLIDES = ("PowerPoint presentation", ".pptx")
_MAX_NESTING = 20


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
    drawn: list[int] = []
    broken: list[int] = []
    for number, slide in enumerate(found, 1):
        try:
            title, text = _slide(slide)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001  # a damaged slide raises anything; the others may be fine
            broken.append(number)
            continue
        if _has_drawing(slide.shapes, 0):
            drawn.append(number)
        if text.strip():
            sections.append(Section(text=text, headings=(title,) if title else (), page=f"slide {number}"))
        else:
            silent.append(number)
    if broken and not sections:
        raise Unreadable(f"none of the {len(found)} slides could be read. Save it again as .pptx.")
    warnings = []
    if silent:
        warnings.append(f"{numbered('slide', silent)} of {len(found)} without text (pictures?): not indexed")
    if drawn:
        warnings.append(f"charts and diagrams are not read: {numbered('slide', drawn)}")
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


def _has_drawing(shapes: object, depth: int) -> bool:
    """A chart or a diagram: a frame that holds no table."""
    return any(
        _has_drawing(shape.shapes, depth + 1)
        if hasattr(shape, "shapes") and depth < _MAX_NESTING
        else shape._element.tag.endswith("}graphicFrame") and not getattr(shape, "has_table", False)
        for shape in shapes  # type: ignore[attr-defined]  # as above
    )


def _slide_table(table: "PptxTable") -> list[str]:
    rows = [["" if cell.is_spanned else cell.text for cell in row.cells] for row in table.rows]
    return flowing(rows, header=True if table.first_row else None)
