"""Quality of knowledge bases in local mode: a golden set out of a file, scores and their history."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from agentteams.retrieval.v1 import evaluation_pb2 as pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import quality_pb2 as quality_pb

from tests.unit.agentteams_cli.fakes import DOCS, EMBED, Run, Scenario, run, services

__all__ = ["run", "services"]

GOLDEN = "queries: [{query: foxes, relevant: [a.md]}]"
EVALUATION = (
    "  evaluation:\n    goldenSetRef: {configMapKeyRef: {name: golden, key: docs.yaml}}\n"
    '    thresholds: {mrr: "0.7"}\n'
)


def apply(run: Run) -> tuple[int, str]:
    Path("kb.yaml").write_text("---\n".join((DOCS + EVALUATION, EMBED)))
    result = run("apply", "-f", "kb.yaml")
    return result.exit_code, result.stderr


def test_apply_sets_the_golden_set_of_a_file(run: Run, services: Scenario) -> None:
    folder = services.state.config_maps / "golden"
    folder.mkdir()
    (folder / "docs.yaml").write_text(GOLDEN)
    assert apply(run)[0] == 0
    assert services.golden_set.name == "golden/docs.yaml"
    assert [(q.id, q.query) for q in services.golden_set.queries] == [("q1", "foxes")]
    asked = services.knowledge_bases["knowledgeBases/docs"].evaluation
    assert (asked.golden_set, asked.interval_seconds) == ("golden/docs.yaml", 86_400)
    assert asked.thresholds.mrr_at_10 == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "configmaps/golden/docs.yaml; put the golden set there and apply again"),
        ("queries: []", "queries: List should have at least 1 item"),
        ("a: [", "docs.yaml cannot be read"),
    ],
)
def test_a_golden_set_that_cannot_be_had_is_said(
    run: Run, services: Scenario, text: str | None, says: str
) -> None:
    if text is not None:
        (services.state.config_maps / "golden").mkdir()
        (services.state.config_maps / "golden" / "docs.yaml").write_text(text)
    code, said = apply(run)
    assert code == 1
    said = " ".join(said.split())
    assert "KnowledgeBase docs: spec.evaluation.goldenSetRef: " in said
    assert says in said.replace("configmaps/golden/ docs", "configmaps/golden/docs")
    assert "knowledgeBases/docs" in services.knowledge_bases  # searches need no golden set
    assert not services.golden_set.queries


def evaluation(day: int, ndcg: float, missing: int = 0) -> pb.Evaluation:
    made = pb.Evaluation(
        mode=kb_pb.SEARCH_MODE_HYBRID,
        ndcg_at_10=ndcg,
        mrr_at_10=0.5,
        queries=2,
        golden_set_sha256="s",
        missing_documents=missing,
    )
    made.finish_time.FromDatetime(datetime(2026, 1, day, tzinfo=UTC))
    return made


def test_knowledge_shows_quality_and_its_history(run: Run, services: Scenario) -> None:
    one = kb_pb.KnowledgeBase(name="knowledgeBases/docs")
    services.knowledge_bases = {one.name: one}
    assert "quality" not in run("knowledge", "docs").stdout
    one.quality.CopyFrom(
        quality_pb.Quality(
            state=quality_pb.Quality.STATE_DEGRADED,
            message="MRR@10 is 0.5000, below its threshold 0.7",
            golden_set="handbook",
        )
    )
    one.quality.next_time.FromDatetime(datetime(2026, 1, 9, tzinfo=UTC))
    services.evaluations = [evaluation(8, 0.25, missing=3), evaluation(7, 0.75)]
    shown = " ".join(run("knowledge", "docs").stdout.split())
    assert "quality degraded: MRR@10 is 0.5000, below its threshold 0.7 golden set handbook" in shown
    assert "next measured 2026-01-0" in shown
    assert "Hybrid 0.2500 (-0.5000) 0.0000 (+0.0000) 0.0000 (+0.0000) 0.5000 (+0.0000) 2 3 documents" in shown
    assert "Hybrid 0.7500 0.0000" in shown
    found = json.loads(run("knowledge", "docs", "--output", "json").stdout)
    assert found["knowledge_base"]["quality"]["golden_set"] == "handbook"
    assert [one["queries"] for one in found["evaluations"]] == [2, 2]
