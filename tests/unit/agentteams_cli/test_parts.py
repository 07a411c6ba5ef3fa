"""Parts of the command line that need no services."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agentteams.orchestrator.v1.orchestrator_service_pb2 import TextDelta

from agentteams_cli.asking import ask, show
from agentteams_cli.console import Output
from agentteams_cli.errors import CliError, StackError
from agentteams_cli.ingesting import find_files
from agentteams_cli.manifests_store import load_all, manifest_files
from agentteams_cli.models import from_environment
from agentteams_cli.ports import DEFAULT_PORTS, allocate
from agentteams_cli.render import TextFollower
from agentteams_cli.state import StateFolder
from manifests import AgentTeam, check_references

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([(0, "ab"), (2, "cd")], [("ab", False), ("cd", False)]),
        ([(0, "ab"), (0, "abcd"), (4, "e")], [("ab", False), ("cd", False), ("e", False)]),
        ([(0, "ab"), (0, "ab")], [("ab", False), ("", False)]),
        ([(0, "ab"), (0, "xy"), (2, "z")], [("ab", False), ("xy", True), ("z", False)]),
        ([(0, "abcd"), (2, "cdef")], [("abcd", False), ("ef", False)]),
    ],
)
def test_text_follower(pieces: list[tuple[int, str]], expected: list[tuple[str, bool]]) -> None:
    follower = TextFollower()
    assert [follower.feed(TextDelta(message="m", offset=o, text=t)) for o, t in pieces] == expected


def test_the_same_file_is_the_same_document_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work/docs/sub").mkdir(parents=True)
    (tmp_path / "work/docs/sub/a.md").write_text("a")
    (tmp_path / "other/docs").mkdir(parents=True)
    (tmp_path / "other/docs/b.md").write_text("b")
    monkeypatch.chdir(tmp_path / "work")
    names = [
        [name for _, name in find_files([Path(p)])]
        for p in ("docs", "./docs/sub", "docs/sub/a.md", str(tmp_path / "work"), "../other/docs")
    ]
    assert names == [["docs/sub/a.md"]] * 4 + [["docs/b.md"]]
    assert len(find_files([Path("docs"), Path("docs/sub/a.md")])) == 1


def test_endpoint_of_the_environment() -> None:
    assert from_environment({"OPENAI_API_KEY": " "}) is None
    default = from_environment({"OPENAI_API_KEY": "sk-1"})
    assert default is not None
    assert (default.chat.url, default.chat.model) == ("https://api.openai.com/v1", "gpt-4o-mini")
    own = from_environment(
        {
            "OPENAI_API_KEY": "sk-1",
            "OPENAI_BASE_URL": "http://127.0.0.1:1/v1",
            "OPENAI_MODEL": "m",
            "OPENAI_EMBEDDING_MODEL": "e",
        }
    )
    assert own is not None
    assert (own.embedding.url, own.embedding.model) == ("http://127.0.0.1:1/v1", "e")  # type: ignore[union-attr]
    assert "sk-1" not in repr(own)
    chat_only = from_environment({"OPENAI_API_KEY": "sk-1", "OPENAI_EMBEDDING_MODEL": "local"})
    assert chat_only is not None
    assert chat_only.embedding is None
    assert "the local model for embeddings" in chat_only.why


def test_ports_picked_at_once_are_all_different() -> None:
    ports = allocate(dict.fromkeys(DEFAULT_PORTS, 0))
    used = [p.port for p in ports.values()] + [p.metrics for p in ports.values() if p.metrics]
    assert len(set(used)) == len(used)
    assert ports["milvus"].metrics == ports["chat"].metrics == 0


def test_an_unwritable_state_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StackError, match="cannot be written: Not a directory"):
        StateFolder(tmp_path / "file" / "state").create()


def test_the_quickstart_is_valid() -> None:
    loaded = load_all(manifest_files([REPOSITORY / "examples/quickstart"]))
    assert loaded.problems == []
    assert sorted(o.key[0] for o in loaded.objects) == [
        "AgentTeam",
        "KnowledgeBase",
        "ModelConfig",
        "ModelConfig",
    ]
    assert check_references({o.key: o for o in loaded.objects}) == {}


def test_the_quickstart_in_other_modes_is_valid() -> None:
    folders = [REPOSITORY / "examples/quickstart", REPOSITORY / "examples/quickstart-modes"]
    loaded = load_all(manifest_files(folders))
    assert loaded.problems == []
    teams = [o.resource for o in loaded.objects if isinstance(o.resource, AgentTeam)]
    modes = {team.metadata.name: team.spec.mode for team in teams}
    assert modes == {"docs-team": "Coordinate", "docs-route": "Route", "docs-workflow": "Workflow"}
    assert check_references({o.key: o for o in loaded.objects}) == {}


@contextmanager
def gateway(status: int, body: str) -> Iterator[str]:
    """Answers every POST with the same."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-type", "text/event-stream" if status == 200 else "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


def chunk(content: str, **extra: object) -> str:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "t", "choices": [choice]}
    return f"data: {json.dumps(body | extra)}\n\n"


async def test_asks_as_any_openai_client_would(capsys: pytest.CaptureFixture[str]) -> None:
    details = {
        "status": "succeeded",
        "citations": [{"number": 1, "document_title": "a.md", "chunk": "c", "text": "t", "origin": "model"}],
        "usage": {"searches": 1, "searches_saved": 1},
        "stages": [{"stage": "llm_inference", "duration_ms": 1500.0, "count": 2}],
    }
    body = chunk("Be") + chunk("cause [1].") + chunk("", agentteams=details) + "data: [DONE]\n\n"
    with gateway(200, body) as url:
        answer = await ask(Output(), base_url=url, team="t", question="why?")
    assert (answer.text, answer.is_good) == ("Because [1].", True)
    show(Output(), answer)
    out = capsys.readouterr().out
    assert out.startswith("Because [1].\n\nCitations\n  [1] a.md, chunk c: t\n")
    assert "1 search made, 1 saved" in out
    assert "1.50 s" in out


async def test_an_error_of_the_gateway_is_its_message() -> None:
    body = json.dumps({"error": {"message": "docs-team is not ready", "type": "x", "code": "team_not_ready"}})
    with gateway(503, body) as url, pytest.raises(CliError, match=r"no answer: docs-team is not ready"):
        await ask(Output(), base_url=url, team="t", question="why?")


async def test_an_error_in_the_stream_is_no_answer() -> None:
    error = json.dumps({"error": {"message": "the model does not answer", "code": "model_unavailable"}})
    with (
        gateway(200, chunk("Be") + f"data: {error}\n\n") as url,
        pytest.raises(CliError, match="the model does not answer"),
    ):
        await ask(Output(format="json"), base_url=url, team="t", question="why?")
