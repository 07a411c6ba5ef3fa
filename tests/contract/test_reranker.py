"""What every `Reranker` does, and what endpoints in trouble come to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from embedding.adapters.factory import RerankFactory
from embedding.adapters.rerank_endpoint import RerankEndpoint
from embedding.core.admission import Admission
from embedding.core.ports import LocalSource, RemoteSource, Reranker
from servicekit.errors import FailedPrecondition, Internal, ResourceExhausted, ServiceError
from tests.support.rerank_server import RerankServer
from tests.support.tiny_embedding import write_tiny_reranker

QUERY = "iron tower"
PASSAGES = ["bread and cheese", "a tower of iron", "the iron bridge"]
FACTORY = RerankFactory(threads=2, max_queued_texts=300)


@pytest.fixture(params=["onnx", "cohere", "tei"])
async def reranker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Reranker]:
    if request.param == "onnx":
        opened = await FACTORY(LocalSource(folder=write_tiny_reranker(tmp_path / "m")))
        yield opened
        await opened.aclose()
        return
    async with RerankServer(request.param) as server:
        opened = await FACTORY(RemoteSource(url=server.url, model="r"))
        yield opened
        await opened.aclose()


async def test_scores_are_those_of_the_passages_in_their_order(reranker: Reranker) -> None:
    forward = (await reranker.rerank(QUERY, PASSAGES)).scores
    backward = (await reranker.rerank(QUERY, PASSAGES[::-1])).scores
    assert forward == pytest.approx(backward[::-1])
    assert len(set(forward)) == 3
    assert all(0 <= score <= 1 for score in forward)


async def test_a_score_does_not_depend_on_the_other_passages(reranker: Reranker) -> None:
    many = (await reranker.rerank(QUERY, [*PASSAGES, *(f"number {n}" for n in range(70))])).scores
    assert len(many) == 73
    alone = (await reranker.rerank(QUERY, PASSAGES[2:])).scores
    assert many[2] == pytest.approx(alone[0])


async def test_the_query_matters(reranker: Reranker) -> None:
    first = (await reranker.rerank(QUERY, PASSAGES)).scores
    assert (await reranker.rerank("bread", PASSAGES)).scores != pytest.approx(first)


async def test_passages_too_long_are_cut_and_named(tmp_path: Path) -> None:
    local = await FACTORY(LocalSource(folder=write_tiny_reranker(tmp_path / "m")))
    assert (await local.rerank(QUERY, ["short", "long " * 100])).truncated == [1]
    await local.aclose()


async def test_a_folder_without_a_cross_encoder_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_reranker(tmp_path / "m")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"config.json: No such file.*AGENTTEAMS_BUILTIN_RERANK_DIR"):
        await FACTORY(LocalSource(folder=folder))
    with pytest.raises(ValueError, match=r"gives \[1, 32\] for one pair, not one score"):
        await FACTORY(LocalSource(folder=write_tiny_reranker(tmp_path / "wide", scores=32)))


async def test_the_form_is_learnt_once() -> None:
    async with RerankServer("tei") as server:
        opened = await FACTORY(RemoteSource(url=server.url, model="r"))
        for _ in range(2):
            await opened.rerank(QUERY, PASSAGES)
        await opened.aclose()
    assert ["texts" in body for body in server.asked] == [False, True, True]
    assert server.asked[1]["truncate"] is True


async def test_what_is_sent() -> None:
    async with RerankServer("cohere", api_key="right") as server:
        opened = await FACTORY(RemoteSource(url=server.url, model="r", api_key="right"))
        await opened.rerank(QUERY, PASSAGES)
        await opened.aclose()
    assert server.paths == ["/v2/rerank"]
    assert server.asked == [{"model": "r", "query": QUERY, "documents": PASSAGES}]


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        ((200, {}, b"<html>"), Internal, "no JSON"),
        ((200, {}, {"results": [{"index": 0, "relevance_score": 1}]}), Internal, "1 scores for 3 passages"),
        ((200, {}, {"results": [{"index": n, "relevance_score": 1} for n in (0, 1, 1)]}), Internal, "others"),
        ((200, {}, {"results": [{"index": n} for n in range(3)]}), Internal, "cannot be read"),
        ((200, {}, {"error": "odd"}), Internal, "cannot be read"),
        ((400, {}, {"message": "too long"}), FailedPrecondition, "HTTP 400: too long"),
        ((429, {"retry-after": "60"}, {"message": "slow down"}), ResourceExhausted, "slow down"),
    ],
)
async def test_endpoints_in_trouble(answer: Any, error: type[ServiceError], said: str) -> None:
    async with RerankServer("cohere") as server:
        server.answers.append(answer)
        opened = await FACTORY(RemoteSource(url=server.url, model="r"))
        with pytest.raises(error, match=said) as caught:
            await opened.rerank(QUERY, PASSAGES)
        await opened.aclose()
    assert caught.value.metadata["model"] == "r"
    if error is ResourceExhausted:
        assert caught.value.retry_after == timedelta(seconds=60)


async def test_trouble_that_passes_is_retried() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with RerankServer("cohere") as server:
        server.answers.append((503, {}, {"message": "loading"}))
        source = RemoteSource(url=server.url, model="r")
        opened = RerankEndpoint(source, admission=Admission(max_texts=10), sleep=sleep)
        assert len((await opened.rerank(QUERY, PASSAGES)).scores) == 3
        await opened.aclose()
    assert len(slept) == 1
    assert len(server.asked) == 2
