"""instructionsFrom: what local mode says of it, and what a revision is made of."""

from pathlib import Path

import pytest

from manifests import Catalogue
from manifests.texts import texts_from, with_texts

SPEC = {
    "modelConfigRef": {"name": "m"},
    "instructionsFrom": {"configMapKeyRef": {"name": "c", "key": "lead"}},
    "members": [
        {"name": "a", "instructionsFrom": {"configMapKeyRef": {"name": "c", "key": "a"}}},
        {"name": "b"},
    ],
}


def test_local_mode_says_where_the_text_goes_instead(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: m}
spec: {type: Chat, provider: BuiltIn}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: t}
spec:
  modelConfigRef: {name: m}
  members:
  - {name: a, instructionsFrom: {configMapKeyRef: {name: prompts, key: a}}}
"""
    )
    catalogue = Catalogue(tmp_path)
    catalogue.load()
    assert catalogue.problems == []
    (problem,) = catalogue.team_problems("default", "t")
    assert problem == (
        "spec.members[0].instructionsFrom: ConfigMap prompts can be read on a cluster only, by the operator; "
        "write the text into instructions"
    )


def test_texts_take_the_place_of_where_they_came_from() -> None:
    assert list(texts_from(SPEC)) == [
        (("spec", "instructionsFrom", "configMapKeyRef"), "c", "lead"),
        (("spec", "members", 0, "instructionsFrom", "configMapKeyRef"), "c", "a"),
    ]
    made = with_texts(SPEC, {("c", "lead"): "Lead.", ("c", "a"): "Be A."})
    assert made == {
        "modelConfigRef": {"name": "m"}, "instructions": "Lead.",
        "members": [{"name": "a", "instructions": "Be A."}, {"name": "b"}],
    }  # fmt: skip
    with pytest.raises(KeyError):
        with_texts(SPEC, {("c", "lead"): "Lead."})
