"""Pictures of workflows."""

import re
from pathlib import Path

import pytest

from manifests import AgentTeam, load_file, load_text
from manifests.mermaid import to_mermaid

ROOT = Path(__file__).parents[3]

ALL = """\
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: t}
spec:
  mode: Workflow
  modelConfigRef: {name: chat}
  members: [{name: ann}]
  workflow:
    steps:
    - name: side
      parallel:
        steps:
        - {name: a, member: ann}
        - {name: again, loop: {maxIterations: 2, steps: [{name: b, member: ann}]}}
    - name: ask
      approval: {message: 'Is "x" < y & z?'}
    - name: way
      router:
        expression: steps.ask.answer
        choices: [{when: yes-please, steps: [{name: c, workflow: {name: part-one}}]}]
        default: []
    - name: done
      condition: {expression: "true", then: [{name: d, member: ann}]}
    definitions:
    - {name: part-one, steps: [{name: e, member: ann}]}
"""
DRAWN = """\
flowchart TD
  n1([question])
  n2(["side"])
  n1 --> n2
  n3["a: ann"]
  n2 --> n3
  subgraph n5["again: 2 times at most"]
  n4["b: ann"]
  n4 -. "again" .-> n4
  end
  n2 --> n4
  n6[/"ask: Is &quot;x&quot; &lt; y &amp; z?"/]
  n3 --> n6
  n4 --> n6
  n7{"way: steps.ask.answer"}
  n6 --> n7
  n8[["c: part-one"]]
  n7 -- "yes-please" --> n8
  n9{"done: true"}
  n8 --> n9
  n7 -- "else" --> n9
  n10["d: ann"]
  n9 -- "yes" --> n10
  n11([answer])
  n10 --> n11
  n9 -- "no" --> n11
  subgraph n12["part-one"]
  n13([input])
  n14["e: ann"]
  n13 --> n14
  n15([output])
  n14 --> n15
  end
"""


def _team(text: str) -> AgentTeam:
    (loaded,) = load_text(text, Path("t.yaml")).objects
    assert isinstance(loaded.resource, AgentTeam)
    return loaded.resource


def test_every_kind_of_step_has_its_shape_and_its_lines() -> None:
    assert to_mermaid(_team(ALL).spec) == DRAWN


def test_a_team_without_a_workflow_has_no_picture() -> None:
    head, _, _ = ALL.partition("  workflow:")
    with pytest.raises(ValueError, match="a team in mode Coordinate has no workflow"):
        to_mermaid(_team(head.replace("mode: Workflow", "mode: Coordinate")).spec)


def test_the_picture_in_the_docs_is_that_of_its_example() -> None:
    (loaded,) = load_file(ROOT / "examples/workflow/loop.yaml").objects
    assert isinstance(loaded.resource, AgentTeam)
    found = re.findall(r"```mermaid\n(.*?)```", (ROOT / "docs/workflow.md").read_text(), re.DOTALL)
    assert found == [to_mermaid(loaded.resource.spec)]
