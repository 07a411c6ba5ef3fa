"""agentteams search: what it asks and what it shows."""

import pytest
from agentteams.retrieval.v1 import filter_pb2 as filter_pb
from agentteams.retrieval.v1 import retrieval_service_pb2 as pb

from tests.unit.agentteams_cli.fakes import Run, Scenario, run, services

__all__ = ["run", "services"]


def test_without_options_the_knowledge_base_decides(run: Run, services: Scenario) -> None:
    run("search", "docs", "q")
    assert services.searched == [pb.SearchRequest(knowledge_base="knowledgeBases/docs", query="q")]


def test_every_option_is_passed_on(run: Run, services: Scenario) -> None:
    services.search = pb.SearchResponse(outcome=pb.SEARCH_OUTCOME_OK)
    result = run(
        *("search", "docs", "q", "--also", "r", "--also", "s", "--top-k", "4", "--mode", "hybrid"),
        *("--filter", 'year >= 2020 and lang == "en"', "--min-similarity", "0.25"),
        *("--ranker", "weighted:0.75", "--rerank", "best", "--diverse", "0.5"),
        *("--max-per-document", "2", "--neighbours", "1"),
    )
    assert result.exit_code == 0, result.stderr
    (asked,) = services.searched
    assert (list(asked.more_queries), asked.top_k, asked.mode) == (["r", "s"], 4, 3)
    assert [f.compare.field for f in asked.filter.all_of.filters] == ["year", "lang"]
    assert (asked.min_similarity, asked.relevance_weight) == (0.25, 0.5)
    assert (asked.ranker.weighted.dense_weight, asked.rerank.model) == (0.75, "models/best")
    assert (asked.max_per_document, asked.neighbours, asked.rerank_off) == (2, 1, False)
    run("search", "docs", "q", "--ranker", "rrf:20", "--no-rerank")
    assert services.searched[1].ranker.reciprocal_rank.k == 20
    assert services.searched[1].rerank_off
    run("search", "docs", "q", "--ranker", "rrf")
    assert services.searched[2].ranker.HasField("reciprocal_rank")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--filter", "year = 2020"], "character 6: '=' is not expected"),
        (["--ranker", "best"], "'best' must be rrf, rrf:K"),
        (["--ranker", "rrf:0"], "'rrf:0' must be rrf, rrf:K"),
        (["--ranker", "weighted:2"], "'weighted:2' must be rrf"),
        (["--ranker", "weighted"], "'weighted' must be rrf"),
        (["--rerank", "a", "--no-rerank"], "exclude one another"),
        (["--neighbours", "6"], "6 is not in the range 0<=x<=5"),
    ],
)
def test_what_is_wrong_is_told(run: Run, services: Scenario, arguments: list[str], said: str) -> None:
    result = run("search", "docs", "q", *arguments)
    assert (result.exit_code, services.searched) == (2, [])
    assert said in " ".join(result.stderr.split())


def test_similarity_metadata_and_neighbours_are_shown(run: Run, services: Scenario) -> None:
    chunk = pb.Chunk(
        id="c4", document_title="a.md", ordinal=4, text="found", score=0.5, location="p 1", similarity=0.876
    )
    chunk.metadata["year"].CopyFrom(filter_pb.Value(int_value=2020))
    chunk.metadata["draft"].CopyFrom(filter_pb.Value(bool_value=False))
    chunk.neighbours.add(id="c3", ordinal=3, text="before")
    chunk.neighbours.add(id="c5", ordinal=5, text="after")
    services.search = pb.SearchResponse(outcome=pb.SEARCH_OUTCOME_OK, chunks=[chunk])
    assert run("search", "docs", "q").stdout == (
        "1. a.md, p 1  0.5000  similarity 0.88  draft=false  year=2020  chunk c4\n"
        "   … before\n"
        "   found\n"
        "   … after\n"
        "\n"
    )
