"""Which alerts what real services serve sets off: their scrapes, on a faster clock.

An alert takes an hour of its windows, and a test must not. So a scrape of a service counts as some minutes of
a timeline; `promtool`, which is Prometheus' own engine with a clock of its own, evaluates the chart's rule
file as it is on it. Series and labels are those that the services serve: a rule that names others stays
silent here.

    timeline = Timeline()
    timeline.add(text_of_metrics, minutes=6)
    timeline.expect("AgentTeamsKnowledgeDegraded", firing=[{}])       # at this point of it
    timeline.check(tmp_path)
"""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.support.prometheus import RULES
from tests.support.promql import names

PROMTOOL = shutil.which("promtool")
# As Prometheus itself adds them to what it scrapes.
_OF_TARGET = {"instance": "10.0.0.1:9090", "job": "agentteams"}
_TIMEOUT_S = 60


class Timeline:
    """Scrapes, one after the other."""

    def __init__(self) -> None:
        groups = yaml.safe_load(RULES.read_text())["groups"]
        self._alerts = {r["alert"]: r for group in groups for r in group["rules"] if "alert" in r}
        self._metrics = {
            selector.metric
            for group in groups
            for rule in group["rules"]
            for selector in names(rule["expr"]).selectors
        }
        self._series: dict[str, list[tuple[float | None, int]]] = {}
        self._minutes = 0
        self._expected: list[tuple[int, str, Sequence[Mapping[str, str]]]] = []

    def add(self, text: str, *, minutes: int) -> None:
        """What a service serves, for so long."""
        seen: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in self._metrics:
                    labels = {**sample.labels, **_OF_TARGET}
                    named = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
                    seen[f"{sample.name}{{{named}}}"] = sample.value
        for series in seen.keys() - self._series.keys():
            self._series[series] = [(None, self._minutes)] if self._minutes else []
        for series, values in self._series.items():
            values.append((seen.get(series), minutes))
        self._minutes += minutes

    def expect(self, alert: str, *, firing: Sequence[Mapping[str, str]]) -> None:
        """Now it fires with those labels, each once, beside its own; none: it does not fire."""
        labels = self._alerts[alert]["labels"]
        self._expected.append((self._minutes - 1, alert, [{**labels, **one} for one in firing]))

    def check(self, folder: Path) -> None:
        """Raises AssertionError with what promtool says if it is not so."""
        if PROMTOOL is None:
            pytest.skip("NOT RUN: promtool is not on this machine (Debian: prometheus)")
        assert self._series, "nothing was scraped that a rule names"
        tests = [
            {
                "interval": "1m",
                "input_series": [
                    {"series": name, "values": " ".join(map(_values, values))}
                    for name, values in self._series.items()
                ],
                "promql_expr_test": [
                    {
                        "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                        "eval_time": f"{minute}m",
                        "exp_samples": [_sample(alert, labels) for labels in firing],
                    }
                    for minute, alert, firing in self._expected
                ],
            }
        ]
        file = folder / "timeline.yaml"
        content: dict[str, Any] = {
            "rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests,
        }  # fmt: skip
        file.write_text(yaml.safe_dump(content))
        done = subprocess.run(
            [PROMTOOL, "test", "rules", str(file)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _values(step: tuple[float | None, int]) -> str:
    value, times = step
    return " ".join(["_"] * times) if value is None else f"{value!r}x{times - 1}"


def _sample(alert: str, labels: Mapping[str, str]) -> dict[str, Any]:
    every = {"alertname": alert, "alertstate": "firing", **labels}
    named = ", ".join(f'{name}="{value}"' for name, value in every.items())
    return {"labels": f"ALERTS{{{named}}}", "value": 1}
