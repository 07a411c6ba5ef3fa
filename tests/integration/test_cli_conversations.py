"""Sessions, memories and user data from the command line, against a real session service."""

import asyncio
import json
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from agentteams.session.v1 import run_pb2, run_scores_pb2, scores_pb2, session_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub

from agentteams_cli.state import RunningService, RuntimeInfo, StateFolder
from servicekit.client import RpcClient
from servicekit.clock import SystemClock
from servicekit.identity import load_key
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.testing import rpc_as, serve_in_process
from session.adapters.database import PoolLimits, open_database
from session.adapters.store import SqlSessionStore
from session.memory_servicer import MemoryServicer, memory_service
from session.score_servicer import ScoreServicer, score_service
from session.servicer import SessionServicer, session_service
from tests.support.sessions import fill

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Result:
    """What a command printed."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


Cli = Callable[..., Awaitable[Result]]


async def answered(rpc: RpcClient, question: str, session: str = "") -> str:
    """Asks and answers; returns the session."""
    stub = SessionServiceStub(rpc.channel)
    asked = session_pb2.Message(role=session_pb2.ROLE_USER, content=question)
    request = pb.BeginRunRequest(
        request_id=str(uuid.uuid4()),
        team="teams/helpdesk",
        session=session,
        input=[asked],
        lease_owner="o",
        team_revision="r1",
    )
    request.lease_duration.FromTimedelta(timedelta(seconds=30))
    begun = await rpc.unary(stub.BeginRun, request)
    said = session_pb2.Message(role=session_pb2.ROLE_ASSISTANT, content=f"re: {question}")
    message = run_pb2.RunEvent(sequence=2, message_completed=run_pb2.MessageCompleted(message=said))
    end = run_pb2.RunEvent(sequence=3, run_finished=run_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED))
    for event in (message, end):
        event.create_time.GetCurrentTime()
    append = pb.AppendRunEventsRequest(
        run=begun.run.name, fencing_token=begun.fencing_token, events=[message, end]
    )
    await rpc.unary(stub.AppendRunEvents, append)
    return begun.run.session


async def unsupported(rpc: RpcClient, session: str) -> None:
    """The last answer of the session is scored, and its first six characters are unsupported."""
    runs = await rpc.unary(SessionServiceStub(rpc.channel).ListRuns, pb.ListRunsRequest(session=session))
    wrong = run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED
    scores = run_scores_pb2.RunScores(
        run=runs.runs[0].name,
        evaluator="judge",
        version="1",
        outcome=run_scores_pb2.RunScores.OUTCOME_SCORED,
        faithfulness=0.25,
        sentences=[run_scores_pb2.SentenceScore(start=0, end=6, verdict=wrong)],
    )
    put = scores_pb2.PutRunScoresRequest(scores=scores)
    await rpc.unary(ScoreServiceStub(rpc.channel).PutRunScores, put)


@pytest.fixture
async def cli(tmp_path: Path) -> AsyncIterator[Cli]:
    """The command, of a user with one session of two questions."""
    state = StateFolder(tmp_path / "state")
    state.create()
    url = f"sqlite:///{tmp_path / 'session.db'}"
    await fill(url)
    key = load_key(state.identity_key)
    database = open_database(url, PoolLimits())
    store = SqlSessionStore(database=database, clock=SystemClock(), new_id=new_id)
    tokens = PageTokens(key)
    served = [
        session_service(SessionServicer(store=store, tokens=tokens)),
        memory_service(MemoryServicer(store=store, tokens=tokens)),
        score_service(ScoreServicer(store=store, tokens=tokens)),
    ]

    async def call(*arguments: str) -> Result:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "agentteams_cli", "--state", str(state.root), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        return Result(process.returncode or 0, out.decode(), err.decode())

    try:
        async with serve_in_process(served, key=key) as target:
            one = RunningService(port=int(target.rpartition(":")[2]), metrics_port=0, pid=1)
            services = dict.fromkeys(("orchestrator", "retrieval", "session", "evaluation"), one)
            with state.locked():
                state.write_runtime(RuntimeInfo(pid=os.getpid(), services=services, chat="test"))
                async with rpc_as(target, user="local", key=key) as rpc:
                    session = await answered(rpc, "and then?", await answered(rpc, "why?"))
                async with rpc_as(target, user="local", service="evaluation", key=key) as rpc:
                    await unsupported(rpc, session)
                yield call
    finally:
        await database.close()


async def test_sessions_are_listed_shown_renamed_forked_and_deleted(cli: Cli) -> None:
    [session] = (await cli("sessions", "list", "--output", "json")).json["sessions"]
    assert (session["team"], session["message_count"]) == ("teams/helpdesk", "4")
    name = session["name"]
    shown = await cli("sessions", "show", name.removeprefix("sessions/"))
    assert [line for line in shown.stdout.splitlines() if "?" in line] == [
        f"{name}  helpdesk  why?",
        *("why?", "re: why?", "and then?", "⚠re: an⚠d then?"),
    ]
    assert "faithfulness 0.25" in shown.stdout
    renamed = await cli("sessions", "rename", name, "About reasons")
    assert renamed.stdout == f"{name}  About reasons\n"
    forked = (await cli("sessions", "fork", f"{name}/messages/2", "--output", "json")).json["session"]
    assert forked["message_count"] == "2"
    refused = await cli("sessions", "delete", name)
    assert (refused.code, "Delete" in refused.stderr) == (1, True)  # nobody is there to say yes
    assert (await cli("sessions", "delete", name, "--yes")).code == 0
    left = (await cli("sessions", "list", "--output", "json")).json["sessions"]
    assert [s["name"] for s in left] == [forked["name"]]
    gone = await cli("sessions", "show", name)
    assert gone.code == 1
    assert "agentteams sessions list" in gone.stderr


async def test_memories_and_all_that_is_stored_of_a_user(cli: Cli, tmp_path: Path) -> None:
    memory = (await cli("memories", "add", "Prefers short answers.", "--output", "json")).json["memory"]
    await cli("memories", "add", "Works in Ulm.", "--team", "helpdesk")
    listed = (await cli("memories", "list", "--output", "json")).json["memories"]
    assert [m["text"] for m in listed] == ["Works in Ulm.", "Prefers short answers."]
    found = (await cli("memories", "search", "short answers", "--output", "json")).json["memories"]
    assert [m["name"] for m in found] == [memory["name"]]
    file = tmp_path / "mine.jsonl"
    exported = (await cli("user", "export", str(file), "--output", "json")).json["records"]
    assert exported == {"session": 1, "message": 4, "run": 2, "run_event": 6, "run_scores": 1, "memory": 2}
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert {m["message"]["content"] for m in records if "message" in m} >= {"why?", "re: and then?"}
    assert (await cli("memories", "forget", memory["name"])).code == 0
    erased = (await cli("user", "erase", "--yes", "--output", "json")).json["erased"]
    assert erased == {"sessions": 1, "messages": 4, "runs": 2, "run_events": 6, "memories": 1}
    assert (await cli("memories", "list", "--output", "json")).json == {"memories": []}


async def test_an_export_that_cannot_be_written_says_so_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    failed = await cli("user", "export", str(tmp_path / "no" / "such" / "folder.jsonl"))
    assert failed.code == 1
    assert "cannot be written: No such file or directory" in failed.stderr
