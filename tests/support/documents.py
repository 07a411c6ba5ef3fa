"""Small files for tests of the parsers."""

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from pypdf import PdfReader, PdfWriter


def pdf_with_pages(texts: list[str]) -> bytes:
    """A PDF with one line of text a page; an empty text makes an empty page."""
    count = len(texts)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(count))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {count} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(texts):
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Resources << /Font << /F1 3 0 R >> >> "
            f"/Contents {5 + 2 * number} 0 R >>"
        )
        stream = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET" if text else ""
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out = b"%PDF-1.4\n"
    offsets = []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    xref = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{offset:010d} 00000 n \n".encode() for offset in offsets)
    out += f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{xref}\n%%EOF\n".encode()
    return out


def scanned_pdf(texts: list[str]) -> bytes:
    """A PDF of one picture a page, with a line of text where there is one."""
    picture = Image.new("L", (20, 20), 200)
    scans = io.BytesIO()
    picture.save(scans, "PDF", save_all=True, append_images=[picture] * (len(texts) - 1))
    writer = PdfWriter(clone_from=PdfReader(scans))
    for page, text in zip(writer.pages, texts, strict=True):
        if text:
            page.merge_page(PdfReader(io.BytesIO(pdf_with_pages([text]))).pages[0])
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def zipped(parts: dict[str, bytes]) -> bytes:
    """A zip of these parts."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as package:
        for name, data in parts.items():
            package.writestr(name, data)
    return out.getvalue()


@contextmanager
def zipfile_parts(file: Path) -> Iterator[dict[str, bytes]]:
    """The parts of a zip; what is changed in the block is written back."""
    with zipfile.ZipFile(file) as package:
        parts = {name: package.read(name) for name in package.namelist()}
    yield parts
    file.write_bytes(zipped(parts))
