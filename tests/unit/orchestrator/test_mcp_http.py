"""What an MCP server sends is bounded, and each failure is known by its cause."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
import pytest

from orchestrator.adapters.mcp_http import MAX_ANSWER_BYTES, BoundedTransport, Fault, current_fault

PIECE = b"x" * 65_536


@dataclass
class Endless(httpx2.AsyncByteStream):
    """A body that never ends, unless it breaks."""

    read: int = 0
    breaks_after: int = 1 << 40

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.read < self.breaks_after:
            self.read += len(PIECE)
            yield PIECE
        raise httpx2.RemoteProtocolError("incomplete")


class Server(httpx2.AsyncBaseTransport):
    """Answers as it is told, without a network."""

    def __init__(self, answer: httpx2.Response | Exception) -> None:
        self.answer = answer

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def ask(answer: httpx2.Response | Exception, method: str = "POST") -> tuple[httpx2.Response, Fault]:
    fault = Fault()
    token = current_fault.set(fault)
    try:
        request = httpx2.Request(method, "http://tools.example/mcp")
        return await BoundedTransport(Server(answer)).handle_async_request(request), fault
    finally:
        current_fault.reset(token)


def answer(status: int, kind: str, body: Endless, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, headers={"content-type": kind} | headers, stream=body)


async def test_no_more_of_an_endless_answer_is_read_than_may_be_kept() -> None:
    body = Endless()
    response, fault = await ask(answer(200, "application/json", body))
    assert response.status_code == 503
    assert (fault.text, fault.repeatable) == ("its answer is larger than 4 MiB; ask for less", False)
    assert body.read <= MAX_ANSWER_BYTES + len(PIECE)


async def test_nor_of_an_endless_stream_of_events() -> None:
    body = Endless()
    response, fault = await ask(answer(200, "text/event-stream", body))
    with pytest.raises(httpx2.ReadError):
        await response.aread()
    assert fault.text == "its answer is larger than 4 MiB; ask for less"
    assert body.read <= MAX_ANSWER_BYTES + len(PIECE)


async def test_a_stream_of_notices_may_go_on() -> None:
    body = Endless(breaks_after=2 * MAX_ANSWER_BYTES)
    response, fault = await ask(answer(200, "text/event-stream", body), "GET")
    with pytest.raises(httpx2.RemoteProtocolError):
        await response.aread()
    assert (fault.text, fault.repeatable) == ("the connection broke", True)


async def test_compressed_answers_are_refused() -> None:
    response, fault = await ask(answer(200, "application/json", Endless(), **{"content-encoding": "gzip"}))
    assert (response.status_code, fault.text) == (503, "it sends compressed answers")


@pytest.mark.parametrize(
    ("failure", "text", "repeatable"),
    [
        (httpx2.ConnectError("refused"), "it cannot be reached", True),
        (httpx2.RemoteProtocolError("closed"), "the connection broke", True),
        (httpx2.Response(503, stream=httpx2.ByteStream(b"")), "it answers HTTP 503", True),
        (httpx2.Response(429, stream=httpx2.ByteStream(b"")), "it answers HTTP 429", True),
        (
            httpx2.Response(401, stream=httpx2.ByteStream(b"")),
            "it answers HTTP 401; check headersFrom",
            False,
        ),
        (httpx2.Response(400, stream=httpx2.ByteStream(b"")), "it answers HTTP 400", False),
    ],
)
async def test_failures_have_a_cause_and_none_is_raised(
    failure: httpx2.Response | Exception, text: str, repeatable: bool
) -> None:
    _, fault = await ask(failure)
    assert (fault.text, fault.repeatable) == (text, repeatable)


async def test_an_answer_that_breaks_in_the_middle_may_be_asked_for_again() -> None:
    _, fault = await ask(answer(200, "application/json", Endless(breaks_after=len(PIECE))))
    assert (fault.text, fault.repeatable) == ("the connection broke", True)
