"""Defaults, revisions, and that the models can become CRDs."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from manifests import AgentTeam, KnowledgeBase, ModelConfig, load_text

TEAM = """\
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: t}
spec:
  modelConfigRef: {name: chat}
  members: [{name: solo}]
"""


def team(text: str = TEAM) -> AgentTeam:
    content = load_text(text, Path("t.yaml"))
    assert content.problems == []
    resource = content.objects[0].resource
    assert isinstance(resource, AgentTeam)
    return resource


def test_defaults_of_a_team() -> None:
    spec = team().spec
    assert spec.mode == "Coordinate"
    assert spec.sharing.evidence_reuse.policy == "Semantic"
    assert spec.sharing.evidence_reuse.min_similarity == "0.92"
    assert spec.sharing.member_interactions == "AnswersAndEvidence"
    assert (spec.limits.max_turns, spec.limits.max_tool_calls, spec.limits.run_timeout_seconds) == (
        12,
        40,
        600,
    )
    assert (spec.limits.max_tokens_per_run, spec.limits.max_concurrent_runs) == (60_000, 50)
    assert spec.session.history_runs == 3
    assert team().metadata.namespace == "default"


def test_objects_are_frozen() -> None:
    limits: Any = team().spec.limits
    with pytest.raises(ValidationError, match="frozen"):
        limits.max_turns = 5


def test_revision_follows_the_spec_alone() -> None:
    revision = team().revision
    assert len(revision) == 12
    assert team(TEAM.replace("{name: t}", "{name: other, labels: {a: b}}")).revision == revision
    assert team(TEAM.replace("members:", "mode: Coordinate\n  members:")).revision == revision
    assert team(TEAM.replace("{name: solo}", "{name: solo, role: clerk}")).revision != revision
    assert team(TEAM.replace("members:", "limits: {maxTurns: 3}\n  members:")).revision != revision


def test_can_be_built_in_code_by_field_name_and_written_back() -> None:
    built = ModelConfig.model_validate(
        {"metadata": {"name": "chat"}, "spec": {"type": "Chat", "provider": "BuiltIn"}}
    )
    written = built.model_dump(by_alias=True, exclude_unset=True)
    assert written["spec"] == {"type": "Chat", "provider": "BuiltIn"}
    assert built.spec.limits.max_retries == 2


def test_braces_in_a_value_do_not_disturb_the_message() -> None:
    with pytest.raises(ValidationError, match=r"spec\.knowledge"):
        AgentTeam.model_validate_json(
            '{"metadata":{"name":"t"},"spec":{"modelConfigRef":{"name":"c"},'
            '"members":[{"name":"a","knowledge":["x"]}]}}'
        )


def _models(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    def types(annotation: Any) -> list[Any]:
        return [annotation, *(t for a in getattr(annotation, "__args__", ()) for t in types(a))]

    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for found in types(field.annotation):
                if isinstance(found, type) and issubclass(found, BaseModel):
                    _models(found, seen)
    return seen


@pytest.mark.parametrize("kind", [AgentTeam, KnowledgeBase, ModelConfig])
def test_every_field_says_what_it_is_for(kind: type[BaseModel]) -> None:
    for model in _models(kind, set()):
        assert model.__doc__, model
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
    schema = kind.model_json_schema(by_alias=True)
    assert schema["additionalProperties"] is False
    assert "modelConfigRef" in str(schema) or kind is ModelConfig
