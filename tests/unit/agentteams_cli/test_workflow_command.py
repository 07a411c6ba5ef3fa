"""agentteams workflow show."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agentteams_cli.__main__ import agentteams

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTTEAMS_STATE", str(tmp_path / "state"))


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(agentteams, ["workflow", "show", *arguments])


def test_a_workflow_is_drawn_without_any_service() -> None:
    result = _run(str(EXAMPLES / "workflow/steps.yaml"))
    assert result.exit_code == 0
    assert result.output.startswith("flowchart TD\n")
    assert 'n2["find: researcher"]' in result.output


def test_one_of_several_is_chosen_by_name() -> None:
    folder = str(EXAMPLES / "workflow")
    several = _run(folder)
    assert several.exit_code == 1
    assert "choose one of them with --team: " in several.output
    assert "loop" in several.output
    drawn = _run(folder, "--team", "router", "--output", "json")
    assert '{"answer: ' in json.loads(drawn.output)["mermaid"]
    absent = _run(folder, "--team", "rooter")
    assert absent.exit_code == 1
    assert "has no team rooter with a workflow" in absent.output


def test_a_manifest_without_a_workflow_or_a_broken_one_says_what_to_do(tmp_path: Path) -> None:
    without = _run(str(EXAMPLES / "quickstart"))
    assert without.exit_code == 1
    assert "set spec.mode to Workflow" in without.output
    broken = tmp_path / "t.yaml"
    text = (EXAMPLES / "workflow/steps.yaml").read_text()
    broken.write_text(text.replace("steps.write.answer", "steps.wrote.answer"))
    result = _run(str(broken))
    assert result.exit_code == 1
    assert 'there is no step "wrote" before; there are: find, write' in " ".join(result.output.split())
