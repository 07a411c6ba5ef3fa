"""The CustomResourceDefinitions as they are written: without an API server."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import Field

import manifests
from manifests import load_text
from manifests.base import Model
from manifests.cel import Cel
from manifests.crds import definitions
from manifests.crds.__main__ import differing, main
from manifests.crds.structural import UnknownKeyword, structural
from tests.support.wrong_manifests import WRONG, Wrong

FOLDER = Path(__file__).parents[3] / "charts" / "agentteams-crds" / "files"
CLIENT_SIDE_APPLY_BYTES = 262_144  # kubectl apply keeps a copy in an annotation, and they may have so much


def schemas() -> Iterator[tuple[str, dict[str, Any]]]:
    for definition in definitions().values():
        kind = definition["spec"]["names"]["kind"]
        whole = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        yield from walk(kind, whole)


def walk(at: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield at, schema
    for name, below in schema.get("properties", {}).items():
        yield from walk(f"{at}.{name}", below)
    if "items" in schema:
        yield from walk(f"{at}[]", schema["items"])


def all_models() -> list[type[Model]]:
    for module in pkgutil.iter_modules(manifests.__path__):
        importlib.import_module(f"manifests.{module.name}")
    found, ahead = [], [Model]
    while ahead:
        ahead = [sub for model in ahead for sub in model.__subclasses__() if sub not in found]
        found += ahead
    return [model for model in found if model.__module__.startswith("manifests.")]


def test_the_files_are_what_the_models_say() -> None:
    assert differing(FOLDER) == [], "`make crds`, and commit"


def test_a_stale_a_missing_and_a_strange_file_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 0
    assert main([str(tmp_path), "--check"]) == 0
    first, second, _ = sorted(tmp_path.iterdir())
    first.write_text("stale")
    second.unlink()
    (tmp_path / "other.yaml").write_text("")
    assert main([str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err.startswith(f"{first.name}, {second.name}, other.yaml in ")


@pytest.mark.parametrize("wrong", WRONG, ids=[f"{w.kind}-{w.field}" for w in WRONG])
def test_the_loader_refuses_what_is_wrong_and_nothing_else(wrong: Wrong) -> None:
    """tests/integration/test_operator_crds.py has the API server's half."""
    document = {
        "apiVersion": "agentteams.dev/v1alpha1",
        "kind": wrong.kind,
        "metadata": {"name": "x"},
        "spec": wrong.spec(),
    }
    problems = load_text(yaml.safe_dump(document), Path("x.yaml")).problems
    assert [p.field for p in problems] == [f"spec.{wrong.field}"]


def test_every_rule_between_fields_has_its_twin_in_cel() -> None:
    """Whoever adds a rule to a model says it to the API server too, or says why CEL cannot."""
    without = [
        model.__name__
        for model in all_models()
        if "_rules" in vars(model) and not (model.cel or model.unchecked)
    ]
    assert without == [], "declare `cel` beside `_rules` (manifests/cel.py), or say `unchecked`"


def test_every_message_has_a_fix() -> None:
    for model in all_models():
        for rule in model.cel:
            assert isinstance(rule, Cel)
            assert "; " in rule.message or rule.message.startswith("give "), (model, rule)


def test_every_field_is_described() -> None:
    for at, schema in schemas():
        if not at.endswith("[]") and not at.endswith(".metadata"):
            assert schema.get("description"), at


def test_lists_and_texts_are_bounded() -> None:
    """Or the rules about them would cost more than the API server allows."""
    for at, schema in schemas():
        if ".status" in at:
            continue
        if schema.get("type") == "array":
            assert "maxItems" in schema, at
        if schema.get("type") == "string" and not at.endswith((".apiVersion", ".kind")):
            assert "maxLength" in schema or "enum" in schema or "pattern" in schema, at


def test_the_largest_still_fits_where_kubectl_keeps_a_copy() -> None:
    for name, definition in definitions().items():
        assert len(json.dumps(definition).encode()) < CLIENT_SIDE_APPLY_BYTES * 0.75, name


def test_a_keyword_that_nobody_thought_about_is_not_lost() -> None:
    class Strange(Model):
        """What pydantic can say and a structural schema cannot."""

        numbers: dict[str, int] = Field(default_factory=dict, json_schema_extra={"not": {}})

    with pytest.raises(UnknownKeyword, match=r"Strange\.numbers: not"):
        structural(Strange)
