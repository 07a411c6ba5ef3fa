"""What Word, PowerPoint and Excel files have in common: a zip of XML."""

import zipfile
from pathlib import Path

from retrieval.parsing.errors import Unreadable, said

_OLE = b"\xd0\xcf\x11\xe0"
# The reader holds a part as a tree, several times its size; pictures are not read.
_MAX_UNPACKED_BYTES = 256 * 1024 * 1024
_MAX_PARTS = 20_000
_READ = (".xml", ".rels")


def check_package(file: Path, *, kind: str, suffix: str) -> zipfile.ZipFile:
    """Opens it, unless reading it could not go well. The caller closes it.

    Args:
        kind: What people call such a file.
        suffix: What to save it as.

    Raises:
        Unreadable: It is no such file, protected, damaged, or a bomb.
    """
    with file.open("rb") as opened:
        beginning = opened.read(4)
    if beginning == _OLE:
        raise Unreadable(
            f"the {kind} is protected by a password, or of the format before 2007; "
            f"save it without a password as {suffix}"
        )
    try:
        package = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise unreadable(kind, suffix, error) from error
    try:
        # zipfile reads no more of a part than is declared here, so a lie gains nothing.
        parts = package.infolist()
        unpacked = sum(part.file_size for part in parts if part.filename.lower().endswith(_READ))
        if unpacked > _MAX_UNPACKED_BYTES or len(parts) > _MAX_PARTS:
            raise Unreadable(
                f"the {kind} unpacks to {unpacked // 1024 // 1024} MiB of XML in {len(parts)} parts; at most "
                f"{_MAX_UNPACKED_BYTES // 1024 // 1024} MiB and {_MAX_PARTS} parts are read. Split it.",
                reason="DOCUMENT_TOO_LARGE",
            )
    except BaseException:
        package.close()
        raise
    return package


def unreadable(kind: str, suffix: str, error: BaseException) -> Unreadable:
    """It is damaged, or something else under this name."""
    return Unreadable(f"the file is not a readable {kind} ({said(error)}). Save it again as {suffix}.")
