"""What kind of file an upload is, by its name and its first bytes."""

from pathlib import PurePosixPath

MARKDOWN = "text/markdown"
TEXT = "text/plain"
RST = "text/x-rst"
SOURCE = "text/x-source-code"
HTML = "text/html"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
CSV = "text/csv"
TSV = "text/tab-separated-values"
JSON = "application/json"
JSON_LINES = "application/jsonl"

SUPPORTED = (
    "txt, md, rst, html, pdf, docx, pptx, xlsx, csv, tsv, json, jsonl, source code "
    "and other files of plain text"
)

_BY_SUFFIX = {
    ".md": MARKDOWN,
    ".markdown": MARKDOWN,
    ".mdx": MARKDOWN,
    ".txt": TEXT,
    ".text": TEXT,
    ".log": TEXT,
    ".rst": RST,
    ".html": HTML,
    ".htm": HTML,
    ".xhtml": HTML,
    ".pdf": PDF,
    ".docx": DOCX,
    ".docm": DOCX,
    ".pptx": PPTX,
    ".pptm": PPTX,
    ".ppsx": PPTX,
    ".xlsx": XLSX,
    ".xlsm": XLSX,
    ".csv": CSV,
    ".tsv": TSV,
    ".json": JSON,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
}
_SOURCE_SUFFIXES = (
    "bash c cc cjs clj cpp cs cxx dart erl ex exs go gradle groovy h hh hpp hs java jl js jsx kt kts lua m "
    "mjs ml nim php pl pm proto ps1 py pyi r rb rs scala sh sol sql swift tf ts tsx v vb vue zig zsh"
)
_BY_SUFFIX |= {f".{suffix}": SOURCE for suffix in _SOURCE_SUFFIXES.split()}
# Kinds that nobody can mean as text, and that some decoder might still accept.
_MAGIC = (
    b"PK\x03\x04",
    b"\x7fELF",
    b"\x89PNG",
    b"GIF8",
    b"\xff\xd8\xff",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"\xd0\xcf\x11\xe0",
    b"MZ\x90",
    b"RIFF",
    b"OggS",
    b"ID3",
    b"SQLite format 3",
)
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def media_type(path: str, beginning: bytes) -> str | None:
    """The kind of file, or None if it is none that can be read.

    A known suffix decides, so that a broken PDF is a broken PDF. Any other name is read as
    text if its first bytes could be.
    """
    known = _BY_SUFFIX.get(PurePosixPath(path).suffix.lower())
    if known is not None:
        return known
    if beginning.startswith(b"%PDF-"):
        return PDF
    if beginning.startswith(_MAGIC):
        return None
    if b"\0" in beginning and not beginning.startswith(_WIDE_BOMS):
        return None
    return TEXT
