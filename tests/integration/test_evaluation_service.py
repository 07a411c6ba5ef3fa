"""The evaluation service as a process: what waits is scored once, whoever is killed."""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from agentteams.embedding.v1.embedding_service_pb2_grpc import add_EmbeddingServiceServicer_to_server
from agentteams.evaluation.v1 import evaluation_service_pb2 as evaluation_pb
from agentteams.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from agentteams.session.v1 import run_pb2, run_scores_pb2, scores_pb2
from agentteams.session.v1 import session_service_pb2 as pb
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub
from agentteams.session.v1.session_service_pb2_grpc import SessionServiceStub
from google.protobuf.duration_pb2 import Duration
from prometheus_client.parser import text_string_to_metric_families

from evaluation.core.scoring import version
from servicekit.clock import SystemClock
from servicekit.errors import InvalidArgument, NotFound, PermissionDenied
from servicekit.ids import new_id
from servicekit.paging import PageTokens
from servicekit.server import Service
from servicekit.testing import TEST_KEY, rpc_as, serve_in_process
from session.adapters.database import Database, PoolLimits, open_database
from session.adapters.store import SqlSessionStore
from session.adapters.tables import run_scores, run_scorings
from session.golden_servicer import GoldenSetServicer, golden_set_service
from session.score_servicer import ScoreServicer, score_service
from session.servicer import SessionServicer, session_service
from tests.support.live import FakeEmbedding
from tests.support.model_server import ChatRequest, ModelServer, Reply
from tests.support.otlp import Received, collector
from tests.support.ports import free_port
from tests.support.session_service import Client, answer, append, begin, event, finished
from tests.support.sessions import fill
from tests.support.stack import until

_READY_S = 100
MANIFESTS = """
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {{name: chat, namespace: {tenant}}}
spec: {{type: Chat, provider: OpenAICompatible, model: judge, endpoint: {{url: "{url}"}}}}
---
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {{name: helpdesk, namespace: {tenant}}}
spec:
  modelConfigRef: {{name: chat}}
  members: [{{name: agent}}]
  evaluation:
    judgeModelConfigRef: {{name: chat}}
    thresholds: {{faithfulness: "0.8"}}
"""
WARRANTY = "The warranty of the lamp is two years from the day of purchase."
TRUE, PLANTED = "The warranty of the lamp is two years [1].", "The warranty of the lamp is three years [1]."


def judge(request: ChatRequest) -> Reply:
    """No to what the planted hallucination claims, else yes."""
    false = "three years" in request.last_user_text.partition("Claim:")[2]
    return Reply("no" if false else "yes", top_logprobs={"Yes": 0.1, "No": 0.8} if false else {"yes": 0.9})


@dataclass
class World:
    """Everything but the evaluation service."""

    folder: Path
    session: str
    embedding: str
    database: Database
    model: ModelServer
    tenant: str = "acme"
    orchestrator: str = "127.0.0.1:9"

    async def ask(self, said: str, *, revision: str = "r1", trace: str = "", user: str = "ada") -> str:
        """A run that has ended with that answer and waits to be scored. `trace`: its traceparent."""
        async with rpc_as(self.session, tenant=self.tenant, user=user) as rpc:
            client = Client(rpc)
            new = begin("How long is the warranty?", team_revision=revision)
            run = str((await client.BeginRun(new)).run.name)
            found = run_pb2.EvidenceRetrieved(
                query="warranty",
                knowledge_base="knowledgeBases/docs",
                evidence=[
                    run_pb2.Evidence(number=1, chunk="c1", document_title="handbook.md", text=WARRANTY)
                ],
            )
            end = finished(4, run_pb2.RUN_STATE_SUCCEEDED)
            scoring = end.run_finished.summary.scoring
            scoring.selection, scoring.traceparent = run_scores_pb2.ScoringRequest.SELECTION_SAMPLED, trace
            await client.AppendRunEvents(
                append(run, event(2, evidence_retrieved=found), answer(3, said), end)
            )
        return run

    async def scores(self, run: str) -> run_scores_pb2.RunScores:
        """As ada sees them, when they are there: the process may take long to start."""
        request = scores_pb2.GetRunScoresRequest(run=run, wait=Duration(seconds=25))
        async with asyncio.timeout(_READY_S), rpc_as(self.session, tenant=self.tenant, user="ada") as rpc:
            stub: Any = ScoreServiceStub(rpc.channel)
            while True:
                try:
                    return await rpc.unary(stub.GetRunScores, request, timeout=timedelta(seconds=30))
                except NotFound as error:
                    if error.reason != "SCORES_NOT_FOUND":
                        raise

    async def rows(self) -> tuple[int, int]:
        """Stored scores, and runs that wait."""
        count = sa.func.count()
        return await self.database.read(
            lambda c: (
                c.execute(sa.select(count).select_from(run_scores)).scalar_one(),
                c.execute(sa.select(count).select_from(run_scorings)).scalar_one(),
            )
        )

    @asynccontextmanager
    async def serving(
        self, name: str, port: int = 0, *, otlp: str = "", metrics_port: int = 0
    ) -> AsyncIterator[asyncio.subprocess.Process]:
        """The process, until the block ends; its log goes to the test's output."""
        key = self.folder / "identity.key"
        key.write_bytes(TEST_KEY.to_file())
        settings = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "METRICS_PORT": str(metrics_port),
            "IDENTITY_KEY_FILE": str(key),
            "SESSION_TARGET": self.session,
            "EMBEDDING_TARGET": self.embedding,
            "ORCHESTRATOR_TARGET": self.orchestrator,
            "MANIFESTS_DIR": str(self.folder / "manifests"),
            "EVALUATION_LEASE_S": "6",
            "EVALUATION_POLL_S": "0.1",
            "EVALUATION_GOLDEN_POLL_S": "0.2",
            "EVALUATION_GOLDEN_LEASE_S": "3",
            "EVALUATION_JUDGE_CALLS_PER_MINUTE": "100000",
            "EVALUATION_JUDGE_TOKENS_PER_MINUTE": "100000000",
        }
        if otlp:
            settings |= {"OTLP_ENDPOINT": otlp, "TRACE_RATIO": "0"}
        env = {k: v for k, v in os.environ.items() if not k.startswith("AGENTTEAMS_")}
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "evaluation", stdout=file, stderr=file,
                env=env | {f"AGENTTEAMS_{k}": v for k, v in settings.items()},
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
                await asyncio.wait_for(process.wait(), _READY_S)
            print(f"--- {name}\n{log.read_text()}")  # noqa: T201  # shown by pytest if the test fails


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with world_of("acme", tmp_path) as world:
        yield world


@asynccontextmanager
async def world_of(tenant: str, tmp_path: Path) -> AsyncIterator[World]:
    url = f"sqlite:///{tmp_path / 'session.db'}"
    await fill(url)
    async with AsyncExitStack() as stack:
        model = await stack.enter_async_context(ModelServer())
        model.script(judge)
        (tmp_path / "manifests").mkdir()
        (tmp_path / "manifests" / "all.yaml").write_text(MANIFESTS.format(url=model.base_url, tenant=tenant))
        database = open_database(url, PoolLimits(connections=4, timeout=timedelta(seconds=5)))
        stack.push_async_callback(database.close)
        store = SqlSessionStore(database=database, clock=SystemClock(), new_id=new_id)
        tokens = PageTokens(TEST_KEY)
        session = await stack.enter_async_context(
            serve_in_process(
                [
                    session_service(SessionServicer(store=store, tokens=tokens)),
                    score_service(ScoreServicer(store=store, tokens=tokens)),
                    golden_set_service(GoldenSetServicer(store=store, tokens=tokens, new_id=new_id)),
                ]
            )
        )
        name = "agentteams.embedding.v1.EmbeddingService"
        register = partial(add_EmbeddingServiceServicer_to_server, FakeEmbedding())
        embedding = await stack.enter_async_context(serve_in_process([Service(name=name, register=register)]))
        yield World(
            folder=tmp_path,
            session=session,
            embedding=embedding,
            database=database,
            model=model,
            tenant=tenant,
        )


pytestmark = pytest.mark.timeout(240)  # a process that starts on a busy machine


async def test_a_planted_hallucination_is_marked_and_below_the_threshold(world: World) -> None:
    trace, span_id = secrets.token_hex(16), secrets.token_hex(8)
    true = await world.ask(TRUE)
    planted = await world.ask(f"{PLANTED} {TRUE}", trace=f"00-{trace}-{span_id}-00")
    port = free_port()
    async with (
        collector() as collected,
        world.serving("evaluation", otlp=collected.endpoint, metrics_port=port),
    ):
        good, bad = await world.scores(true), await world.scores(planted)
        await counted(port, good, bad)
    # The process has ended, and sent what it had: a span for each run, linked to the run's.
    spans = {str(s.attributes["agentteams.run"]): s for s in collected.spans if s.name == "evaluation"}
    assert set(spans) == {true, planted}
    assert (spans[planted].links, spans[true].links) == (((trace, span_id),), ())
    told(spans[planted], bad, below=["faithfulness"])
    told(spans[true], good, below=[])
    supported, unsupported = (
        run_scores_pb2.SentenceScore.VERDICT_SUPPORTED,
        run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED,
    )
    await shown_where_the_answer_is(world, bad, f"{PLANTED} {TRUE}")
    assert (good.evaluator, good.faithfulness, list(good.below_thresholds)) == ("judge", 1.0, [])
    assert [one.verdict for one in bad.sentences] == [unsupported, supported]
    first = bad.sentences[0]
    assert f"{PLANTED} {TRUE}"[first.start : first.end] == PLANTED
    assert first.faithfulness == pytest.approx(0.1 / 0.9)
    assert (bad.faithfulness, list(bad.below_thresholds)) == (0.5, ["faithfulness"])
    assert bad.grounding > 0.5  # the local method does not see it
    assert (good.agreement, bad.agreement) == (1.0, 0.5)
    assert (bad.team, bad.team_revision, bad.selection) == (
        "teams/helpdesk",
        "r1",
        run_scores_pb2.ScoringRequest.SELECTION_SAMPLED,
    )
    assert (good.judge.model_config, good.judge.calls > 0) == ("modelConfigs/chat", True)


async def counted(port: int, good: run_scores_pb2.RunScores, bad: run_scores_pb2.RunScores) -> None:
    """What the two runs came to is in the service's metrics, once."""
    team = {"team": "acme/helpdesk"}
    kept = {**team, "selection": "SAMPLED"}
    judge = {"model_config": "acme/chat"}
    both = [good.judge, bad.judge]
    wanted = [
        ("score_count", {**kept, "score": "faithfulness"}, 2),
        ("score_sum", {**kept, "score": "faithfulness"}, 1.5),
        ("score_sum", {**kept, "score": "grounding"}, good.grounding + bad.grounding),
        ("agreement_sum", team, 1.5),
        ("below_threshold_total", {**team, "score": "faithfulness"}, 1),
        ("sentences_total", {**team, "finding": "UNSUPPORTED"}, 1),
        ("sentences_total", {**team, "finding": "SUPPORTED"}, 2),
        ("judge_calls_total", {**judge, "outcome": "asked"}, sum(one.calls for one in both)),
        ("judge_calls_total", {**judge, "outcome": "known"}, sum(one.cached for one in both)),
        ("judge_tokens_total", {**judge, "kind": "input"}, sum(one.input_tokens for one in both)),
    ]

    async def served() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        async with httpx.AsyncClient() as http:
            text = (await http.get(f"http://127.0.0.1:{port}/metrics", timeout=10)).text
        samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
        return {(s.name, frozenset(s.labels.items())): s.value for s in samples}

    async def both_are_in() -> bool:  # the metrics come a moment after the scores
        return (await served()).get(
            ("agentteams_evaluation_score_count", frozenset(wanted[0][1].items()))
        ) == 2

    await until(both_are_in, what="both runs in the metrics")
    found = await served()
    for name, labels, value in wanted:
        key = (f"agentteams_evaluation_{name}", frozenset(labels.items()))
        assert found[key] == pytest.approx(value, abs=1e-4), key


async def shown_where_the_answer_is(world: World, scores: run_scores_pb2.RunScores, said: str) -> None:
    """A run has all of its scores, a message those of its sentences that are unsupported."""
    async with rpc_as(world.session, tenant=world.tenant, user="ada") as rpc:
        sessions: Any = SessionServiceStub(rpc.channel)
        basic = await rpc.unary(sessions.GetRun, pb.GetRunRequest(name=scores.run))
        whole = await rpc.unary(
            sessions.GetRun, pb.GetRunRequest(name=scores.run, view=run_pb2.RUN_VIEW_FULL)
        )
        assert (basic.HasField("scores"), whole.scores) == (False, scores)
        listed = await rpc.unary(sessions.ListMessages, pb.ListMessagesRequest(parent=basic.session))
        question, answered = listed.messages
        assert (question.HasField("scores"), answered.content) == (False, said)
        (sentence,) = answered.scores.sentences
        assert said[sentence.start : sentence.end] == PLANTED
        assert (sentence.verdict, sentence.faithfulness) == (
            run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED,
            scores.sentences[0].faithfulness,
        )
        assert (answered.scores.faithfulness, list(answered.scores.chunks)) == (0.5, [])
        assert list(answered.scores.below_thresholds) == ["faithfulness"]
        unknown: Any = 9
        with pytest.raises(InvalidArgument, match="RUN_VIEW_FULL"):
            await rpc.unary(sessions.GetRun, pb.GetRunRequest(name=scores.run, view=unknown))


def told(span: Received, scores: run_scores_pb2.RunScores, *, below: list[str]) -> None:
    """The span of a scored run has an event for each score, as the GenAI conventions name it."""
    assert (span.service, span.parent) == ("evaluation", "")
    whose = {"agentteams.run": scores.run, "agentteams.team": "helpdesk", "agentteams.tenant": "acme"}
    assert span.attributes == whose | {"agentteams.evaluation.outcome": "SCORED"}
    assert {name for name, _ in span.events} == {"gen_ai.evaluation.result"}
    assert [result for _, result in span.events] == [
        {
            "gen_ai.evaluation.name": name,
            "gen_ai.evaluation.score.value": pytest.approx(getattr(scores, name)),
            "gen_ai.evaluation.score.label": "fail" if name in below else "pass",
            "agentteams.evaluation.version": f"{scores.evaluator}/{scores.version}",
        }
        for name in ("faithfulness", "grounding", "retrieval_relevance", "answer_relevance")
    ]


async def test_a_service_that_is_killed_loses_no_run_and_scores_none_twice(world: World) -> None:
    # Different words for each: what a judge has answered it is not asked again.
    runs = [await world.ask((TRUE if n % 2 else PLANTED).replace("lamp", f"lamp {n}")) for n in range(8)]
    held, in_the_middle = asyncio.Event(), asyncio.Event()
    seen = 0

    def slow(request: ChatRequest) -> Reply:
        nonlocal seen
        seen += 1
        if seen <= 6:
            return judge(request)
        in_the_middle.set()  # some runs are scored, and some are being scored
        return replace(judge(request), gate=held)

    world.model.script(slow)
    async with world.serving("first") as first:
        async with asyncio.timeout(_READY_S):
            await in_the_middle.wait()
        first.send_signal(signal.SIGKILL)
        await first.wait()
    held.set()
    stored, waiting = await world.rows()
    assert stored + waiting == len(runs)
    assert waiting > 0
    async with world.serving("second"):
        for number, run in enumerate(runs):
            scores = await world.scores(run)
            assert scores.outcome == run_scores_pb2.RunScores.OUTCOME_SCORED
            assert scores.faithfulness == number % 2
    assert await world.rows() == (len(runs), 0)


async def test_scores_are_written_by_evaluation_services_and_read_by_their_owner_alone(
    world: World,
) -> None:
    run = await world.ask(TRUE)
    new = run_scores_pb2.RunScores(
        run=run, evaluator="judge", version="9", outcome=run_scores_pb2.RunScores.OUTCOME_SCORED
    )
    async with rpc_as(world.session, tenant="acme", user="ada") as rpc:
        stub: Any = ScoreServiceStub(rpc.channel)
        with pytest.raises(PermissionDenied):
            await rpc.unary(stub.PutRunScores, scores_pb2.PutRunScoresRequest(scores=new))
        claim = scores_pb2.ClaimRunScoringsRequest(lease_owner="me", lease_duration=Duration(seconds=5))
        with pytest.raises(PermissionDenied):
            await rpc.unary(stub.ClaimRunScorings, claim)
        with pytest.raises(NotFound) as missing:
            await rpc.unary(stub.GetRunScores, scores_pb2.GetRunScoresRequest(run=run))
        assert missing.value.reason == "SCORES_NOT_FOUND"
    async with rpc_as(world.session, tenant="acme", user="ada", service="evaluation") as rpc:
        stub = ScoreServiceStub(rpc.channel)
        await rpc.unary(stub.PutRunScores, scores_pb2.PutRunScoresRequest(scores=new))
    async with rpc_as(world.session, tenant="acme", user="bob") as rpc:
        stub = ScoreServiceStub(rpc.channel)
        with pytest.raises(NotFound) as hidden:
            await rpc.unary(stub.GetRunScores, scores_pb2.GetRunScoresRequest(run=run))
        assert hidden.value.reason == "RUN_NOT_FOUND"
    async with rpc_as(world.session, tenant="acme", user="ada") as rpc:
        records: list[pb.UserRecord] = []
        sessions: Any = SessionServiceStub(rpc.channel)
        async for part in rpc.server_stream(sessions.ExportUserData, pb.ExportUserDataRequest()):
            records += part.records
        assert [one.run_scores.version for one in records if one.HasField("run_scores")] == ["9"]


async def test_a_run_is_scored_on_demand_and_known_scores_are_not_computed_again(world: World) -> None:
    port = free_port()
    run = await world.ask(PLANTED)
    async with world.serving("evaluation", port):
        await world.scores(run)  # it is up
        asked = len(world.model.requests)
        async with rpc_as(f"127.0.0.1:{port}", tenant="acme", user="ada") as rpc:
            stub: Any = EvaluationServiceStub(rpc.channel)
            scores = await rpc.unary(stub.ScoreRun, evaluation_pb.ScoreRunRequest(run=run))
            assert scores.faithfulness == 0.0
            assert len(world.model.requests) == asked
            # What an outage of the judge left is tried again, and replaced.
            left = await world.ask(f"{TRUE} Indeed.")
            await world.scores(left)
            await leave_failed(world, left)
            again = await rpc.unary(stub.ScoreRun, evaluation_pb.ScoreRunRequest(run=left))
        assert (again.outcome, again.reason) == (run_scores_pb2.RunScores.OUTCOME_SCORED, "")
        assert await world.scores(left) == again


async def leave_failed(world: World, run: str) -> None:
    """As if the judge had not answered."""
    await world.database.write(
        lambda c: c.execute(sa.delete(run_scores).where(run_scores.c.run_id == run.removeprefix("runs/")))
    )
    failed = run_scores_pb2.RunScores(
        run=run, evaluator="judge", version=version(judged=True),
        outcome=run_scores_pb2.RunScores.OUTCOME_FAILED, reason="MODEL_UNAVAILABLE",
    )  # fmt: skip
    async with rpc_as(world.session, tenant="acme", user="ada", service="evaluation") as rpc:
        stub: Any = ScoreServiceStub(rpc.channel)
        await rpc.unary(stub.PutRunScores, scores_pb2.PutRunScoresRequest(scores=failed))
