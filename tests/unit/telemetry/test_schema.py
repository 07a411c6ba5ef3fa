"""docs/telemetry.yaml and the code name the same metrics; docs/telemetry.md is made of it."""

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.declared_metrics import Declared, declared_metrics
from tests.support.telemetry_schema import FILE, load_schema

SCHEMA = load_schema()
DECLARED = declared_metrics()


def test_the_scan_finds_metrics_of_every_service() -> None:
    assert {"gateway", "orchestrator", "session", "retrieval", "embedding", "servicekit"} <= {
        one.package for one in DECLARED
    }


@pytest.mark.parametrize("one", DECLARED, ids=lambda one: one.name)
def test_a_metric_of_the_code_stands_in_the_file(one: Declared) -> None:
    said = SCHEMA.metrics.get(one.name)
    assert said is not None, f"{one.file}: {one.name} is missing in docs/telemetry.yaml"
    assert (said.type, said.labels) == (one.type, one.labels), one.file
    assert one.package in (*said.services, "servicekit"), one.file


def test_a_metric_of_the_file_is_declared_by_the_code() -> None:
    assert set(SCHEMA.metrics) == {one.name for one in DECLARED}


def test_names_and_units_follow_one_rule() -> None:
    for metric in SCHEMA.metrics.values():
        assert (metric.type == "counter") == metric.name.endswith("_total"), metric.name
        assert metric.unit in ("", "seconds", "bytes"), metric.name
        words = metric.name.removesuffix("_total").split("_")
        assert ("seconds" in words) == (metric.unit == "seconds"), metric.name
        assert metric.description, metric.name
        assert not metric.description.endswith("."), metric.name


def test_each_label_is_described_once_and_used() -> None:
    used = {label for metric in SCHEMA.metrics.values() for label in metric.labels}
    assert used == set(SCHEMA.labels)
    assert not used & SCHEMA.target_labels


def test_nothing_of_a_label_is_lost() -> None:
    # Unquoted, YAML ends a text in braces at its first comma and makes keys of the rest.
    for name, label in SCHEMA.labels.items():
        assert set(label) <= {"description", "values", "most"}, name
        assert label["description"], name


def test_the_page_is_made_of_the_file() -> None:
    spec = importlib.util.spec_from_file_location("document_telemetry", FILE.parent / "document.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = sys.dont_write_bytecode
    sys.dont_write_bytecode = True
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    text = Path(module.PAGE).read_text()
    wanted = module.page(text, yaml.safe_load(FILE.read_text()))
    assert text == wanted, "run python docs/document.py"
    assert all(name in text for name in SCHEMA.metrics)
