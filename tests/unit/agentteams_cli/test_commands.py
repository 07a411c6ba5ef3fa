"""The commands against services in memory."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agentteams.orchestrator.v1 import orchestrator_service_pb2 as orchestrator_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from agentteams.session.v1 import run_pb2, session_pb2

from tests.unit.agentteams_cli.fakes import (
    ALL,
    BREAK,
    CHAT,
    DOCS,
    EMBED,
    STALL,
    TEAM,
    Run,
    Scenario,
    run,
    services,
    serving,
)

__all__ = ["run", "services"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["search", "docs", "q"], 3, "no services run on the state folder"),
        (["chat", "docs-team", "q"], 3, "start them with `agentteams up`"),
        (["runs", "list"], 3, "no services run"),
        (["chat"], 2, "Missing argument 'TEAM'"),
        (["ingest", "docs"], 2, "give files and folders, or --retry-failed"),
        (["ingest", "docs", "a.md", "--retry-failed"], 2, "give files and folders, or --retry-failed"),
        (["serch"], 2, "No such command 'serch'"),
        (["up", "--port", "gatway=1"], 2, "--port gatway=1: must be SERVICE=PORT"),
        (["up", "--port", "gateway=x"], 2, "must be a number from 0 to 64535"),
        (["up", "--port", "gateway=65000"], 2, "must be a number from 0 to 64535"),
        (["up", "--demo", "--no-ask"], 2, "give one of them"),
        (["apply", "-f", "nothing.yaml"], 1, "nothing.yaml does not exist; check the path"),
        (["--output", "xml", "version"], 2, "'xml' is not one of"),
    ],
)
def test_errors_are_one_line_with_an_exit_code(
    run: Run, arguments: list[str], code: int, message: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_errors_in_json(run: Run) -> None:
    result = run("search", "docs", "q", "--output", "json")
    assert json.loads(result.stderr)["error"]["exit_code"] == 3
    assert result.stdout == ""


def test_state_and_output_can_stand_before_the_command_too(run: Run) -> None:
    assert json.loads(run("--output", "json", "version").stdout)["version"]
    assert json.loads(run("version", "--output", "json").stdout)["version"]
    result = run("--state", "elsewhere", "runs", "list")
    assert "elsewhere" in result.stderr


def test_apply_names_every_problem_and_keeps_what_is_good(run: Run, tmp_path: Path) -> None:
    Path("bad.yaml").write_text(TEAM.replace("members", "memberz") + "---\n" + CHAT)
    Path("folder").mkdir()
    Path("folder/embed.yml").write_text(EMBED)
    result = run("apply", "-f", "bad.yaml", "-f", "folder")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == ["modelconfig/chat created", "modelconfig/embed created"]
    assert 'bad.yaml:6: spec.memberz: unknown field; did you mean "members"?' in result.stderr.splitlines()
    stored = sorted(p.name for p in (tmp_path / "state/manifests").iterdir())
    assert stored == ["default.modelconfig.chat.yaml", "default.modelconfig.embed.yaml"]
    again = run("apply", "-f", "folder", "-f", "bad.yaml", "--output", "json")
    report = json.loads(again.stdout)
    assert {a["change"] for a in report["applied"]} == {"unchanged"}
    assert (report["problems"][0]["line"], report["problems"][0]["field"]) == (4, "spec.members")


def test_apply_says_what_a_reference_misses(run: Run) -> None:
    Path("m.yaml").write_text(TEAM)
    result = run("apply", "-f", "m.yaml")
    assert result.exit_code == 1
    assert result.stdout == "agentteam/docs-team created (not ready)\n"
    assert (
        'm.yaml:5: spec.modelConfigRef.name: no ModelConfig "chat" in namespace "default"; '
        "apply that ModelConfig" in result.stderr
    )
    Path("rest.yaml").write_text("---\n".join((CHAT, EMBED, DOCS)))
    assert run("apply", "-f", "rest.yaml").exit_code == 0
    # What it refers to is there now.
    result = run("apply", "-f", "m.yaml")
    assert (result.exit_code, result.stdout) == (0, "agentteam/docs-team unchanged\n")


def test_apply_keeps_a_file_readable_for_the_catalogue(run: Run, tmp_path: Path) -> None:
    Path("m.yaml").write_text(ALL)
    assert run("apply", "-f", "m.yaml").exit_code == 0
    text = (tmp_path / "state/manifests/default.agentteam.docs-team.yaml").read_text()
    # Only what was written: a default that changes later is not frozen by having been applied.
    assert "limits" not in text
    assert "Apply" not in run("doctor").stdout


def test_apply_creates_knowledge_bases(services: Scenario) -> None:
    created = services.knowledge_bases["knowledgeBases/docs"]
    assert created.embedding_model == "models/embed"
    assert (created.chunking.max_tokens, created.chunking.overlap_tokens) == (100, 10)
    assert created.search_mode == 1


def test_apply_waits_until_the_services_see_the_model(run: Run, tmp_path: Path) -> None:
    with serving(tmp_path / "state") as scenario:
        scenario.models_seen_after = 2
        Path("m.yaml").write_text(ALL)
        assert run("apply", "-f", "m.yaml").exit_code == 0
        assert scenario.knowledge_bases


@pytest.mark.usefixtures("services")
def test_ingest_takes_folders_and_names_each_failure(run: Run) -> None:
    Path("d/sub/.git").mkdir(parents=True)
    for name, text in {
        "d/a.md": "a",
        "d/sub/b.txt": "b",
        "d/sub/.git/config": "x",
        "d/.hidden": "x",
        "d/broken.pdf": "x",
        "d/empty.md": "",
        "d/tool.exe": "x",
    }.items():
        Path(name).write_text(text)
    result = run("ingest", "docs", "d", "--output", "json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["counts"] == {"ready": 2, "pending": 0, "failed": 2, "skipped": 1}
    assert {d["path"]: (d["state"], d["chunks"], d["reason"]) for d in report["documents"]} == {
        "d/a.md": ("ready", 3, ""),
        "d/sub/b.txt": ("ready", 3, ""),
        "d/broken.pdf": ("failed", 0, "no readable PDF"),
        "d/empty.md": ("failed", 0, "it has no bytes"),
        "d/tool.exe": ("skipped", 0, "programs are not supported"),
    }
    plain = run("ingest", "docs", "d")
    assert plain.stdout == "docs: 2 ready, 2 failed, 1 skipped; 6 chunks can be found\n"
    assert "failed: d/empty.md: it has no bytes" in plain.stderr.splitlines()
    assert "\x1b" not in plain.output


@pytest.mark.usefixtures("services")
def test_ingest_can_leave_without_waiting_and_says_what_it_skips(run: Run) -> None:
    Path("a.md").write_text("a")
    Path("tool.exe").write_text("x")
    result = run("ingest", "docs", "a.md", "tool.exe", "--no-wait")
    assert result.exit_code == 0
    assert result.stdout == "docs: 1 pending, 1 skipped; 0 chunks can be found\n"
    assert "skipped: tool.exe: programs are not supported" in result.stderr


@pytest.mark.usefixtures("services")
def test_ingest_refuses_what_is_not_there(run: Run) -> None:
    Path("empty").mkdir()
    Path("a.md").write_text("a")
    assert "no files in empty" in run("ingest", "docs", "empty").stderr
    assert "nothing does not exist" in run("ingest", "docs", "nothing").stderr
    wrong = run("ingest", "dogs", "a.md")
    assert wrong.exit_code == 1
    assert wrong.stderr.startswith("error: knowledgeBases/dogs does not exist; ")


@pytest.mark.usefixtures("services")
def test_what_failed_is_listed_and_tried_again(run: Run, services: Scenario) -> None:
    for name in ("a.md", "broken.pdf"):
        Path(name).write_text("x")
    assert run("ingest", "docs", "a.md", "broken.pdf").exit_code == 1
    listed = run("documents", "docs", "--in-state", "failed", "--output", "json")
    assert [d["path"] for d in json.loads(listed.stdout)["documents"]] == ["broken.pdf"]
    assert "broken.pdf" in run("documents", "docs").stdout
    again = run("ingest", "docs", "--retry-failed")
    assert (again.exit_code, again.stdout) == (1, "docs: 1 failed; 0 chunks can be found\n")
    for document in services.documents.values():
        document.path = document.path.removesuffix(".pdf")
    assert run("ingest", "docs", "--retry-failed").stdout == "docs: 1 ready; 3 chunks can be found\n"
    assert run("ingest", "docs", "--retry-failed").stdout == "docs: nothing; 0 chunks can be found\n"


def test_search_shows_chunks_and_outcomes(run: Run, services: Scenario) -> None:
    services.search = retrieval_pb.SearchResponse(
        outcome=retrieval_pb.SEARCH_OUTCOME_DEGRADED,
        chunks=[
            retrieval_pb.Chunk(id="c1", document_title="a.md", text="the\ntext", score=0.5, location="p 1")
        ],
        reasons=[retrieval_pb.SearchReason(message="only words were compared")],
    )
    result = run("search", "docs", "q")
    assert result.exit_code == 0
    assert "1. a.md, p 1  0.5000  chunk c1\n   the text\n" in result.stdout
    assert result.stderr == "degraded: only words were compared\n"
    assert json.loads(run("search", "docs", "q", "--output", "json").stdout)["outcome"] == "degraded"

    services.search = retrieval_pb.SearchResponse(outcome=retrieval_pb.SEARCH_OUTCOME_EMPTY)
    result = run("search", "docs", "q")
    assert result.exit_code == 0
    assert "no documents yet" in result.stdout

    services.search = retrieval_pb.SearchResponse(
        outcome=retrieval_pb.SEARCH_OUTCOME_FAILED,
        reasons=[retrieval_pb.SearchReason(message="Milvus does not answer")],
    )
    result = run("search", "docs", "q")
    assert result.exit_code == 1
    assert "failed: Milvus does not answer" in result.stderr
    assert "Nothing was found" not in result.stdout


def delta(message: str, offset: int, text: str, member: str = "") -> orchestrator_pb.RunItem:
    return orchestrator_pb.RunItem(
        text_delta=orchestrator_pb.TextDelta(message=message, offset=offset, text=text, member=member)
    )


def event(sequence: int, member: str = "", **kind: Any) -> orchestrator_pb.RunItem:
    return orchestrator_pb.RunItem(event=run_pb2.RunEvent(sequence=sequence, member=member, **kind))


SUMMARY = run_pb2.RunSummary(
    usage=run_pb2.Usage(searches=1, searches_saved=2, model_calls=3),
    stages=[run_pb2.StageDuration(stage="llm_inference", count=3)],
)
STARTED = event(1, run_started=run_pb2.RunStarted())
FOUND = event(
    2,
    "analyst",
    evidence_retrieved=run_pb2.EvidenceRetrieved(
        query="why",
        source=run_pb2.EvidenceRetrieved.SOURCE_LEDGER_SEMANTIC,
        similarity=0.95,
        reason="how come",
        outcome=run_pb2.EvidenceRetrieved.OUTCOME_OK,
        evidence=[run_pb2.Evidence(number=4)],
    ),
)
ANSWER = event(
    3,
    message_completed=run_pb2.MessageCompleted(
        message=session_pb2.Message(
            content="Because of it [4].",
            citations=[
                session_pb2.Citation(
                    number=4,
                    document_title="a.md",
                    chunk="c9",
                    text="it",
                    origin=session_pb2.Citation.ORIGIN_MODEL,
                )
            ],
        )
    ),
)
DONE = event(4, run_finished=run_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED, summary=SUMMARY))
ENDING = (
    "\nCitations\n  [4] a.md, chunk c9: it\n"
    "1 search made, 2 saved by the evidence ledger; 3 model calls, 0 tokens in, 0 out\n"
)


def test_chat_streams_the_answer_to_stdout_and_the_steps_to_stderr(run: Run, services: Scenario) -> None:
    services.stream = [
        STARTED,
        FOUND,
        delta("m0", 0, "a draft", member="analyst"),
        delta("m1", 0, "Because "),
        delta("m1", 8, "of it [4]."),
        ANSWER,
        DONE,
    ]
    result = run("chat", "docs-team", "why?")
    assert result.exit_code == 0
    assert result.stdout == "Because of it [4].\n" + ENDING
    assert result.stderr == (
        "· analyst: reused a search that means the same (0.95: 'how come') 'why': 1 chunks [4]\n"
    )
    assert services.started[0].team == "teams/docs-team"
    assert services.started[0].input[0].content == "why?"
    with_stages = run("chat", "docs-team", "why?", "--no-steps", "--stages")
    assert "llm_inference" in with_stages.stdout
    assert with_stages.stderr == ""
    answer = json.loads(run("chat", "docs-team", "why?", "--output", "json").stdout)
    assert answer["answer"] == "Because of it [4]."
    assert answer["citations"][0]["origin"] == "model"
    assert answer["usage"]["searches_saved"] == 2


def test_chat_takes_a_broken_stream_up_where_it_broke(run: Run, services: Scenario) -> None:
    services.stream = [
        STARTED,
        FOUND,
        delta("m1", 0, "Because "),
        BREAK,
        # A late follower gets the text so far as one piece.
        delta("m1", 0, "Because of "),
        delta("m1", 11, "it [4]."),
        ANSWER,
        DONE,
    ]
    result = run("chat", "docs-team", "why?")
    assert result.exit_code == 0
    assert result.stdout == "Because of it [4].\n" + ENDING
    assert result.stderr.count("reused a search") == 1
    assert services.resumed_after == [0, 2]


def test_chat_prints_an_answer_that_was_not_streamed(run: Run, services: Scenario) -> None:
    services.stream = [STARTED, ANSWER, DONE]
    assert run("chat", "docs-team", "why?").stdout == "Because of it [4].\n" + ENDING


def test_chat_says_when_an_answer_begins_anew(run: Run, services: Scenario) -> None:
    services.stream = [STARTED, delta("m1", 0, "I gue"), delta("m1", 0, "Because of it [4]."), ANSWER, DONE]
    result = run("chat", "docs-team", "why?")
    assert result.stdout == "I gue\nBecause of it [4].\n" + ENDING
    assert "begins anew" in result.stderr


def test_chat_fails_with_the_reason_of_the_run(run: Run, services: Scenario) -> None:
    failed = run_pb2.RunFinished(state=run_pb2.RUN_STATE_FAILED)
    failed.status.message = "the model endpoint does not answer"
    services.stream = [STARTED, delta("m1", 0, "Beca"), event(2, run_finished=failed)]
    result = run("chat", "docs-team", "why?")
    assert result.exit_code == 1
    assert result.stdout == "Beca\n"
    assert "failed: the model endpoint does not answer" in result.stderr


def test_a_conversation_keeps_its_session(run: Run, services: Scenario) -> None:
    services.stream = [STARTED, ANSWER, DONE]
    result = run("chat", "docs-team", text="why?\nand then?\n\nnever asked\n")
    assert result.exit_code == 0
    assert [(s.input[0].content, s.session) for s in services.started] == [
        ("why?", ""),
        ("and then?", "sessions/s1"),
    ]
    assert len({s.request_id for s in services.started}) == 2
    run("chat", "docs-team", "more?", "--session", "s7")
    assert services.started[-1].session == "sessions/s7"


@pytest.mark.usefixtures("services")
def test_chat_with_an_unknown_team(run: Run) -> None:
    for text in (None, "why?\n"):
        result = run(*(["chat", "dogs"] if text else ["chat", "dogs", "why?"]), text=text)
        assert result.exit_code == 1
        assert "team dogs does not exist" in result.stderr


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Children of a shell's background job ignore Ctrl-C, as it does; not those that are started here."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_stops_the_run_too(services: Scenario, tmp_path: Path) -> None:
    services.stream = [STARTED, delta("m1", 0, "Because"), STALL]
    with subprocess.Popen(
        [sys.executable, "-m", "agentteams_cli", "chat", "docs-team", "why?"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"AGENTTEAMS_STATE": str(tmp_path / "state")},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(7) == b"Because"
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(15) == 130
        finally:
            process.kill()
        assert b"Traceback" not in process.stderr.read()
    assert services.cancelled == ["runs/r1"]


def test_runs_are_listed_and_shown(run: Run, services: Scenario) -> None:
    found = run_pb2.Run(
        name="runs/r1", team="teams/docs-team", state=run_pb2.RUN_STATE_SUCCEEDED, summary=SUMMARY
    )
    services.runs = [found]
    services.events = [r.event for r in (STARTED, FOUND, ANSWER, DONE)]
    listed = run("runs", "list")
    assert listed.stdout.splitlines()[1].split()[:3] == ["runs/r1", "docs-team", "succeeded"]
    shown = run("runs", "show", "r1")
    assert shown.exit_code == 0
    for part in ("analyst: reused a search", "Because of it [4].", "[4] a.md, chunk c9", "llm_inference"):
        assert part in shown.stdout
    assert len(json.loads(run("runs", "show", "runs/r1", "--output", "json").stdout)["events"]) == 4
    missing = run("runs", "show", "r2")
    assert missing.exit_code == 1
    assert "runs/r2 does not exist; `agentteams runs list`" in missing.stderr


def test_doctor_names_what_does_not_answer(run: Run, services: Scenario) -> None:
    # The services in memory have no health service.
    result = run("doctor", "--output", "json")
    assert result.exit_code == 1
    checks = {c["name"]: c for c in json.loads(result.stdout)["checks"]}
    assert checks["retrieval"]["level"] == "problem"
    assert checks["retrieval"]["message"].endswith("gRPC UNIMPLEMENTED")
    assert str(services.state.logs / "retrieval.log") in checks["retrieval"]["fix"]
    assert checks["manifests"]["message"] == "4 files, all valid"
    broken = services.state.manifests / "x.yaml"
    broken.write_text("kind: [\n")
    report = run("doctor").stdout
    assert "FAIL  manifests    x.yaml:2: not valid YAML: " in report


def test_help_names_the_exit_codes(run: Run) -> None:
    shown = run("--help").stdout
    for command in ("up", "apply", "ingest", "search", "chat", "runs", "doctor", "version"):
        assert f"\n  {command} " in shown
    assert "Exit codes" in shown
