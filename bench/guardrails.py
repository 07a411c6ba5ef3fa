"""How often guardrails are wrong: texts that are harmless, and texts that are not.

    python bench/guardrails.py [--json FILE] [--texts FILE.json]

Harmless are the paragraphs of this repository's documents, and of --texts: a
JSON list of texts, or of objects with `text`. What they have of personal data is
shown by kind, for a person to judge; a prompt injection in them is a false one.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.guardrail_texts import ATTACKS, INNOCENT, PERSONAL
from orchestrator.core.guardrails import injection, pii

ROOT = Path(__file__).resolve().parent.parent
_CHUNK = 1500  # characters, about what a search returns as one chunk


def chunks(text: str) -> Iterator[str]:
    """Paragraphs put together to the size of a chunk."""
    chunk = ""
    for paragraph in text.split("\n\n"):
        if chunk and len(chunk) + len(paragraph) > _CHUNK:
            yield chunk
            chunk = ""
        chunk = f"{chunk}\n\n{paragraph}" if chunk else paragraph
    if chunk.strip():
        yield chunk


def documents() -> list[str]:
    """The repository's own."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*/README.md")]
    return [chunk for path in paths for chunk in chunks(path.read_text(encoding="utf-8"))]


def texts_of(path: Path) -> list[str]:
    """Texts out of a JSON file of any shape: every string of 200 characters and more."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            if len(value) >= 200:
                yield value
        elif isinstance(value, dict):
            for item in value.values():
                yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    return list(walk(json.loads(path.read_text(encoding="utf-8"))))


def rates(texts: Sequence[str]) -> dict[str, Any]:
    """Shares of texts in which something was found, and what it took."""
    pii.find("+49 170 1234567")  # loads the libraries
    began = time.perf_counter()
    personal = [{finding.kind for finding in pii.find(text)} for text in texts]
    between = time.perf_counter()
    suspicious = [{finding.kind for finding in injection.find(text)} for text in texts]
    ended = time.perf_counter()
    return {
        "texts": len(texts),
        "characters": sum(map(len, texts)),
        "pii_texts": sum(map(bool, personal)),
        "pii_kinds": dict(Counter(kind for kinds in personal for kind in kinds)),
        "injection_texts": sum(map(bool, suspicious)),
        "injection_kinds": dict(Counter(kind for kinds in suspicious for kind in kinds)),
        "pii_ms_per_text": round(1e3 * (between - began) / max(1, len(texts)), 3),
        "injection_ms_per_text": round(1e3 * (ended - between) / max(1, len(texts)), 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the rates."""
    parser = argparse.ArgumentParser(description="How often guardrails are wrong.")
    parser.add_argument("--texts", type=Path, help="harmless texts, as JSON")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    asked = parser.parse_args(arguments)
    out: dict[str, Any] = {"documents": rates(documents())}
    if asked.texts is not None:
        out["texts"] = rates(texts_of(asked.texts))
    out["innocent"] = {
        "texts": len(INNOCENT),
        "pii_texts": sum(bool(pii.find(text)) for text in INNOCENT),
        "injection_texts": sum(bool(injection.find(text)) for text in INNOCENT),
    }
    out["attacks"] = {"texts": len(ATTACKS), "found": sum(bool(injection.find(text)) for text in ATTACKS)}
    out["personal"] = {
        "texts": len(PERSONAL),
        "found": sum({finding.kind for finding in pii.find(text)} >= {kind} for text, kind in PERSONAL),
    }
    for name, figures in out.items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    if asked.json is not None:
        asked.json.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
