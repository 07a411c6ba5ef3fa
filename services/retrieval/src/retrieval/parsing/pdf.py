"""PDF, page by page."""

from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.core.chunking import Section
from retrieval.parsing.errors import Unreadable, numbered, said

if TYPE_CHECKING:
    from pypdf import PageObject, PdfReader

_MAX_PAGES = 20_000
_MAX_FORMS = 100  # looked through for a picture


def pdf(file: Path) -> tuple[list[Section], list[str]]:
    """The pages' text; pages without any are reported, for there is no text recognition here."""
    reader = _open(file)
    pages = len(reader.pages)
    if pages > _MAX_PAGES:
        raise Unreadable(
            f"the PDF has {pages} pages, at most {_MAX_PAGES} are read; split it", reason="DOCUMENT_TOO_LARGE"
        )
    sections: list[Section] = []
    scanned: list[int] = []
    blank: list[int] = []
    broken: list[int] = []
    for number in range(1, pages + 1):
        try:
            page = reader.pages[number - 1]
            text = page.extract_text()
            if text.strip():
                sections.append(Section(text=text.replace("\0", " "), page=f"page {number}"))
            else:
                (scanned if _has_picture(page) else blank).append(number)
        except (MemoryError, RecursionError):
            raise
        except Exception:  # noqa: BLE001  # pypdf raises anything on a damaged page; the others may be fine
            broken.append(number)
    if broken and not sections:
        raise Unreadable(f"none of the PDF's {pages} pages could be read. Save it again and upload the copy.")
    warnings = []
    if scanned:
        warnings.append(
            f"{numbered('page', scanned)} of {pages} with pictures and no text (scanned?): not indexed; "
            "run text recognition (OCR) and upload the result"
        )
    if blank:
        warnings.append(f"{numbered('page', blank)} of {pages} without text: not indexed")
    if broken:
        warnings.append(f"{numbered('page', broken)} of {pages} damaged: not indexed")
    return sections, warnings


def _open(file: Path) -> "PdfReader":
    from pypdf import PdfReader  # noqa: PLC0415  # 0.2 s that other kinds need not pay
    from pypdf.errors import PyPdfError  # noqa: PLC0415

    try:
        reader = PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("the PDF is protected by a password; upload a copy without one")
        len(reader.pages)
    except (PyPdfError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        raise Unreadable(
            f"the file is not a readable PDF ({said(error)}). Open it in a viewer and save it again."
        ) from error
    return reader


def _has_picture(page: "PageObject") -> bool:
    """By what the page refers to; decoding pictures to see them would cost far more."""
    waiting = [page.get("/Resources")]
    for _ in range(_MAX_FORMS):
        if not waiting:
            break
        resources = waiting.pop()
        objects = resources.get_object().get("/XObject") if resources is not None else None
        for reference in objects.get_object().values() if objects is not None else ():
            found = reference.get_object()
            if found.get("/Subtype") == "/Image":
                return True
            waiting.append(found.get("/Resources"))
    return False
