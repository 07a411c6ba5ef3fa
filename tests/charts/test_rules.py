"""Each alert fires when it should and stays silent otherwise, by promtool; each has a runbook."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rule_cases import CASES, Case, Series
from tests.support.telemetry_schema import load_schema

ROOT = Path(__file__).parents[2]
FILE = ROOT / "charts/agentteams/files/rules/agentteams.yaml"
GROUPS = yaml.safe_load(FILE.read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
RECORDED = {rule["record"]: rule["expr"] for group in GROUPS for rule in group["rules"] if "record" in rule}
PROMTOOL = shutil.which("promtool")


def test_every_alert_has_cases() -> None:
    assert {case.alert for case in CASES} == set(ALERTS)
    assert len(CASES) == len(ALERTS), "a case for each"


@pytest.mark.skipif(PROMTOOL is None, reason="NOT RUN: promtool is not on this machine (Debian: prometheus)")
def test_alerts_fire_and_stay_silent(tmp_path: Path) -> None:
    """A file for each group: promtool evaluates all rules of a file for each of its tests."""
    recordings, *groups = GROUPS
    files: list[str] = []
    for group in groups:
        rules, file = tmp_path / f"{group['name']}.rules.yaml", tmp_path / f"{group['name']}.yaml"
        rules.write_text(yaml.safe_dump({"groups": [{**recordings, "interval": "1m"}, group]}))
        alerts = {rule["alert"] for rule in group["rules"]}
        tests = [
            _promtool_test(case, series, fires=fires)
            for case in CASES
            if case.alert in alerts
            for series, fires in ((case.fires, True), (case.silent, False))
        ]
        file.write_text(
            yaml.safe_dump({"rule_files": [str(rules)], "evaluation_interval": "1m", "tests": tests})
        )
        files.append(str(file))
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, "test", "rules", *files], capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _promtool_test(case: Case, series: Series, *, fires: bool) -> dict[str, Any]:
    rule = ALERTS[case.alert]
    wanted: list[dict[str, Any]] = []
    if fires:
        labels = {**rule["labels"], **case.labels}
        wanted = [{"exp_labels": labels, "exp_annotations": _annotations(rule, labels, case.value)}]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": wanted}],
    }


def _annotations(rule: dict[str, Any], labels: dict[str, str], value: str) -> dict[str, str]:
    """Annotations as Prometheus expands them."""

    def expanded(text: str) -> str:
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: labels.get(match[1], ""), text)
        return re.sub(r"\{\{ \$value \| \w+ \}\}", value, text)

    return {name: expanded(text) for name, text in rule["annotations"].items()}


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_an_alert_leads_to_its_runbook(name: str) -> None:
    annotations = ALERTS[name]["annotations"]
    assert annotations["runbook"] == f"docs/runbooks.md#{name.lower()}"
    section = re.search(
        rf"^## {name}\n(.*?)(?=^## |\Z)", (ROOT / "docs/runbooks.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert section, f"docs/runbooks.md has no section {name}"
    for part in ("**What it means.**", "**What to look at.**", "**What to do.**"):
        assert part in section[1], f"{name}: {part}"
    assert ALERTS[name]["labels"]["severity"] in ("page", "ticket")


def test_rules_name_only_what_there_is() -> None:
    recorded = {name: {"team"} if "by (team)" in expr else set[str]() for name, expr in RECORDED.items()}
    schema = load_schema()
    for name, expression in [*RECORDED.items(), *((n, rule["expr"]) for n, rule in ALERTS.items())]:
        assert schema.problems(expression, recorded=recorded) == [], name
