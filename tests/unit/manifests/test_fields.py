"""Every field of the custom resources has a test that shows its effect or its refusal: here is which."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from manifests.crds import definitions
from tests.support.wrong_manifests import WRONG

TESTS = Path(__file__).parents[2]
TABLE = Path(__file__).parent / "fields.yaml"
# A step within a step has the fields of a step: CEL and the schema repeat them, the models do not.
STEP = re.compile(
    r"^spec\.workflow\.(?:definitions\[\]\.)?steps\[\]"
    r"(?:\.(?:parallel\.steps|loop\.steps|condition\.then|condition\.else|router\.choices\[\]\.steps|router\.default)\[\])*"
)


def leaves(at: str, schema: dict[str, Any]) -> Iterator[str]:
    """Paths of all fields that hold a value; `[]` for the items of a list."""
    below = {f".{name}": part for name, part in schema.get("properties", {}).items()}
    if "items" in schema:
        below["[]"] = schema["items"]
    for name, part in below.items():
        yield from leaves(at + name, part)
    if not below:
        yield STEP.sub("spec.workflow.steps[]", at)


def fields() -> dict[str, set[str]]:
    """By kind."""
    found = {}
    for definition in definitions().values():
        whole = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        kind = definition["spec"]["names"]["kind"]
        found[kind] = {*leaves("spec", whole["spec"]), *leaves("status", whole["status"])}
    return found


def refused() -> set[tuple[str, str]]:
    """What the table of wrong manifests has a wrong value of."""
    return {(wrong.kind, STEP.sub("spec.workflow.steps[]", _path(f"spec.{wrong.field}"))) for wrong in WRONG}


def _path(field: str) -> str:
    return re.sub(r"\[\d+\]", "[]", field)


def table() -> dict[str, dict[str, str]]:
    read: dict[str, dict[str, str]] = yaml.safe_load(TABLE.read_text())
    return read


def test_every_field_has_a_test() -> None:
    told, wrong = table(), refused()
    without = [
        f"{kind}: {path}"
        for kind, paths in fields().items()
        for path in sorted(paths)
        if path not in told[kind] and not {(kind, path), (kind, path.removesuffix("[]"))} & wrong
    ]
    assert without == [], (
        f"add a wrong value to wrong_fields.py, or name the test of its effect in {TABLE.name}"
    )


def test_the_table_names_fields_and_tests_that_are_there() -> None:
    there = fields()
    for kind, rows in table().items():
        assert set(rows) <= there[kind], f"{kind}: no such field"
        for path, name in rows.items():
            file, _, function = name.partition("::")
            tree = ast.parse((TESTS / file).read_text())
            names = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
            assert function in names, f"{kind} {path}: {name}"


def test_a_field_within_steps_counts_once() -> None:
    nested = "spec.workflow.definitions[].steps[].loop.steps[].condition.then[].task"
    assert STEP.sub("spec.workflow.steps[]", nested) == "spec.workflow.steps[].task"
    assert "spec.workflow.steps[].task" in fields()["AgentTeam"]
    assert not any("then[]." in path for path in fields()["AgentTeam"])
