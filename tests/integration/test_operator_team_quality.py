"""The quality of an AgentTeam as a condition: real API server, operator, session and evaluation services."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from agentteams.session.v1 import golden_sets_pb2 as golden_pb
from agentteams.session.v1 import run_scores_pb2, scores_pb2
from agentteams.session.v1.golden_sets_pb2_grpc import GoldenSetServiceStub
from agentteams.session.v1.scores_pb2_grpc import ScoreServiceStub
from prometheus_client.parser import text_string_to_metric_families

from agentteams_operator.adapters.session import SessionScores
from agentteams_operator.core.ports import ScoresUnavailable
from servicekit.testing import TEST_KEY, rpc_as
from tests.integration.test_evaluation_service import PLANTED, TRUE, World, world_of
from tests.integration.test_operator_knowledge import apply, kubectl
from tests.integration.test_operator_teams import team
from tests.support.alerts import Timeline
from tests.support.kube import Cluster
from tests.support.operator_process import condition, fake_endpoint, model, running_operator
from tests.support.ports import free_port
from tests.support.stack import until

pytestmark = pytest.mark.slow
EVALUATION = {"judgeModelConfigRef": {"name": "m"}, "thresholds": {"faithfulness": "0.5"}}
WINDOW = timedelta(hours=24)


@pytest.fixture
async def world(tmp_path: Path, namespace: str) -> AsyncIterator[World]:
    async with world_of(namespace, tmp_path) as world:
        yield world


@pytest.fixture
def operator(cluster: Cluster, namespace: str, world: World, tmp_path: Path) -> Iterator[None]:
    with running_operator(
        cluster, tmp_path, namespaces=[namespace], key=TEST_KEY.to_file(), session_target=world.session,
        lease_namespace=namespace, lease_s="6",
    ) as process:  # fmt: skip
        yield
        assert "Traceback" not in process.log


async def helpdesk(cluster: Cluster, where: str, reason: str) -> dict[str, Any]:
    """The team, when it serves with that reason. Touched, since the operator looks once a minute."""
    found: dict[str, Any] = {}
    notes = iter(range(1_000_000))

    async def said() -> bool:
        nonlocal found
        await kubectl(cluster, "annotate", "--overwrite", "at/helpdesk", where, f"note={reason}{next(notes)}")
        await asyncio.sleep(0.5)
        found = await asyncio.to_thread(cluster.get, "at/helpdesk", where)
        # Also before a revision serves there are no scores.
        serves = "currentRevision" in found.get("status", {})
        return serves and bool(condition(found, "QualityDegraded").get("reason", "") == reason)

    await until(said, within_s=60, what=f"QualityDegraded is {reason}")
    return found


async def hour(world: World, line: Timeline, port: int, said: str, revision: str, *, runs: int) -> None:
    """So many runs that say that, one each six minutes of the timeline, which begins before the first."""

    def scrape() -> str:
        """Empty: it is not up yet."""
        try:
            url = f"http://127.0.0.1:{port}/metrics"
            return httpx.get(url, timeout=10).text
        except httpx.ConnectError:
            return ""

    def counted(text: str) -> float:
        families = text_string_to_metric_families(text)
        found = [s for f in families for s in f.samples if s.name == "agentteams_evaluation_runs_total"]
        return sum(sample.value for sample in found)

    async def known() -> bool:
        return f'team="{world.tenant}/helpdesk"' in await asyncio.to_thread(scrape)

    await until(known, within_s=60, what="series of the team")
    text = await asyncio.to_thread(scrape)
    if not (before := counted(text)):
        line.add(text, minutes=6)
        line.expect("AgentTeamsAnswersUnsupportedFast", firing=[])
    for number in range(1, runs + 1):
        run = await world.ask(said, revision=revision)
        assert (await world.scores(run)).outcome == run_scores_pb2.RunScores.OUTCOME_SCORED

        async def seen(number: int = number) -> bool:
            return counted(await asyncio.to_thread(scrape)) == before + number

        await until(seen, what="the run in the metrics")
        line.add(await asyncio.to_thread(scrape), minutes=6)


@pytest.mark.timeout(240)  # two processes that start on a busy machine
async def test_planted_hallucinations_degrade_a_team_and_supported_answers_mend_it(
    cluster: Cluster,
    namespace: str,
    world: World,
    operator: None,
    tmp_path: Path,
) -> None:
    where = f"--namespace={namespace}"
    with fake_endpoint() as endpoint:
        await apply(cluster, namespace, model(endpoint), team("helpdesk", evaluation=EVALUATION))
        found = await helpdesk(cluster, where, "NotScored")
        assert found["status"]["quality"] == {"verdict": "Unknown"}
        revision = found["status"]["currentRevision"]
        name = "AgentTeamsAnswersUnsupportedFast"
        line, of_team = Timeline(), {"team": f"{namespace}/helpdesk"}
        port = free_port()
        async with world.serving("evaluation", metrics_port=port):
            await hour(world, line, port, PLANTED, revision, runs=9)
            found = await helpdesk(cluster, where, "TooFewRuns")
            assert condition(found, "QualityDegraded")["status"] == "Unknown"
            await hour(world, line, port, PLANTED, revision, runs=1)
            line.expect(name, firing=[of_team])
            found = await helpdesk(cluster, where, "BelowThresholds")
            told = condition(found, "QualityDegraded")
            assert told["status"] == "True"
            words = "faithfulness is 0.0000, below its threshold 0.5; 10 runs of revision"
            assert told["message"].startswith(f"{words} {revision} in")
            assert found["status"]["quality"].items() >= {"verdict": "Degraded", "runs": 10}.items()
            ready = condition(found, "Ready")
            table = await kubectl(cluster, "get", "at/helpdesk", where)
            assert "QUALITY" in table
            assert "Degraded" in table

            await hour(world, line, port, TRUE, revision, runs=10)
            line.expect(name, firing=[])
            found = await helpdesk(cluster, where, "AboveThresholds")
        assert condition(found, "QualityDegraded")["status"] == "False"
        await asyncio.to_thread(line.check, tmp_path)  # what set the condition set off the alert
        assert found["status"]["quality"]["faithfulness"] == "0.5000"
        assert condition(found, "Ready") == ready
        events = await kubectl(cluster, "get", "events", where)
        assert "QualityDegraded" in events
        assert "QualityRestored" in events
        # Another revision has its own runs.
        other = team("helpdesk", evaluation=EVALUATION, instructions="Be brief.")
        await apply(cluster, namespace, other)
        found = await helpdesk(cluster, where, "NotScored")
        assert found["status"]["currentRevision"] != revision
        assert found["status"]["quality"] == {"verdict": "Unknown"}
        await apply(cluster, namespace, team("helpdesk", instructions="Be brief."))
        found = await helpdesk(cluster, where, "")
        assert "quality" not in found["status"]
        await golden_set_degrades(cluster, namespace, world)


async def golden_set_degrades(cluster: Cluster, namespace: str, world: World) -> None:
    """A ConfigMap's golden set goes to the session service, and what came of it into the team's status."""
    where = f"--namespace={namespace}"
    ref = {"configMapKeyRef": {"name": "golden", "key": "team.yaml"}}
    asked = {"goldenSetRef": ref, "thresholds": {"factsPresent": "0.8"}}
    await apply(cluster, namespace, team("helpdesk", instructions="Be brief.", evaluation=asked))
    await helpdesk(cluster, where, "ConfigMapNotFound")
    metadata = {"name": "golden", "namespace": namespace}
    text = 'questions: [{question: "How long is the warranty?", facts: [two years, "[1]"]}]'
    config_map = {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"team.yaml": text},
    }  # fmt: skip
    await apply(cluster, namespace, config_map)
    found = await helpdesk(cluster, where, "NotEvaluated")
    assert condition(found, "GoldenSetReady")["status"] == "True"
    revision = found["status"]["currentRevision"]
    for facts, reason in ((0.5, "BelowThresholds"), (1.0, "AboveThresholds")):
        async with rpc_as(world.session, tenant=namespace, user="", service="evaluation") as rpc:
            stub: Any = GoldenSetServiceStub(rpc.channel)
            request = golden_pb.GetTeamGoldenSetRequest(team="teams/helpdesk")
            known = await rpc.unary(stub.GetTeamGoldenSet, request)
            assert (known.golden_set, known.questions) == ("golden/team.yaml", 1)
            claim = golden_pb.ClaimTeamGoldenSetRequest(
                team=known.team, golden_set_sha256=known.golden_set_sha256, turn=known.turn
            )
            claim.lease_duration.FromSeconds(60)
            token = (await rpc.unary(stub.ClaimTeamGoldenSet, claim)).token
            made = scores_pb2.TeamEvaluation(
                name=f"teamEvaluations/{uuid.uuid4()}", team_revision=revision, facts_present=facts,
                golden_set_sha256=known.golden_set_sha256,
            )  # fmt: skip
            end = golden_pb.EndTeamGoldenSetRequest(team=known.team, token=token, evaluation=made)
            await rpc.unary(stub.EndTeamGoldenSet, end)
        found = await helpdesk(cluster, where, reason)
        assert found["status"]["quality"]["goldenSet"]["factsPresent"] == f"{facts:.4f}"
        assert found["status"]["quality"]["goldenSet"]["revision"] == revision


async def put(world: World, **scores: Any) -> None:
    """Scores of a new run, as the evaluation service stores them."""
    run = await world.ask(TRUE, revision=scores.pop("revision", "r1"))
    new = run_scores_pb2.RunScores(
        run=run, evaluator="judge", version="1", outcome=run_scores_pb2.RunScores.OUTCOME_SCORED,
        selection=run_scores_pb2.ScoringRequest.SELECTION_SAMPLED, **scores,
    )  # fmt: skip
    async with rpc_as(world.session, tenant=world.tenant, user="ada", service="evaluation") as rpc:
        stub: Any = ScoreServiceStub(rpc.channel)
        await rpc.unary(stub.PutRunScores, scores_pb2.PutRunScoresRequest(scores=new))


async def test_the_operator_reads_the_scores_of_its_teams_namespace(tmp_path: Path) -> None:
    async with world_of("acme", tmp_path) as world, rpc_as(world.session, tenant="", user="") as rpc:
        scores = SessionScores(rpc)
        assert await scores.by_revision("acme", "helpdesk", window=WINDOW) == {}
        for _ in range(3):
            await put(world, faithfulness=0.8, retrieval_relevance=0.25)
        await put(world, revision="r2", grounding=0.5, answer_relevance=1.0)
        found = await scores.by_revision("acme", "helpdesk", window=WINDOW)
        # 0.8 three times is 0.8, and not a little less.
        assert found["r1"].means == {"faithfulness": 0.8, "retrievalRelevance": 0.25}
        assert found["r2"].means == {"grounding": 0.5, "answerRelevance": 1.0}
        assert (found["r1"].runs, found["r2"].runs) == (3, 1)
        assert found["r1"].newest_at.tzinfo is not None
        assert await scores.by_revision("other", "helpdesk", window=WINDOW) == {}


async def test_a_session_service_that_is_away_is_no_absence_of_scores() -> None:
    async with rpc_as("127.0.0.1:9", tenant="", user="") as rpc:
        with pytest.raises(ScoresUnavailable):
            await SessionScores(rpc).by_revision("acme", "helpdesk", window=WINDOW)
