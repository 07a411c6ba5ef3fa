"""docs/telemetry.yaml as data, and whether a PromQL expression fits it.

    problems = load_schema().problems('sum by (team) (rate(agentteams_runs_total[5m]))')
    assert not problems, problems

Names that recording rules make are passed with their labels:
`problems(expression, recorded={"agentteams:runs:rate5m": {"team"}})`.
"""

import fnmatch
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.promql import names

FILE = Path(__file__).parents[2] / "docs" / "telemetry.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric as the file has it."""

    name: str
    type: str
    unit: str
    labels: tuple[str, ...]
    services: tuple[str, ...]
    description: str

    @property
    def series(self) -> dict[str, set[str]]:
        """Names under which Prometheus keeps it, each with its labels."""
        if self.type != "histogram":
            return {self.name: set(self.labels)}
        plain = set(self.labels)
        return {
            f"{self.name}_bucket": plain | {"le"},
            f"{self.name}_sum": plain,
            f"{self.name}_count": plain,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One kind of span as the file has it; `{x}` in its name stands for any text."""

    name: str
    services: tuple[str, ...]
    attributes: tuple[str, ...]
    description: str

    def fits(self, name: str) -> bool:
        """Whether a span of that name is of this kind."""
        parts = [part.split("}", 1)[-1] for part in self.name.split("{")]
        return fnmatch.fnmatchcase(name, "*".join(part.replace("[", "[[]") for part in parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """The whole file."""

    metrics: Mapping[str, Metric]
    spans: tuple[Span, ...]
    labels: Mapping[str, Mapping[str, Any]]
    common_attributes: Mapping[str, str]
    attributes: Mapping[str, str]
    target_labels: frozenset[str]
    external: tuple[str, ...]

    def series(self) -> dict[str, set[str]]:
        """All names under which Prometheus keeps our metrics, each with its labels."""
        return {name: labels for metric in self.metrics.values() for name, labels in metric.series.items()}

    def problems(
        self, expression: str, *, recorded: Mapping[str, Collection[str]] | None = None
    ) -> list[str]:
        """What the expression names and nobody has; empty if all is well."""
        known = self.series() | {name: set(labels) for name, labels in (recorded or {}).items()}
        found = names(expression)
        problems: list[str] = []
        there = set(self.target_labels) | found.made
        for selector in found.selectors:
            if any(fnmatch.fnmatchcase(selector.metric, pattern) for pattern in self.external):
                return problems  # others' labels are not ours to know
            labels = known.get(selector.metric)
            if labels is None:
                problems.append(f"no metric {selector.metric!r} (docs/telemetry.yaml)")
                continue
            there |= labels
            unknown = set(selector.labels) - labels - self.target_labels
            problems.extend(f"{selector.metric} has no label {label!r}" for label in sorted(unknown))
        if not problems:
            unknown = found.grouped_by - there
            problems.extend(f"no metric of it has the label {label!r}" for label in sorted(unknown))
        return problems


@cache
def load_schema() -> Schema:
    """docs/telemetry.yaml."""
    raw = yaml.safe_load(FILE.read_text())
    metrics = [
        Metric(
            name=name,
            type=entry["type"],
            unit=entry.get("unit", ""),
            labels=tuple(entry.get("labels", ())),
            services=tuple(entry["services"]),
            description=entry["description"],
        )
        for name, entry in raw["metrics"].items()
    ]
    spans = tuple(
        Span(
            name=name,
            services=tuple(entry["services"]),
            attributes=tuple(entry.get("attributes", ())),
            description=entry["description"],
        )
        for name, entry in raw.get("spans", {}).items()
    )
    return Schema(
        metrics={metric.name: metric for metric in metrics},
        spans=spans,
        labels=raw["labels"],
        common_attributes=raw.get("common_attributes", {}),
        attributes=raw.get("attributes", {}),
        target_labels=frozenset(raw["target_labels"]),
        external=tuple(raw["external"]),
    )
