"""What the library that opens Word files leaves out, and readers see."""

from pathlib import Path

import docx
import pptx
from docx.oxml import parse_xml
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Emu

from retrieval.core import media
from retrieval.parsing.formats import read
from tests.support.documents import zipfile_parts

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
MC = 'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
NOTES = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_fields_insertions_boxes_and_notes_are_read(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Contract", 1)
    body = document.element.body
    box = f"<w:txbxContent>{paragraph('in a box')}</w:txbxContent>"
    for xml in (
        f"<w:sdt {W}><w:sdtContent>{paragraph('in a field')}</w:sdtContent></w:sdt>",
        f"<w:p {W}><w:pPr><w:tabs><w:tab w:val='left'/></w:tabs></w:pPr><w:r><w:t>one</w:t><w:tab/></w:r>"
        "<w:ins><w:r><w:t>added</w:t></w:r></w:ins><w:del><w:r><w:delText>removed</w:delText></w:r></w:del>"
        "<w:sdt><w:sdtContent><w:r><w:br/><w:t>chosen</w:t></w:r></w:sdtContent></w:sdt></w:p>",
        f"<w:p {W} {MC}><w:r><w:t>beside</w:t><mc:AlternateContent><mc:Choice Requires='wps'>{box}"
        f"</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:r></w:p>",
    ):
        body.insert(len(body) - 1, parse_xml(xml))
    file = tmp_path / "a.docx"
    document.save(str(file))
    with zipfile_parts(file) as parts:
        parts["word/footnotes.xml"] = (
            f"<w:footnotes {W}><w:footnote>{paragraph('a note')}</w:footnote></w:footnotes>".encode()
        )
        rels = parts["word/_rels/document.xml.rels"].decode()
        relation = f'<Relationship Id="rId99" Type="{NOTES}" Target="footnotes.xml"/></Relationships>'
        parts["word/_rels/document.xml.rels"] = rels.replace("</Relationships>", relation).encode()
    sections, warnings = read(file, media.DOCX)
    assert [(section.location, section.text.strip()) for section in sections] == [
        ("Contract", "# Contract\n\nin a field\n\none\tadded\nchosen\n\nbeside\n\nin a box"),
        ("Footnotes", "# Footnotes\n\na note"),
    ]
    assert warnings == []


def test_charts_of_slides_are_named(tmp_path: Path) -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Sales"
    data = CategoryChartData()  # type: ignore[no-untyped-call]
    data.categories = ["spring"]
    data.add_series("sold", [1])  # type: ignore[no-untyped-call]
    size = Emu(100)
    slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, size, size, size, size, data)
    file = tmp_path / "a.pptx"
    deck.save(str(file))
    sections, warnings = read(file, media.PPTX)
    assert sections[0].text == "Sales"
    assert warnings == ["charts and diagrams are not read: slide 1"]
