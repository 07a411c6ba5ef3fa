"""The metrics that the code declares, read from its source: no service is imported for it."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TYPES = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram", "GaugeMetricFamily": "gauge"}
_LABELS = ("labelnames", "labels")  # the latter of what is made at each scrape
_SHARED = "servicekit"


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """One metric. `package` is that of the service, or servicekit."""

    name: str
    type: str
    labels: tuple[str, ...]
    package: str
    file: str


def declared_metrics() -> list[Declared]:
    """All whose names begin with `agentteams_`, of all services, the operator and servicekit."""
    roots = [*ROOT.glob("services/*/src/*"), ROOT / "libs/servicekit/src/servicekit"]
    roots += ROOT.glob("operator/src/*")
    return [
        found
        for root in sorted(roots)
        for path in sorted(root.rglob("*.py"))
        for found in _of_file(path, root.name)
    ]


def _of_file(path: Path, package: str) -> Iterator[Declared]:
    text = path.read_text()
    if '"agentteams_' not in text:
        return
    tree = ast.parse(text)
    constants = {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        kind = _TYPES.get(node.func.id if isinstance(node.func, ast.Name) else node.func.attr)
        first = node.args[0] if node.args else None
        if kind is None or not isinstance(first, ast.Constant) or not isinstance(first.value, str):
            continue
        if not first.value.startswith("agentteams_"):
            continue
        given = [*node.args[2:3], *(word.value for word in node.keywords if word.arg in _LABELS)]
        wanted = constants.get(given[0].id) if given and isinstance(given[0], ast.Name) else None
        labels = ast.literal_eval(wanted or given[0]) if given else ()
        yield Declared(
            name=first.value,
            type=kind,
            labels=tuple(labels),
            package=package.removeprefix("agentteams_"),
            file=str(path.relative_to(ROOT)),
        )
