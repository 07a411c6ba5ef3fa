"""The words that keyword search compares."""

import pytest

from retrieval.core.words import query_words, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Running the RUNS, runner", ["run", "the", "run", "runner"]),
        ("AGENTTEAMS_MILVUS_URI=docs/install.md", ["agentteam", "milvus", "uri", "doc", "instal", "md"]),
        ("Füchse 3.5", ["füchse", "3", "5"]),
        ("数据库 and 索x", ["数据", "据库", "and", "索", "x"]),
        ("日", ["日"]),
        ("… -- !", []),
        ("x" * 200, ["x" * 64]),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_a_query_is_without_the_commonest_words_unless_it_has_no_others() -> None:
    assert query_words("what is in the evaluations") == ["what", "evalu"]
    assert query_words("To be or not to be") == ["to", "be", "or", "not", "to", "be"]
