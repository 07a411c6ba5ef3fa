"""Word.

python-docx opens the package and knows the styles. The text is read from the
XML itself: the library's own leaves out form fields, tracked insertions, text
boxes and notes without a word.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.core.chunking import Section
from retrieval.parsing.errors import Unreadable, numbered
from retrieval.parsing.markup import markdown
from retrieval.parsing.package import check_package, unreadable
from retrieval.parsing.tables import flowing

if TYPE_CHECKING:
    from docx.document import Document

_KIND = ("Word document", ".docx")
_MAX_NESTING = 20
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_PARAGRAPH, _TABLE, _ROW, _CELL, _RUN, _BOX = (
    f"{_W}{name}" for name in ("p", "tbl", "tr", "tc", "r", "txbxContent")
)
# What is written once more for older programs.
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_SIGNS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
_NOTES = {"footnotes": "Footnotes", "endnotes": "Endnotes"}


def word(file: Path) -> tuple[list[Section], list[str]]:
    """Paragraphs, tables and text boxes in their order, by heading; then the notes."""
    import docx  # noqa: PLC0415  # 0.2 s that other kinds need not pay

    check_package(file, kind=_KIND[0], suffix=_KIND[1]).close()
    try:
        document = docx.Document(str(file))
        body = document.element.body
        pictures = len(document.inline_shapes)
        styles = {style.style_id: style.name or "" for style in document.styles}
        lines = [*_lines(body, styles), *_notes(document)]
    except (MemoryError, RecursionError, Unreadable):
        raise
    except Exception as error:  # python-docx raises zipfile, lxml and KeyErrors alike
        raise unreadable(*_KIND, error) from error
    warnings = [f"{numbered('picture', list(range(1, pictures + 1)))}: not read"] if pictures else []
    return markdown("".join(lines)), warnings


def _lines(body: Any, styles: dict[str, str]) -> Iterator[str]:
    for block in _blocks(body):
        if block.tag == _TABLE:
            yield "\n".join(_escaped(line) for line in flowing(_rows(block, 0))) + "\n\n"
            continue
        text = _text(block)
        style = block.find(f"{_W}pPr/{_W}pStyle")
        level = _heading_level(styles.get(style.get(f"{_W}val"), "") if style is not None else "")
        if level and text.strip():
            yield f"{'#' * level} {' '.join(text.split())}\n\n"
        else:
            yield "\n".join(_escaped(line) for line in text.split("\n")) + "\n\n"
        for box in block.iter(_BOX):
            if not _inside(box, _FALLBACK, block):
                yield from _lines(box, styles)


def _blocks(parent: Any) -> Iterator[Any]:
    """Paragraphs and tables, also those in form fields and tracked insertions."""
    for child in parent.iterchildren():
        if child.tag in (_PARAGRAPH, _TABLE):
            yield child
        elif child.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml", f"{_W}moveTo"):
            yield from _blocks(child)


def _text(paragraph: Any) -> str:
    """What a reader sees of it: what was deleted is no `t`."""
    parts = []
    for node in paragraph.iter(f"{_W}t", *_SIGNS):
        # A tab in a paragraph's settings is no tab in its text.
        if node.getparent().tag == _RUN and not _inside(node, _BOX, paragraph):
            parts.append(_SIGNS.get(node.tag) or node.text or "")
    return "".join(parts)


def _inside(node: Any, tag: str, top: Any) -> bool:
    """Whether one of this tag is around it, below the top."""
    for around in node.iterancestors():
        if around is top:
            return False
        if around.tag == tag:
            return True
    return False


def _escaped(text: str) -> str:
    """A text that looks like a heading or a fence but is none must not become one."""
    return "\\" + text if text.lstrip().startswith(("#", "```", "~~~", "===", "---")) else text


def _heading_level(style: str) -> int:
    if style == "Title":
        return 1
    name, _, number = style.rpartition(" ")
    return min(6, int(number)) if name.lower() == "heading" and number.isdigit() else 0


def _rows(table: Any, depth: int) -> list[list[str]]:
    if depth > _MAX_NESTING:
        raise Unreadable(f"the document has tables nested deeper than {_MAX_NESTING}; simplify it")
    rows = []
    for row in table.iterchildren(_ROW):
        cells: list[str] = []
        for cell in row.iter(_CELL):
            if _inside(cell, _CELL, row):
                continue
            span = cell.find(f"{_W}tcPr/{_W}gridSpan")
            columns = int(span.get(f"{_W}val") or 1) if span is not None else 1
            cells += [_cell_text(cell, depth), *[""] * (min(columns, 63) - 1)]
        rows.append(cells)
    return rows


def _cell_text(cell: Any, depth: int) -> str:
    texts = []
    for block in _blocks(cell):
        if block.tag == _TABLE:
            texts.append(" / ".join(flowing(_rows(block, depth + 1))))
        else:
            texts += [_text(block), *(_text(inner) for box in block.iter(_BOX) for inner in _blocks(box))]
    return " ".join(texts)


def _notes(document: "Document") -> Iterator[str]:
    """python-docx does not know them; their parts are XML like any other."""
    from lxml import etree  # noqa: PLC0415  # with docx

    for relation in document.part.rels.values():
        kind = relation.reltype.rpartition("/")[2]
        if kind not in _NOTES or relation.is_external:
            continue
        parser = etree.XMLParser(resolve_entities=False, no_network=True)
        root = etree.fromstring(relation.target_part.blob, parser)
        texts = [text for text in (_text(paragraph) for paragraph in root.iter(_PARAGRAPH)) if text.strip()]
        if texts:
            yield f"# {_NOTES[kind]}\n\n" + "\n\n".join(map(_escaped, texts)) + "\n\n"
