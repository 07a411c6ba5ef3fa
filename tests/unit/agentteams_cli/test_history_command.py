"""Revisions on the command line: what is shown, what is written back, and what local mode says."""

import fcntl
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agentteams_cli.__main__ import agentteams
from agentteams_cli.errors import CliError
from agentteams_cli.revisions import restored, revisions_of, to_undo
from agentteams_cli.state import StateFolder
from manifests import AgentTeam


def spec(text: str, **more: Any) -> dict[str, Any]:
    return {"modelConfigRef": {"name": "m"}, "instructions": text, "members": [{"name": "a"}], **more}


def name_of(wanted: dict[str, Any]) -> str:
    document = {"metadata": {"name": "t"}, "spec": wanted}
    return AgentTeam.model_validate(document, strict=False).revision


def revision(number: int, text: str, **more: Any) -> dict[str, Any]:
    data = spec(text, **more)
    metadata = {"name": f"t-{name_of(data)}", "creationTimestamp": f"2026-01-0{number}T00:00:00Z"}
    return {"metadata": metadata, "revision": number, "data": data}


def team(wanted: dict[str, Any], serving: str = "", **status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "t", "namespace": "n", "generation": 4, "resourceVersion": "7"},
        "spec": wanted,
        "status": {"currentRevision": name_of(spec(serving))} | status,
    }


THREE = [revision(2, "two", limits={"maxTurns": 3}), revision(1, "one"), revision(3, "three")]


def test_the_newest_first_with_what_changed() -> None:
    found = revisions_of(team(spec("three"), "one"), THREE)
    assert [(one.number, one.state, one.changed) for one in found] == [
        (3, "newest", ("instructions", "limits")),
        (2, "", ("instructions", "limits")),
        (1, "serves", ()),
    ]
    # Defaults that are written out, and what belongs to the pods, make no other revision.
    same = spec("three", runtime={"replicas": 2}, suspend=True, mode="Coordinate")
    assert revisions_of(team(same, "three"), THREE)[0].state == "serves, newest"


@pytest.mark.parametrize(
    ("wanted", "serving", "number"),
    [
        (spec("three"), "three", 2),
        (spec("three"), "one", 1),  # neither three nor two ever served
        (spec("one"), "one", 3),
        ({"members": "invalid"}, "two", 3),
        (spec("unseen"), "three", 3),
    ],
)
def test_what_is_undone_to(wanted: dict[str, Any], serving: str, number: int) -> None:
    one = team(wanted, serving)
    assert to_undo(one, revisions_of(one, THREE), None).number == number


def test_texts_of_config_maps_are_known_to_the_operator_alone() -> None:
    source = {"instructionsFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}}
    wanted = {key: value for key, value in spec("").items() if key != "instructions"} | source
    newest = name_of(spec("three"))
    one = team(wanted, "three", updatedRevision=newest, observedGeneration=4)
    assert to_undo(one, revisions_of(one, THREE), None).number == 2
    # The operator has not looked at the present spec yet: what served before it comes back.
    one = team(wanted, "three", updatedRevision=newest, observedGeneration=3)
    assert to_undo(one, revisions_of(one, THREE), None).number == 3


def test_what_is_written_back_is_whole_and_keeps_the_pods() -> None:
    one = team(spec("three", tools=[], runtime={"replicas": 2}, suspend=True), "three")
    found = revisions_of(one, THREE)
    made = restored(one, to_undo(one, found, 2))
    assert made["spec"] == spec("two", limits={"maxTurns": 3}) | {"runtime": {"replicas": 2}, "suspend": True}
    assert made["metadata"]["resourceVersion"] == "7"
    with pytest.raises(CliError, match="no revision 9") as caught:
        to_undo(one, found, 9)
    assert caught.value.fix.endswith(": 3, 2, 1")
    with pytest.raises(CliError, match="no other revision"):
        to_undo(one, revisions_of(one, THREE[2:]), None)


@pytest.mark.parametrize("command", ["history", "undo"])
def test_local_mode_says_that_it_keeps_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    state = StateFolder(tmp_path / "state")
    state.create()

    def run(*more: str) -> tuple[int, str]:
        result = CliRunner().invoke(agentteams, ["--state", str(state.root), command, "team", "t", *more])
        return result.exit_code, " ".join(result.output.split())

    code, text = run()
    assert code == 1
    assert "no cluster: " in text
    assert "keep them under version control" in text
    with state.lock_file.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, text = run()
        assert code == 2
        assert "keeps no revisions: manifests are files" in text
        code, text = run("--kubeconfig", str(tmp_path / "none"))
        assert code == 1
        assert "no cluster: " in text


@pytest.mark.parametrize("command", ["history", "undo"])
def test_who_leaves_the_kind_out_is_told_the_command(command: str) -> None:
    result = CliRunner().invoke(agentteams, [command, "support"])
    assert result.exit_code == 2
    assert (
        f'"support" is no kind: for a team of that name, agentteams {command} team support' in result.output
    )


class Answers(BaseHTTPRequestHandler):
    """An API server with a team, that takes no writes."""

    def do_GET(self) -> None:
        is_list = self.path.split("?")[0].endswith("/controllerrevisions")
        found: dict[str, Any] = {"items": THREE, "metadata": {}} if is_list else PRESENT
        content = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: the test's output is for failures."""


PRESENT = team(spec("three"), "two")


def test_an_undo_to_the_present_spec_writes_nothing_and_an_absent_server_is_named(tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    url = f"http://127.0.0.1:{server.server_port}"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    arguments = ["undo", "team", "t", "--to-revision", "3", "--kubeconfig", str(tmp_path / "config")]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        result = CliRunner().invoke(agentteams, arguments)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    assert "asks for revision 3" in words
    assert "already; why it does not serve: kubectl describe agentteam t" in words
    result = CliRunner().invoke(agentteams, arguments)
    assert result.exit_code == 3
    assert f"the API server {url} does not answer" in " ".join(result.output.split())
