"""agentteams evaluate, and the files of golden sets."""

import json
from pathlib import Path

import pytest
from agentteams.retrieval.v1 import evaluation_pb2 as pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb

from agentteams_cli.errors import CliError
from agentteams_cli.golden import read_golden_set
from tests.unit.agentteams_cli.fakes import Run, Scenario, run, services

__all__ = ["run", "services"]

GOLDEN = """
queries:
- {query: how to start, relevant: [a.md, b.md]}
- {id: mine, query: what fails, relevant: {c.md: 3}}
"""
DENSE, SPARSE = kb_pb.SEARCH_MODE_DENSE, kb_pb.SEARCH_MODE_SPARSE


def scores(mode: kb_pb.SearchMode.ValueType, ndcg: float, *, sha256: str = "new") -> pb.Evaluation:
    return pb.Evaluation(
        mode=mode, ndcg_at_10=ndcg, recall_at_10=0.5, queries=2, golden_set_sha256=sha256, degraded=1
    )


def ended(*evaluations: pb.Evaluation) -> list[pb.EvaluateKnowledgeBaseResponse]:
    return [
        pb.EvaluateKnowledgeBaseResponse(total=2, missing_paths=["gone.md"]),
        pb.EvaluateKnowledgeBaseResponse(done=2, total=2, evaluations=evaluations, missing_paths=["gone.md"]),
    ]


def test_scores_with_the_change_against_the_last_of_the_same_golden_set(
    run: Run,
    services: Scenario,
) -> None:
    Path("golden.yaml").write_text(GOLDEN)
    services.evaluation = ended(scores(DENSE, 0.75), scores(SPARSE, 0.25))
    services.evaluations = [
        scores(DENSE, 0.1, sha256="another"),
        scores(DENSE, 0.5),
        scores(DENSE, 0.9),
    ]
    result = run("evaluate", "docs", "--golden", "golden.yaml", "--modes", "dense,Sparse")
    assert result.exit_code == 0, result.stderr
    dense, sparse = result.stdout.splitlines()[1:]
    assert dense.split()[:3] == ["Dense", "0.7500", "(+0.2500)"]
    assert sparse.split()[:2] == ["Sparse", "0.2500"]
    assert "1 degraded" in dense
    assert "(" not in sparse
    assert "not in the knowledge base, or not READY, hence found by no search: gone.md" in result.stderr
    assert list(services.evaluated[0].modes) == [DENSE, SPARSE]
    assert [(q.id, q.query) for q in services.golden_set.queries] == [
        ("q1", "how to start"),
        ("mine", "what fails"),
    ]
    assert [(j.path, j.grade) for j in services.golden_set.queries[1].relevant] == [("c.md", 3)]
    document = json.loads(run("evaluate", "docs", "--output", "json").stdout)
    assert [one["ndcg_at_10"] for one in document["evaluations"]] == [0.75, 0.25]
    assert document["missing_paths"] == ["gone.md"]
    assert [one["ndcg_at_10"] for one in document["before"]] == [0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-ndcg", "0.75", "--min-recall", "0.5"), ""),
        (("--min-ndcg", "0.76"), "nDCG@10 of Dense is 0.7500, below 0.76"),
        (("--min-recall", "0.6"), "recall@10 of Dense is 0.5000, below 0.6"),
    ],
)
def test_scores_below_what_was_asked_for_fail(
    run: Run,
    services: Scenario,
    options: tuple[str, ...],
    message: str,
) -> None:
    services.golden_set.queries.add(id="1")
    services.evaluation = ended(scores(DENSE, 0.75))
    result = run("evaluate", "docs", *options)
    assert (result.exit_code, message in result.stderr) == (1 if message else 0, True)
    assert "Dense" in result.stdout


def test_what_cannot_be_evaluated(run: Run, services: Scenario) -> None:
    result = run("evaluate", "docs")
    assert result.exit_code == 1
    assert "has no golden set; give one with --golden FILE" in result.stderr
    result = run("evaluate", "docs", "--modes", "dense,fuzzy")
    assert (result.exit_code, "fuzzy is none of Dense, Sparse, Hybrid" in result.stderr) == (2, True)
    services.golden_set.queries.add(id="1")
    result = run("evaluate", "docs")
    assert (result.exit_code, "ended without scores" in result.stderr) == (1, True)


def test_beir_files(tmp_path: Path) -> None:
    file = tmp_path / "scifact.json"
    beir = {
        "docs": [["d1", "t", "x"]],
        "queries": {"1": "one", "2": "nobody judged it"},
        "qrels": {"1": {"d1": 1, "d2": 0}},
    }
    file.write_text(json.dumps(beir))
    (query,) = read_golden_set(file).queries
    assert (query.id, query.query, [(j.path, j.grade) for j in query.relevant]) == ("1", "one", [("d1", 1)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("queries: []", "queries: List should have at least 1 item"),
        ("queries: [{query: x, relevant: [[]]}]", "queries.0.relevant: Input should be a valid dictionary"),
        ("queries: [{query: x}]", "queries.0.relevant: Field required"),
        ("queries: [{query: x, relevant: {a.md: 11}}]", "less than or equal to 10"),
        ("queries: [{query: x, relevant: [a.md], paths: 1}]", "queries.0.paths: Extra inputs"),
        ("just text", "valid dictionary"),
        ("{", "cannot be read"),
    ],
)
def test_files_that_are_no_golden_sets(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "golden.yaml"
    file.write_text(text)
    with pytest.raises(CliError, match=said):
        read_golden_set(file)
