"""Endpoints in trouble: what is retried, what is said."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
import trustme

from embedding.adapters.openai import OpenAIEmbedder, cut_bytes
from embedding.core.admission import Admission
from embedding.core.ports import RemoteSource, TextKind
from servicekit.context import scope
from servicekit.errors import FailedPrecondition, Internal, ResourceExhausted, ServiceError, Unavailable
from tests.support.model_server import Fault, ModelServer
from tests.support.tls import behind_tls

KEY = "sk-a-key-that-nobody-may-see"
Make = Callable[..., OpenAIEmbedder]


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(api_key=KEY) as running:
        yield running


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
async def make(server: ModelServer, slept: list[float]) -> AsyncIterator[Make]:
    made = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def build(**fields: Any) -> OpenAIEmbedder:
        defaults = {"url": server.base_url, "model": "e", "api_key": KEY}
        source = RemoteSource(**{**defaults, **fields})
        made.append(OpenAIEmbedder(source, admission=Admission(max_texts=1000), sleep=sleep))
        return made[-1]

    yield build
    for each in made:
        await each.aclose()


async def _error(embedder: OpenAIEmbedder, texts: list[str] | None = None) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await embedder.embed(texts or ["a text"], TextKind.QUERY)
    assert KEY not in caught.value.message
    assert caught.value.metadata["model"] == "e"
    return caught.value


async def test_trouble_that_passes_is_retried(server: ModelServer, make: Make, slept: list[float]) -> None:
    server.fail(Fault(kind="status", status=503), Fault(kind="cut"))
    result = await make().embed(["a text"], TextKind.QUERY)
    assert result.vectors.shape == (1, 256)
    assert len(server.requests) == 3
    assert len(slept) == 2
    assert 0 < slept[0] < slept[1]


async def test_retry_after_is_kept(server: ModelServer, make: Make, slept: list[float]) -> None:
    server.fail(Fault(kind="status", status=429, retry_after_s=3))
    await make().embed(["a text"], TextKind.QUERY)
    assert slept == [3]


async def test_rate_limit_that_stays(server: ModelServer, make: Make) -> None:
    server.fail(Fault(kind="status", status=429, retry_after_s=3, times=None, message="too fast"))
    error = await _error(make())
    assert isinstance(error, ResourceExhausted)
    assert (error.reason, error.retry_after) == ("MODEL_RATE_LIMITED", timedelta(seconds=3))
    assert "HTTP 429: too fast" in error.message
    assert len(server.requests) == 3


@pytest.mark.parametrize(("retry_after_s", "deadline_s"), [(60, 30), (5, 2)])
async def test_no_wait_that_is_longer_than_the_caller_has(
    server: ModelServer, make: Make, slept: list[float], retry_after_s: float, deadline_s: float
) -> None:
    server.fail(Fault(kind="status", status=429, retry_after_s=retry_after_s, times=None))
    with scope(timeout=timedelta(seconds=deadline_s)):
        error = await _error(make())
    assert error.retry_after == timedelta(seconds=retry_after_s)
    assert slept == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_refusals_are_not_retried(server: ModelServer, make: Make, status: int) -> None:
    server.fail(Fault(kind="status", status=status, message=f"refused: key {KEY}"))
    error = await _error(make())
    assert isinstance(error, FailedPrecondition)
    assert (error.reason, error.metadata["status"]) == ("MODEL_REJECTED", str(status))
    assert "refused: key ***" in error.message
    assert len(server.requests) == 1


async def test_wrong_key_and_wrong_url(server: ModelServer, make: Make) -> None:
    assert "Incorrect API key" in (await _error(make(api_key="wrong"))).message
    wrong = await _error(make(url=server.base_url + "/extra"))
    assert (wrong.reason, wrong.metadata["status"]) == ("MODEL_REJECTED", "404")


async def test_endpoint_that_is_down(server: ModelServer, make: Make) -> None:
    await server.stop()
    error = await _error(make())
    assert isinstance(error, Unavailable)
    assert error.reason == "MODEL_UNAVAILABLE"
    assert server.base_url in error.message


async def test_endpoint_that_does_not_answer(server: ModelServer, make: Make) -> None:
    server.fail(Fault(kind="stall", seconds=60, times=None))
    error = await _error(make(timeout=timedelta(milliseconds=500), max_retries=1))
    assert error.reason == "MODEL_UNAVAILABLE"
    assert "in time" in error.message
    assert len(server.requests) == 2
    assert await server.ended(server.requests[0]) == "client_gone"


async def test_the_callers_deadline_is_the_endpoints_too(server: ModelServer, make: Make) -> None:
    server.fail(Fault(kind="stall", seconds=60, times=None))
    with scope(timeout=timedelta(milliseconds=200)):
        error = await _error(make(timeout=timedelta(seconds=50)))
    assert error.reason == "MODEL_UNAVAILABLE"


@pytest.mark.parametrize("kind", ["html", "bad_json", "empty_choices"])
async def test_nonsense_is_said_to_be_nonsense(server: ModelServer, make: Make, kind: Any) -> None:
    server.fail(Fault(kind=kind))
    error = await _error(make())
    assert isinstance(error, Internal)
    assert error.reason == "MODEL_BAD_RESPONSE"
    assert len(server.requests) == 1


async def test_256_texts_take_two_requests(server: ModelServer, make: Make) -> None:
    result = await make().embed([f"text number {n}" for n in range(256)], TextKind.PASSAGE)
    assert sorted(len(r.body["input"]) for r in server.requests) == [128, 128]
    assert all(r.body["encoding_format"] == "base64" for r in server.requests)
    assert result.vectors.shape == (256, 256)


async def test_one_failing_request_of_several_fails_the_call(server: ModelServer, make: Make) -> None:
    server.fail(Fault(kind="status", status=401, skip=1))
    error = await _error(make(), [f"text {n}" for n in range(256)])
    assert error.reason == "MODEL_REJECTED"


async def test_no_more_requests_at_a_time_than_allowed(server: ModelServer, make: Make) -> None:
    server.fail(Fault(kind="stall", seconds=60))
    embedder = make(max_concurrent=1)
    first = asyncio.create_task(embedder.embed(["first"], TextKind.QUERY))
    await server.received(1)
    second = asyncio.create_task(embedder.embed(["second"], TextKind.QUERY))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(server.requests) == 1
    first.cancel()
    await second
    assert [r.body["input"] for r in server.requests] == [["first"], ["second"]]


async def test_the_limit_is_learnt_from_a_refusal(make: Make) -> None:
    async with ModelServer(max_input_tokens=100, api_key=KEY) as small:
        embedder = make(url=small.base_url)
        # Two bytes a token: estimates made for English are wrong here at first.
        result = await embedder.embed(["x " * 400, "short"], TextKind.PASSAGE)
        assert list(result.truncated) == [0]
        assert result.input_tokens <= 101
        assert (await embedder.describe()).max_input_tokens == 100
        asked = len(small.requests)
        plain = await embedder.embed(["tower " * 60], TextKind.PASSAGE)
        assert plain.truncated == []
        assert len(small.requests) == asked + 1


async def test_fingerprints_tell_models_and_endpoints_apart(server: ModelServer, make: Make) -> None:
    async with ModelServer(api_key=KEY) as other, ModelServer(api_key=KEY, dimension=64) as wide:
        descriptions = [
            await each.describe()
            for each in (make(), make(model="f"), make(url=other.base_url), make(url=wide.base_url))
        ]
    assert len({d.fingerprint for d in descriptions}) == 4
    assert (await make(url=server.base_url + "/").describe()).fingerprint == descriptions[0].fingerprint


async def test_many_who_ask_what_it_is_send_one_probe(server: ModelServer, make: Make) -> None:
    embedder = make()
    described = await asyncio.gather(*(embedder.describe() for _ in range(5)))
    assert len(set(described)) == 1
    assert len(server.requests) == 1
    # A failure is shared too, and the next one asks anew.
    server.fail(Fault(kind="status", status=401))
    other = make(model="f")
    failed = await asyncio.gather(*(other.describe() for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in failed] == [FailedPrecondition] * 5
    assert (await other.describe()).name == "f"
    assert len(server.requests) == 3


async def test_a_dimension_that_changes_is_refused(make: Make) -> None:
    async with ModelServer(api_key=KEY, dimension=64) as first:
        embedder = make(url=first.base_url)
        await embedder.embed(["a text"], TextKind.QUERY)
        port = first.port
    async with ModelServer(api_key=KEY, dimension=32, port=port):
        error = await _error(embedder)
    assert error.reason == "MODEL_BAD_RESPONSE"
    assert "32 elements, earlier ones had 64" in error.message


async def test_dimensions_are_asked_for(server: ModelServer, make: Make) -> None:
    embedder = make(dimensions=64)
    result = await embedder.embed(["a text"], TextKind.QUERY)
    assert server.requests[0].body["dimensions"] == 64
    assert result.vectors.shape == (1, 64)
    assert (await embedder.describe()).dimension == 64
    assert "dimensions" not in (await _asked(server, make()))


async def _asked(server: ModelServer, embedder: OpenAIEmbedder) -> Any:
    await embedder.embed(["a text"], TextKind.QUERY)
    return server.requests[-1].body


class _Stubborn(ModelServer):
    def embeddings(self, body: Any) -> dict[str, Any]:
        return super().embeddings({**body, "dimensions": None})


async def test_an_endpoint_that_does_not_cut_its_vectors_is_refused(make: Make) -> None:
    async with _Stubborn(api_key=KEY) as stubborn:
        error = await _error(make(url=stubborn.base_url, dimensions=64))
    assert isinstance(error, FailedPrecondition)
    assert "dimensions 64: asked for that many elements it gave 256; leave the field out" in error.message


def test_cut_bytes_keeps_characters_whole() -> None:
    assert cut_bytes("abc", 3) == "abc"
    assert cut_bytes("äöü", 5) == "äö"
    assert cut_bytes("🙂🙂", 7) == "🙂"
    assert np.all([len(cut_bytes("漢" * 10, n).encode()) <= n for n in range(31)])


async def test_headers_are_sent_and_only_the_named_authority_is_trusted(
    server: ModelServer, make: Make
) -> None:
    ours = trustme.CA()
    trusting = {"authorities": ours.cert_pem.bytes().decode(), "headers": (("X-Project", "p"),)}
    async with behind_tls(server.port, ours) as url:
        await make(url=url, **trusting).embed(["a text"], TextKind.QUERY)
        untrusted = await _error(make(url=url, authorities=trustme.CA().cert_pem.bytes().decode()))
    (received,) = server.requests
    assert received.headers["x-project"] == "p"
    assert isinstance(untrusted, Unavailable)
    assert "certificate verify failed" in untrusted.message
    with pytest.raises(FailedPrecondition, match="holds no certificates"):
        make(authorities="none")
