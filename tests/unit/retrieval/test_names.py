import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.adapters.milvus_rows import literal
from retrieval.core.names import (
    check_path,
    document_id,
    document_ids,
    knowledge_base_id,
)
from retrieval.core.places import collection_alias
from retrieval.settings import Settings
from servicekit.errors import InvalidArgument


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "a//b", "../up", "a/../b", "./a", "a\\b", "a/\x00b", "a\nb", "x" * 1025, "a/"],
)
def test_paths_that_are_refused(path: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_path(path, field="header.path")
    assert caught.value.violations[0].field == "header.path"


def test_equal_looking_paths_are_one_document() -> None:
    assert check_path("cafe\u0301.md", field="path") == check_path("caf\u00e9.md", field="path")
    name = f"knowledgeBases/kb/documents/{document_id('a/b.md')}"
    assert document_ids(name, field="name") == ("kb", document_id("a/b.md"))
    assert document_id("a/b.md") != document_id("a/c.md")


@pytest.mark.parametrize("name", ["kb", "knowledgeBases/", "knowledgeBases/Up", "knowledgeBases/-a", "x/a"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        knowledge_base_id(name, field="name")


def test_two_tenants_never_share_a_collection() -> None:
    aliases = {collection_alias(*pair) for pair in (("a", "b-c"), ("a-b", "c"), ("a_b", "c"), ("A", "b-c"))}
    assert len(aliases) == 4


@given(value=st.text())
def test_literals_have_no_open_quote(value: str) -> None:
    inside = literal(value)[1:-1]
    assert "\n" not in inside
    unescaped = inside.replace("\\\\", "").replace('\\"', "")
    assert '"' not in unescaped


def test_a_file_is_no_milvus_address() -> None:
    with pytest.raises(ValueError, match="milvus-lite server"):
        Settings(identity_key_file="key", milvus_uri="./milvus.db")
