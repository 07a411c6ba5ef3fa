"""Writes the tables of docs/telemetry.md from docs/telemetry.yaml. `--check` compares instead of writing."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
PAGE = HERE / "telemetry.md"
_BEGIN, _END = "<!-- {}: made from telemetry.yaml -->\n\n", "\n<!-- end of {} -->\n"


def metrics(schema: dict[str, Any]) -> Iterator[str]:
    """The table of metrics."""
    yield "| metric | type | labels | of | what |"
    yield "|---|---|---|---|---|"
    for name, entry in schema["metrics"].items():
        labels = ", ".join(f"`{label}`" for label in entry.get("labels", ()))
        services = ", ".join(entry["services"])
        yield f"| `{name}` | {entry['type']} | {labels} | {services} | {entry['description']} |"


def labels(schema: dict[str, Any]) -> Iterator[str]:
    """The table of labels."""
    yield "| label | holds |"
    yield "|---|---|"
    for name, entry in schema["labels"].items():
        values = ": " + ", ".join(f"`{value}`" for value in entry["values"]) if "values" in entry else ""
        most = f"; beyond the first {entry['most']} of a process `other`" if "most" in entry else ""
        yield f"| `{name}` | {entry['description']}{values}{most} |"


def spans(schema: dict[str, Any]) -> Iterator[str]:
    """The table of spans."""
    yield "| span | of | attributes | what |"
    yield "|---|---|---|---|"
    for name, entry in schema["spans"].items():
        attributes = ", ".join(f"`{attribute}`" for attribute in entry.get("attributes", ()))
        yield f"| `{name}` | {', '.join(entry['services'])} | {attributes} | {entry['description']} |"


def attributes(schema: dict[str, Any]) -> Iterator[str]:
    """The table of attributes, with those that every span has first."""
    yield "| attribute | holds |"
    yield "|---|---|"
    for name, text in (schema["common_attributes"] | schema["attributes"]).items():
        yield f"| `{name}` | {text} |"


TABLES = {"metrics": metrics, "labels": labels, "spans": spans, "attributes": attributes}


def page(text: str, schema: dict[str, Any]) -> str:
    """The page with its tables as they should be."""
    for name, table in TABLES.items():
        begin, end = _BEGIN.format(name), _END.format(name)
        if begin not in text:
            continue
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = before + begin + "\n".join(table(schema)) + "\n" + end + after
    return text


def main() -> None:
    """Writes, or compares."""
    written = PAGE.read_text()
    wanted = page(written, yaml.safe_load((HERE / "telemetry.yaml").read_text()))
    if "--check" in sys.argv[1:]:
        if written != wanted:
            sys.exit("docs/telemetry.md is not what telemetry.yaml says: run python docs/document.py")
    else:
        PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
