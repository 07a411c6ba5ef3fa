"""JSON schemas in manifests."""

from typing import Any

import pytest
from pydantic import ValidationError

from manifests import AgentTeam, schema_problem


def team(schema: dict[str, Any]) -> AgentTeam:
    spec = {"modelConfigRef": {"name": "chat"}, "members": [{"name": "a"}], "answer": {"schema": schema}}
    return AgentTeam.model_validate({"metadata": {"name": "t"}, "spec": spec}, strict=False)


def test_a_schema_is_kept_as_it_is() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "x-own": [1, 2.5, None]}}}
    made = team(schema)
    assert made.spec.answer is not None
    assert made.spec.answer.json_schema == schema
    assert made.model_dump(mode="json", by_alias=True)["spec"]["answer"] == {"schema": schema}


def test_the_schema_is_part_of_the_revision() -> None:
    assert team({"type": "object"}).revision != team({"type": "array"}).revision


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strng"}, "not a valid JSON schema"),
        ({"properties": {"a": {"pattern": "("}}}, "at properties.a.pattern"),
        ({"pattern": "(?=a)b"}, "regex"),
        ({"$ref": "http://elsewhere.example/x"}, "Retrieval is disabled"),
        ({"$ref": "file:///etc/passwd"}, "Retrieval is disabled"),
        ({"$ref": "#/$defs/none"}, "does not exist"),
        ({"default": float("nan")}, "is not JSON"),
        ({"description": "x" * 70_000}, "65536 is the most"),
    ],
)
def test_what_cannot_be_used_is_refused(schema: dict[str, Any], words: str) -> None:
    assert words in schema_problem(schema)
    with pytest.raises(ValidationError, match=r"answer.*schema"):
        team(schema)


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(400):
        schema = {"properties": {"a": schema}}
    assert schema_problem(schema)
