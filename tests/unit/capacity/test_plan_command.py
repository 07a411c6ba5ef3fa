"""`agentteams plan`: offline, for people and for programs."""

import json

import pytest
from click.testing import CliRunner, Result

from agentteams_cli.__main__ import agentteams


def _plan(*arguments: str) -> Result:
    return CliRunner().invoke(agentteams, ["plan", *arguments])


def test_prints_the_table_the_reasons_and_what_else_there_is() -> None:
    result = _plan("--vectors", "10M", "--dim", "768", "--recall", "0.95")
    assert result.exit_code == 0
    for expected in (
        "10 million vectors of 768",
        "Distributed",
        "HNSW  M 16",
        "query nodes",
        "Why",
        "IVF_SQ8",
    ):
        assert expected in result.stdout


@pytest.mark.parametrize("option", [["--json"], ["--output", "json"]])
def test_json_has_the_same(option: list[str]) -> None:
    result = _plan("--vectors", "1e7", "--dim", "768", "--replicas", "2", *option)
    document = json.loads(result.stdout)
    assert document["vectors"] == 10_000_000
    assert document["replicas"] == 2
    assert document["memory_bytes"] == 2 * sum(document["memory"].values())
    assert document["reasons"]
    assert {o["index"] for o in document["alternatives"]} == {"FLAT", "IVF_FLAT", "IVF_SQ8", "HNSW_SQ"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--vectors", "many", "--dim", "768"],
            "--vectors many: must be a number such as 250000, 10M or 1e7",
        ),
        (["--vectors", "1M", "--dim", "0"], "--dim 0: must be 1 to 32,768"),
        (["--vectors", "1M", "--dim", "8", "--recall", "95"], "--recall 95: must be 0.5 to 0.999"),
        (["--vectors", "1M", "--dim", "8", "--index", "DISKANN"], "--index DISKANN: must be one of FLAT"),
        (
            ["--vectors", "1M", "--dim", "8", "--node-memory", "1Gib/s"],
            "--node-memory 1Gib/s: must be a size",
        ),
        (
            ["--vectors", "1M", "--dim", "8", "--index", "HNSW_SQ", "--recall", ".99"],
            "index HNSW_SQ: keeps one byte of each element",
        ),
    ],
)
def test_what_makes_no_sense_is_named_with_its_fix(arguments: list[str], message: str) -> None:
    result = _plan(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
