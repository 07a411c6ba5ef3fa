"""Word, PowerPoint and Excel files made by the libraries that people make them with."""

import datetime
import io
from collections.abc import Callable
from pathlib import Path

import docx
import pptx
import pytest
import xlsxwriter
from docx.shared import Inches
from PIL import Image
from pptx.util import Emu

from retrieval.core import media
from retrieval.core.chunking import Section
from retrieval.parsing.errors import Unreadable
from retrieval.parsing.formats import read
from retrieval.parsing.web import html
from tests.support.documents import pdf_with_pages, scanned_pdf, zipfile_parts, zipped

OFFICE = {"a.docx": media.DOCX, "a.pptx": media.PPTX, "a.xlsx": media.XLSX}


def picture() -> io.BytesIO:
    out = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(out, "PNG")
    out.seek(0)
    return out


def places(sections: list[Section]) -> list[tuple[str, str]]:
    return [(section.location, section.text.strip()) for section in sections]


def refusal(file: Path, data: bytes, kind: str) -> Unreadable:
    file.write_bytes(data)
    with pytest.raises(Unreadable) as caught:
        read(file, kind)
    return caught.value


def test_word_tables_keep_the_names_of_their_columns(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Parts", 1)
    table = document.add_table(rows=3, cols=3)
    for row, texts in enumerate([("Part", "Size", "Note"), ("bolt", "M4", "steel\nzinc"), ("nut", "", "x")]):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    table.cell(2, 1).merge(table.cell(2, 2))
    nested = table.cell(1, 0).add_table(rows=1, cols=1)
    nested.cell(0, 0).text = "inner"
    document.add_picture(picture(), width=Inches(1))
    file = tmp_path / "a.docx"
    document.save(str(file))
    sections, warnings = read(file, media.DOCX)
    assert places(sections) == [
        ("Parts", "# Parts\n\nPart: bolt inner | Size: M4 | Note: steel zinc\nPart: nut | Size: x")
    ]
    assert warnings == ["picture 1: not read"]


def test_slides(tmp_path: Path) -> None:
    deck = pptx.Presentation()
    first = deck.slides.add_slide(deck.slide_layouts[1])
    first.shapes.title.text = "Prices"
    first.placeholders[1].text = "All in euro"
    box = (Emu(0), Emu(0), Emu(100), Emu(100))
    table = first.shapes.add_table(2, 2, *box).table
    for row, texts in enumerate([("Part", "Price"), ("bolt", "0.20")]):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    group = first.shapes.add_group_shape()
    group.shapes.add_textbox(*box).text_frame.text = "inside a group"
    first.notes_slide.notes_text_frame.text = "say it slowly"
    deck.slides.add_slide(deck.slide_layouts[6]).shapes.add_picture(picture(), *box[:2])
    file = tmp_path / "a.pptx"
    deck.save(str(file))
    sections, warnings = read(file, media.PPTX)
    assert places(sections) == [
        (
            "slide 1: Prices",
            "Prices\n\nAll in euro\n\nPart: bolt | Price: 0.20\n\ninside a group\n\nNotes: say it slowly",
        )
    ]
    assert warnings == ["slide 2 of 2 without text (pictures?): not indexed"]


def workbook(file: Path, fill: Callable[[xlsxwriter.Workbook], None]) -> Path:
    with xlsxwriter.Workbook(str(file)) as book:
        fill(book)
    return file


def test_sheets_keep_names_beside_values_and_say_the_rows(tmp_path: Path) -> None:
    def fill(book: xlsxwriter.Workbook) -> None:
        sheet = book.add_worksheet("Prices {x}")
        sheet.write(0, 0, "Prices of spring")
        day = book.add_format({"num_format": "yyyy-mm-dd"})
        for column, name in enumerate(["Part", "Price", "Since", "Sold"]):
            sheet.write(2, column, name)
        for row in range(3, 63):
            sheet.write(row, 0, f"bolt {row}")
            sheet.write(row, 1, row / 4)
            sheet.write_datetime(row, 2, datetime.datetime(2024, 1, 2), day)
            sheet.write(row, 3, row % 2 == 0)
        sheet.write_formula(63, 1, "=SUM(B4:B63)", None, 495)
        book.add_worksheet("Empty")
        names = book.add_worksheet("Names")
        names.write_row(4, 2, ["only", "names"])
        secret = book.add_worksheet("Secret")
        secret.write(0, 0, "hidden")
        secret.hide()

    sections, warnings = read(workbook(tmp_path / "a.xlsx", fill), media.XLSX)
    assert places(sections)[0] == ("Prices {x}!1:1", "Prices of spring")
    rows = sections[1:-1]
    assert rows[0].location.startswith("Prices {x}!4:")
    assert rows[0].text.startswith(
        "Part: bolt 3\nPrice: 0.75\nSince: 2024-01-02\nSold: FALSE\n\nPart: bolt 4\nPrice: 1\n"
    )
    assert rows[-1].location.endswith(":64")
    assert rows[-1].text.endswith("\n\nPrice: 495")
    assert len(rows) > 1
    assert places(sections)[-1] == ("Names!5:5", "only\nnames")
    assert warnings == ["hidden sheets are left out: Secret"]


def test_a_cell_far_off_is_named(tmp_path: Path) -> None:
    def fill(book: xlsxwriter.Workbook) -> None:
        book.add_worksheet().write(1048575, 16383, "far")

    file = workbook(tmp_path / "a.xlsx", fill)
    with pytest.raises(Unreadable, match="reaches to cell XFD1048576") as caught:
        read(file, media.XLSX)
    assert caught.value.reason == "DOCUMENT_TOO_LARGE"


@pytest.fixture(scope="module")
def bomb() -> bytes:
    return zipped({"word/document.xml": b" " * (257 << 20)})


@pytest.mark.parametrize("name", OFFICE)
def test_damaged_protected_and_empty_files_say_what_is_wrong(name: str, bomb: bytes, tmp_path: Path) -> None:
    file, kind, suffix = tmp_path / name, OFFICE[name], name[1:]
    assert f"Save it again as {suffix}" in refusal(file, b"PK\x03\x04 not really", kind).message
    assert f"Save it again as {suffix}" in refusal(file, zipped({"a.xml": b"<a/>"}), kind).message
    assert "password" in refusal(file, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, kind).message
    too_large = refusal(file, bomb, kind)
    assert too_large.reason == "DOCUMENT_TOO_LARGE"
    assert "257 MiB" in too_large.message
    empty: dict[str, Callable[[], object]] = {
        "a.docx": lambda: docx.Document().save(str(file)),
        "a.pptx": lambda: pptx.Presentation().save(str(file)),
        "a.xlsx": lambda: workbook(file, lambda book: None),
    }
    empty[name]()
    whole = file.read_bytes()
    assert refusal(file, whole, kind).reason == "DOCUMENT_EMPTY"
    assert "Save it again" in refusal(file, whole[: len(whole) // 2], kind).message


def test_xml_bombs_do_not_unfold(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
    bomb = f'<!DOCTYPE a [<!ENTITY e0 "lol">{entities}]><a>&e12;</a>'.encode()
    files: dict[str, tuple[str, Callable[[Path], object]]] = {
        "a.docx": ("word/document.xml", lambda file: docx.Document().save(str(file))),
        "a.pptx": ("ppt/presentation.xml", lambda file: pptx.Presentation().save(str(file))),
        "a.xlsx": ("xl/workbook.xml", lambda file: workbook(file, lambda book: None)),
    }
    for name, (part, save) in files.items():
        file = tmp_path / name
        save(file)
        with zipfile_parts(file) as parts:
            parts[part] = bomb
        with pytest.raises(Unreadable):
            read(file, OFFICE[name])


def test_scanned_pages_are_told_from_blank_ones(tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(scanned_pdf(["", "some words", ""]))
    sections, warnings = read(file, media.PDF)
    assert places(sections) == [("page 2", "some words")]
    assert warnings == [
        "2 pages (1, 3) of 3 with pictures and no text (scanned?): not indexed; run text recognition (OCR) "
        "and upload the result"
    ]
    scan = refusal(file, scanned_pdf(["", ""]), media.PDF)
    assert scan.reason == "DOCUMENT_EMPTY"
    assert "OCR" in scan.message
    whole = pdf_with_pages(["some words"] * 3)
    assert "readable PDF" in refusal(file, whole[:100], media.PDF).message


def test_html_tables_with_names() -> None:
    page = (
        "<title>T</title><table><caption>Parts</caption><thead><tr><th>Part<th colspan=2>Size</thead>"
        "<tr><td><p>bolt</p><td>M4<td>M5<tr><td>nut<table><tr><th>in<td>side</table><td><h2>M6</h2></table>"
        "<p>after</p><table><tr><th>k</th><td>v</td></tr></table><table><tr><td>a<h2>Real</h2>b</table>"
    )
    assert places(html(page)) == [
        ("", "Parts\nPart: bolt | Size: M4 | Size: M5\nPart: nut in side | Size: M6\n\nafter\n\nk | v\n\na"),
        ("Real", "Real\nb"),
    ]


@pytest.mark.parametrize("file", sorted(Path("/usr/share/doc").glob("*/*.pdf"))[:3], ids=lambda f: f.name)
def test_real_pdfs_of_this_machine(file: Path) -> None:
    sections, warnings = read(file, media.PDF)
    assert len(sections) > 5
    assert all(section.page.startswith("page ") for section in sections)
    assert not [warning for warning in warnings if "damaged" in warning]
