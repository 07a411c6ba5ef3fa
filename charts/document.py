"""Writes charts/agentteams/{values.schema.json,README.md} from the comments of values.yaml.

A value's comment is the lines right above it. Lines of it that begin with @ say what the default cannot:
`@enum A|B`, `@min N`, `@free` (any object or list below; its fields are Kubernetes' own). A value without a
comment is an error, so is one that nothing documents. `--check` compares instead of writing.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "agentteams"
# Sections of the same shape: their name says what they are.
_SECTIONS = {
    "image": "Images.",
    "identity": "What services trust one another by.",
    "gateway": "The HTTP door.",
    "session": "Sessions and runs.",
    "retrieval": "Searches.",
    "ingest": "Indexing of documents.",
    "embedding": "Texts to vectors.",
    "evaluation": "Scores of runs that have ended.",
    "operator": "Reconciles the custom resources.",
    "orchestrator": "Runs teams, in pods of the teams' namespaces that the operator makes.",
    "database": "Postgres.",
    "milvus": "Vectors.",
    "originals": "Uploaded files.",
    "metrics": "For Prometheus.",
    "traces": "Which traces are kept, with otlpEndpoint.",
    "networkPolicies": "Who may call whom.",
    "autoscaling": "How many pods run.",
    "builtin": "The installation's own model: what `provider: BuiltIn` means.",
    "external": "With database.type External.",
}


class Undocumented(Exception):
    """A value has no comment."""


@dataclass(slots=True)
class Value:
    """One value of values.yaml."""

    path: tuple[str, ...]
    default: Any
    text: str
    directives: dict[str, str] = field(default_factory=dict)

    @property
    def is_section(self) -> bool:
        return isinstance(self.default, dict) and bool(self.default) and "free" not in self.directives


def values(text: str) -> list[Value]:
    """All values with their comments, in the order of the file.

    Raises:
        Undocumented: Names the value.
    """
    lines = text.splitlines()
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return list(_walk(root, yaml.safe_load(text), (), lines))


def _walk(node: yaml.MappingNode, data: Any, path: tuple[str, ...], lines: list[str]) -> Iterator[Value]:
    for key, child in node.value:
        name = key.value
        comment = _comment(lines, key.start_mark.line)
        directives = {
            word: rest.strip() for word, _, rest in (c[1:].partition(" ") for c in comment if c[:1] == "@")
        }
        words = " ".join(c for c in comment if c[:1] != "@")
        value = Value((*path, name), data[name], words, directives)
        if not value.text and value.is_section:
            value.text = _SECTIONS.get(name, "")
        if not value.text:
            raise Undocumented(
                f"values.yaml:{key.start_mark.line + 1}: {'.'.join(value.path)} has no comment"
            )
        yield value
        if value.is_section:
            yield from _walk(child, data[name], value.path, lines)


def _comment(lines: list[str], line: int) -> list[str]:
    found: list[str] = []
    while line > 0 and lines[line - 1].strip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].strip().lstrip("#").strip())
    return found


def schema(all_values: list[Value]) -> dict[str, Any]:
    """What `helm install` refuses, as JSON schema."""
    root: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        # Helm passes these to every chart that is used by another.
        "properties": {"global": {"type": "object"}},
    }
    for value in all_values:
        at = root
        for part in value.path[:-1]:
            at = at["properties"][part]
        at["properties"][value.path[-1]] = _type(value)
    return root


def _type(value: Value) -> dict[str, Any]:
    described: dict[str, Any] = {"description": value.text}
    if "enum" in value.directives:
        return described | {"enum": value.directives["enum"].split("|")}
    if value.is_section:
        return described | {"type": "object", "additionalProperties": False, "properties": {}}
    match value.default:
        case bool():
            described["type"] = "boolean"
        case int():
            described |= {"type": "integer", "minimum": int(value.directives.get("min", "0"))}
        case str():
            described["type"] = "string"
        case list():
            described["type"] = "array"
        case dict():
            described["type"] = "object"
        case _:
            raise TypeError(f"{'.'.join(value.path)}: a default of {value.default!r} has no type")
    return described


def readme(all_values: list[Value]) -> str:
    """The chart's page."""
    rows = "\n".join(
        f"| `{'.'.join(v.path)}` | {_cell(v)} | {v.text.replace('|', chr(92) + '|')} |"
        for v in all_values
        if not v.is_section
    )
    return f"""\
# The chart agentteams

Written by `make charts` from the comments of [values.yaml](values.yaml).

```
helm install agentteams-crds charts/agentteams-crds
helm install agentteams charts/agentteams -n agentteams --create-namespace \\
  -f charts/agentteams/profiles/small.yaml
```

| profile | for | needs |
|---|---|---|
| [small](profiles/small.yaml) | one node | a default storage class |
| [production](profiles/production.yaml) | several nodes | a bucket, and the operators of Milvus, \
CloudNativePG, KEDA and Prometheus |

Secrets are named, never given as values. What the chart makes itself (the identity key, the password of
the BuiltIn database) it makes once and keeps: after `helm uninstall` they and the volumes are still there.

| value | default | what it is |
|---|---|---|
{rows}
"""


def _cell(value: Value) -> str:
    default = json.dumps(value.default)
    shown = f"`{default}`" if default != '""' else ""
    if "enum" in value.directives:
        others = [o for o in value.directives["enum"].split("|") if o != value.default]
        shown += " (or " + ", ".join(others) + ")"
    return shown


def main() -> int:
    """Writes, or compares."""
    found = values((CHART / "values.yaml").read_text())
    wanted = {
        CHART / "values.schema.json": json.dumps(schema(found), indent=1) + "\n",
        CHART / "README.md": readme(found),
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            sys.stderr.write(
                f"{path.relative_to(CHART.parents[1])} is not what values.yaml says: make charts\n"
            )
        return 1 if stale else 0
    for path in stale:
        path.write_text(wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
