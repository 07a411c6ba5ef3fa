"""What the retrieval service is asked, and what is made of its answer."""

from datetime import timedelta
from typing import Any

from agentteams.retrieval.v1 import retrieval_service_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from manifests.team import KnowledgeBaseRef
from orchestrator.adapters.knowledge_client import KnowledgeClient, without_overlap
from orchestrator.core import prompts
from orchestrator.core.model import Evidence, SearchQuery, SearchResult


class Answering:
    """In place of an `RpcClient`: notes the request and answers."""

    def __init__(self, answer: pb.SearchResponse) -> None:
        self.answer = answer
        self.asked: list[Any] = []
        self.channel = self

    def __getattr__(self, name: str) -> Any:  # the stub asks the channel for methods
        return lambda *_, **__: None

    async def unary(self, method: object, request: object, *, timeout: timedelta | None = None) -> Any:
        self.asked.append(request)
        return self.answer


def chunk(*around: tuple[int, str], ordinal: int = 3, text: str = "found") -> pb.Chunk:
    made = pb.Chunk(id="c", document="d", document_title="a.md", ordinal=ordinal, text=text, score=2.0)
    for number, beside in around:
        made.neighbours.add(id=f"n{number}", ordinal=number, text=beside)
    return made


async def search(response: pb.SearchResponse, **fields: Any) -> tuple[SearchResult, pb.SearchRequest]:
    rpc: Any = Answering(response)
    client = KnowledgeClient(rpc)
    result = await client.search(SearchQuery(knowledge_base="docs", text="q", top_k=4, **fields))
    return result, rpc.asked[0]


def ok(*chunks: pb.Chunk) -> pb.SearchResponse:
    return pb.SearchResponse(outcome=pb.SEARCH_OUTCOME_OK, chunks=chunks)


async def test_what_the_team_wants_is_asked_for() -> None:
    _, plain = await search(ok())
    assert (plain.neighbours, plain.max_per_document, plain.top_k) == (0, 0, 4)
    assert not plain.HasField("filter")
    _, asked = await search(ok(), neighbours=2, max_per_document=3, filter="year > 2020")
    assert (asked.neighbours, asked.max_per_document) == (2, 3)
    compare = asked.filter.compare
    assert (compare.field, compare.value.int_value) == ("year", 2020)


async def test_whose_it_is_is_asked_for_where_it_is_another_namespaces() -> None:
    rpc: Any = Answering(ok())
    client = KnowledgeClient(rpc)
    await client.search(SearchQuery(knowledge_base="team-a/docs", text="q", top_k=4))
    await client.search(SearchQuery(knowledge_base="docs", text="q", top_k=4))
    await client.revision("team-a/docs")
    asked = [(r.owner_tenant, getattr(r, "knowledge_base", "") or r.name) for r in rpc.asked]
    assert asked == [
        ("team-a", "knowledgeBases/docs"), ("", "knowledgeBases/docs"), ("team-a", "knowledgeBases/docs"),
    ]  # fmt: skip


def test_a_reference_says_its_namespace_only_where_it_is_another() -> None:
    assert KnowledgeBaseRef(name="docs").of("n") == "docs"
    assert KnowledgeBaseRef(name="docs", namespace="n").of("n") == "docs"
    assert KnowledgeBaseRef(name="docs", namespace="a").of("n") == "a/docs"


async def test_neighbours_stand_around_what_was_found_and_say_nothing_twice() -> None:
    found = chunk(
        (4, "the pump lasts two years. It is made of iron."),
        (2, "Every part is checked."),
        text="Read this: the pump lasts two years.",
    )
    result, _ = await search(ok(found))
    (made,) = result.chunks
    assert made.text == ("Every part is checked.\nRead this: the pump lasts two years.\nIt is made of iron.")
    assert (made.id, made.title) == ("c", "a.md")  # citations name the hit
    shown = prompts.search_report("q", result, [Evidence(number=1, chunk=made)])
    assert "[1] (a.md) Every part is checked." in shown


async def test_similarity_is_known_where_vectors_were_compared() -> None:
    near = chunk()
    near.similarity = 0.5
    result, _ = await search(ok(near, chunk()))
    assert [one.similarity for one in result.chunks] == [0.5, None]


async def test_a_rerank_that_was_given_up_is_told_to_the_model() -> None:
    response = pb.SearchResponse(outcome=pb.SEARCH_OUTCOME_DEGRADED, chunks=[chunk()])
    response.reasons.add(
        code=pb.SearchReason.CODE_RERANK_UNAVAILABLE,
        message="models/r did not rerank (away); the order is that of the search",
    )
    result, _ = await search(response)
    shown = prompts.search_report("q", result, [Evidence(number=1, chunk=result.chunks[0])])
    assert "the search was limited: models/r did not rerank (away); the order is that of the search" in shown


@given(st.text("ab ", max_size=60), st.text("ab ", min_size=12, max_size=40), st.text("ab ", max_size=60))
def test_what_two_pieces_share_is_said_once(left: str, shared: str, right: str) -> None:
    rest = without_overlap(left + shared, shared + right)
    assert len(rest) <= len(right)
    assert (shared + right).endswith(rest)


def test_pieces_that_share_nothing_stay_as_they_are() -> None:
    assert without_overlap("one two three four five", "six seven eight nine") == "six seven eight nine"
    # A word at the border may be there by chance.
    assert without_overlap("it ends with the", "the next begins with it") == "the next begins with it"
