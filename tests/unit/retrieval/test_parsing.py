import csv
import io
from pathlib import Path

import docx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfWriter

from retrieval.core import media
from retrieval.core.chunking import Section
from retrieval.parsing.errors import Unreadable
from retrieval.parsing.formats import read
from retrieval.parsing.markup import markdown, restructured
from retrieval.parsing.text import decode
from retrieval.parsing.web import html
from tests.support.documents import pdf_with_pages


def places(sections: list[Section]) -> list[tuple[str, str]]:
    return [(section.location, section.text) for section in sections]


@pytest.mark.parametrize(
    ("path", "beginning", "expected"),
    [
        ("a/B.MD", b"", media.MARKDOWN),
        ("notes", b"plain words", media.TEXT),
        ("main.py", b"import os", media.SOURCE),
        ("setup.cfg", b"[a]", media.TEXT),
        ("unnamed", b"%PDF-1.7", media.PDF),
        ("broken.pdf", b"no pdf at all", media.PDF),
        ("picture.png", b"\x89PNG\r\n", None),
        ("archive.zip", b"PK\x03\x04", None),
        ("program", b"\x00\x01\x02", None),
        ("wide", "text".encode("utf-16"), media.TEXT),
    ],
)
def test_media_type(path: str, beginning: bytes, expected: str | None) -> None:
    assert media.media_type(path, beginning) == expected


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_unicode_encodings_are_read_without_a_word(encoding: str) -> None:
    assert decode("Grüße, 世界\r\n".encode(encoding)) == ("Grüße, 世界\n", [])


def test_a_guessed_encoding_is_a_warning() -> None:
    text = "Die Straße führt über die Brücke, und das Mädchen hört schöne Vögel. " * 20
    decoded, warnings = decode(text.encode("cp1252"))
    assert decoded == text
    assert "guessed" in warnings[0]


@pytest.mark.parametrize(
    "data", [bytes(range(256)) * 50, b"\x00\x01\x02\x03 words" * 100, b"\xff\xfe\x00\xd8\x41"]
)
def test_binary_data_is_refused_with_what_was_tried(data: bytes) -> None:
    with pytest.raises(Unreadable, match=r"UTF-8|utf-16"):
        decode(data)


@given(data=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_text_or_refused(data: bytes) -> None:
    try:
        text, _ = decode(data)
    except Unreadable:
        return
    assert "\0" not in text


def test_markdown_headings_but_not_those_in_code() -> None:
    text = "intro\n# One\na\n```sh\n# no heading\n```\nTwo\n---\nb\n### Deep ##\nc\n# Last\n"
    assert places(markdown(text)) == [
        ("", "intro\n"),
        ("One", "# One\na\n```sh\n# no heading\n```\n"),
        ("One > Two", "Two\n---\nb\n"),
        ("One > Two > Deep", "### Deep ##\nc\n"),
        ("Last", "# Last\n"),
    ]


@given(text=st.text(st.sampled_from("# -=`~a\n|>"), max_size=80))
@settings(max_examples=150, deadline=None)
def test_markup_loses_no_line(text: str) -> None:
    assert "".join(s.text for s in markdown(text)) == text
    assert "".join(s.text for s in restructured(text)) == text


def test_restructured_titles() -> None:
    text = "=====\nTitle\n=====\n\nintro\n\nPart\n----\n\nbody\n\nSub\n~~~\nmore\n"
    assert [s.location for s in restructured(text)] == ["Title", "Title > Part", "Title > Part > Sub"]


def test_html_shows_what_a_reader_sees() -> None:
    page = (
        "<head><title>T</title><style>p{}</style></head><body><h1>Top &amp; more</h1><p>First "
        "<b>bold</b>\n text<script>evil()</script></p><h2>Sub<h2>Next</h2><ul><li>one<li>two</ul>"
        "<table><tr><td>a</td><td>b</td></tr></table><img alt='a fox'>"
    )
    sections = html(page)
    text = "".join(section.text for section in sections)
    assert "First bold text\n" in text
    assert "one\ntwo\n" in text
    assert "a | b" in text
    assert "a fox" in text
    assert "evil" not in text
    assert "p{}" not in text
    assert sections[0].headings == ("Top & more",)


def test_pdf_pages_without_text_are_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "a.pdf"
    file.write_bytes(pdf_with_pages(["Hello from page one", "", "And page three"]))
    sections, warnings = read(file, media.PDF)
    assert [(s.page, s.text.strip()) for s in sections] == [
        ("page 1", "Hello from page one"),
        ("page 3", "And page three"),
    ]
    assert warnings == ["page 2 of 3 without text: not indexed"]


def test_bad_pdfs_say_what_is_wrong(tmp_path: Path) -> None:
    whole = pdf_with_pages(["Hello"])
    locked = PdfWriter(clone_from=io.BytesIO(whole))
    locked.encrypt("secret")
    buffer = io.BytesIO()
    locked.write(buffer)
    for data, message in (
        (b"no pdf at all", "not a readable PDF"),
        (whole[: len(whole) // 3], "not a readable PDF"),
        (pdf_with_pages(["", ""]), "scanned"),
        (buffer.getvalue(), "password"),
    ):
        file = tmp_path / "bad.pdf"
        file.write_bytes(data)
        with pytest.raises(Unreadable, match=message):
            read(file, media.PDF)


def test_word_documents_keep_headings_and_tables_in_order(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Manual", 1)
    document.add_paragraph("# not a heading")
    document.add_heading("Parts", 2)
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "bolt", "M4"
    document.add_paragraph("after the table")
    file = tmp_path / "a.docx"
    document.save(str(file))
    sections, _ = read(file, media.DOCX)
    assert [section.location for section in sections] == ["Manual", "Manual > Parts"]
    assert sections[1].text.index("bolt | M4") < sections[1].text.index("after the table")
    file.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(Unreadable, match="Word"):
        read(file, media.DOCX)


def test_tables_and_json_keep_names_beside_values(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("name;city\nAda;London\n\nBob;\n")
    sections, _ = read(file, media.CSV)
    assert places(sections) == [("rows 1-2", "name: Ada\ncity: London\n\nname: Bob\ncity: ")]
    file.write_text('{"a": {"b": [1, "x"]}, "c": null}')
    assert read(file, media.JSON)[0][0].text == "a.b[0]: 1\na.b[1]: x\nc: null"
    file.write_text("{broken")
    sections, warnings = read(file, media.JSON)
    assert sections[0].text == "{broken"
    assert "not valid JSON" in warnings[0]
    file.write_text("[" * 100_000 + "]" * 100_000)
    assert "plain text" in read(file, media.JSON)[1][0]
    file.write_text('{"q": "one"}\n\n{"q": "two"}\n')
    assert places(read(file, media.JSON_LINES)[0]) == [("line 1", "q: one"), ("line 3", "q: two")]


def test_white_space_only_is_empty(tmp_path: Path) -> None:
    file = tmp_path / "blank.txt"
    file.write_text(" \n\t\n")
    with pytest.raises(Unreadable) as caught:
        read(file, media.TEXT)
    assert caught.value.reason == "DOCUMENT_EMPTY"


def test_a_small_csv_leaves_room_for_the_other_readers_of_the_process(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    file = tmp_path / "small.csv"
    file.write_text("name,age\nAda,36\n")
    read(file, media.CSV)
    assert csv.field_size_limit() >= before
