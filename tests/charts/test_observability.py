"""Dashboards and rules reach the cluster as they are in the repository."""

import json
from pathlib import Path

import yaml

from tests.support.helm import CHART, render

FILES = Path(CHART) / "files"
KEYS = {"gateway": {"apiKeysSecret": "agentteams-api-keys"}}


def test_dashboards_are_config_maps_that_the_sidecar_finds() -> None:
    objects = render("small", values={**KEYS, "metrics": {"dashboards": True}})
    maps = [one for one in objects if one["kind"] == "ConfigMap" and "dashboard" in one["metadata"]["name"]]
    shipped = {name: json.loads(text) for one in maps for name, text in one["data"].items()}
    assert shipped == {
        file.name: json.loads(file.read_text()) for file in (FILES / "dashboards").glob("*.json")
    }
    assert shipped
    assert {one["metadata"]["labels"]["grafana_dashboard"] for one in maps} == {"1"}


def test_rules_are_a_prometheus_rule_word_for_word() -> None:
    values = {**KEYS, "metrics": {"rules": True, "labels": {"release": "prometheus"}}}
    (rule,) = [one for one in render("small", values=values) if one["kind"] == "PrometheusRule"]
    assert rule["spec"] == yaml.safe_load((FILES / "rules/agentteams.yaml").read_text())
    assert rule["metadata"]["labels"]["release"] == "prometheus"


def test_neither_is_made_unasked() -> None:
    names = {(one["kind"], one["metadata"]["name"]) for one in render("production", values=KEYS)}
    assert not [name for kind, name in names if kind == "PrometheusRule" or "dashboard" in name]
