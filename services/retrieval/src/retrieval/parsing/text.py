"""Bytes to text."""

import codecs

from charset_normalizer import from_bytes

from retrieval.parsing.errors import Unreadable

# UTF-32 first: its little-endian mark begins with that of UTF-16.
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SAMPLE_BYTES = 256 * 1024
_MAX_CONTROL_SHARE = 0.02
_USUAL_CONTROLS = "\t\n\r\f\v\x1b\x85"


def decode(data: bytes) -> tuple[str, list[str]]:
    """The text, and warnings if the encoding had to be guessed.

    Raises:
        Unreadable: It is not text in any encoding that we know.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            try:
                return _clean(data.decode(encoding)), []
            except UnicodeDecodeError as error:
                raise Unreadable(
                    f"the file begins with the mark of {encoding} but is not {encoding}: byte {error.start} "
                    "is wrong. Save it as UTF-8 and upload it again."
                ) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        return _guess(data, error)
    if _looks_binary(text):
        raise Unreadable(
            "the file holds binary data, not text (tried: UTF-8). If it is text in another encoding, save it "
            "as UTF-8 and upload it again."
        )
    return _clean(text), []


def _guess(data: bytes, error: UnicodeDecodeError) -> tuple[str, list[str]]:
    best = None
    if b"\0" not in data[:_SAMPLE_BYTES]:
        best = from_bytes(data[:_SAMPLE_BYTES]).best()
    if best is not None:
        try:
            text = data.decode(best.encoding)
        except (UnicodeDecodeError, LookupError):
            best = None
        else:
            if not _looks_binary(text):
                return _clean(text), [
                    f"the encoding was guessed as {best.encoding}: byte {error.start} is not UTF-8"
                ]
    raise Unreadable(
        f"the file's text cannot be decoded: it is not UTF-8 (byte {error.start}), has no byte order mark, "
        "and no other encoding gives sensible text. Save it as UTF-8 and upload it again."
    )


def _looks_binary(text: str) -> bool:
    sample = text[:_SAMPLE_BYTES]
    controls = sum(1 for c in sample if (c < " " or "\x7f" <= c < "\xa0") and c not in _USUAL_CONTROLS)
    return controls > _MAX_CONTROL_SHARE * len(sample)


def _clean(text: str) -> str:
    """One kind of line end, and no NUL, which databases and indexes refuse."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", " ")
