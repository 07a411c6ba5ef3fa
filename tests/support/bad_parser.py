"""`retrieval.parse` with readers for files whose first word says how the parser goes wrong."""

import contextlib
import ctypes
import os
import subprocess
import threading
from pathlib import Path

from retrieval import parse
from retrieval.core import media
from retrieval.core.chunking import Section
from retrieval.parsing import formats
from retrieval.parsing.text import decode


def _text(file: Path) -> tuple[list[Section], list[str]]:
    text, warnings = decode(file.read_bytes())
    match text.split()[0]:
        case "crash":
            ctypes.string_at(0)
        case "leave":
            os._exit(3)
        case "hang":
            threading.Event().wait()
        case "eat":
            eaten = [bytearray(1 << 20) for _ in range(100_000)]
            return [Section(text=str(len(eaten)))], []
        case "recurse":
            return _text(file)
        case "print":
            print("rubbish\n" * 1000, flush=True)  # noqa: T201
            os.write(1, b'{"chunks": []}\n' * 1000)
            subprocess.run(["/bin/echo", "more"], check=True)
        case "babble":  # it has found the descriptor of the answers
            _to_all(b"not json\n")
        case "half":
            _to_all(b'{"chunks": [')
            os._exit(0)
    return [Section(text=text)], warnings


def _to_all(data: bytes) -> None:
    for descriptor in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(descriptor, data)


formats.READERS[media.TEXT] = _text

if __name__ == "__main__":
    parse.main()
