"""Real documents that every machine has: the project's docs, and the sources of Python's library."""

import hashlib
import random
import sysconfig
from itertools import chain
from pathlib import Path

_DOCS = Path(__file__).resolve().parents[2] / "docs"
_LEAST_BYTES = 400


def real_documents(count: int, *, seed: int = 1, max_bytes: int = 4_000) -> dict[str, bytes]:
    """Paths with texts, cut after whole lines. There are some 1,500; more are the next pieces of the same."""
    library = Path(sysconfig.get_paths()["stdlib"])
    sources = [p for p in sorted(library.rglob("*.py")) if "site-packages" not in p.parts]
    random.Random(seed).shuffle(sources)
    found: dict[str, bytes] = {}
    offset = 0
    while len(found) < count:
        before = len(found)
        for file in chain(sorted(_DOCS.rglob("*.md")), sources):
            text = _piece(file, offset, max_bytes)
            if len(text) >= _LEAST_BYTES:
                name = hashlib.sha256(f"{file}{offset}".encode()).hexdigest()[:6]
                found[f"{file.parent.name}/{file.stem}-{name}{file.suffix}"] = text
                if len(found) == count:
                    return found
        if len(found) == before:
            raise RuntimeError(f"this machine has only {before} texts")
        offset += max_bytes
    return found


def _piece(file: Path, offset: int, size: int) -> bytes:
    with file.open("rb") as source:
        source.seek(offset)
        data = source.read(size)
    try:
        text = data[: data.rfind(b"\n") + 1]
        text.decode()
    except UnicodeDecodeError:
        return b""
    return text if text.isascii() or offset == 0 else b""
