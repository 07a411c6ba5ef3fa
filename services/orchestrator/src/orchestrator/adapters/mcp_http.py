"""HTTP for MCP: what a server sends is bounded, and what goes wrong is known by its cause."""

import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache

import httpx2

MAX_ANSWER_BYTES = 4 * 1024 * 1024  # of one answer: a result that is parsed takes several times as much
_CONNECT_S = 5.0
_MAX_CONNECTIONS = 32
_AGAIN = (429, 502, 503, 504)  # the server is away, or asks to wait


@dataclass(slots=True)
class Fault:
    """Why HTTP failed, for whoever waits for the answer: the MCP client says no more than that it did."""

    text: str = ""
    repeatable: bool = False
    session_lost: bool = False


# Set by who asks; the request is made in a task that has the context of its asker.
current_fault: ContextVar[Fault | None] = ContextVar("mcp_fault", default=None)


class SecretHeaders(httpx2.Auth):
    """Headers that are read anew for each request, so that a changed secret counts at once."""

    def __init__(self, read: Callable[[], Mapping[str, str]]) -> None:
        self._read = read

    def auth_flow(self, request: httpx2.Request) -> Iterator[httpx2.Request]:  # type: ignore[override]
        """Sets the headers."""
        request.headers.update(self._read())
        yield request


class BoundedTransport(httpx2.AsyncBaseTransport):
    """Passes on at most so many bytes of an answer. Never raises: failures become answers with status 503.

    A failure that is raised would end the connection with all other calls that it carries.
    """

    def __init__(self, inner: httpx2.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """See httpx2."""
        fault = current_fault.get() or Fault()
        fault.text, fault.repeatable = "", False
        try:
            response = await self._inner.handle_async_request(request)
        except httpx2.TransportError as error:
            return _failed(request, fault, _words(error), repeatable=True)
        status = response.status_code
        if status >= 400:
            fault.text, fault.repeatable = f"it answers HTTP {status}", status in _AGAIN
            fault.session_lost = status == 404 and "mcp-session-id" in request.headers
            if status in (401, 403):
                fault.text += "; check headersFrom"
        kind = response.headers.get("content-type", "").lower()
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            return _failed(request, fault, "it sends compressed answers", repeatable=False)
        stream = _Counted(response, fault, endless=request.method == "GET")
        if kind.startswith("text/event-stream"):
            return httpx2.Response(status, headers=response.headers, stream=stream, request=request)
        try:
            body = b"".join([part async for part in stream])
        except httpx2.TransportError as error:
            if fault.text:
                return _failed(request, fault, fault.text, repeatable=fault.repeatable)
            return _failed(request, fault, _words(error), repeatable=True)
        finally:
            await response.aclose()
        headers = {"content-type": kind}
        if "mcp-session-id" in response.headers:
            headers["mcp-session-id"] = response.headers["mcp-session-id"]
        if "location" in response.headers:
            headers["location"] = response.headers["location"]
        return httpx2.Response(status, headers=headers, content=body, request=request)

    async def aclose(self) -> None:
        """See httpx2."""
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    """The bytes of an answer, as many as are allowed; an endless one is bounded by its events."""

    def __init__(self, response: httpx2.Response, fault: Fault, *, endless: bool) -> None:
        self._response = response
        self._fault = fault
        self._endless = endless

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = MAX_ANSWER_BYTES
        try:
            async for part in self._response.aiter_raw():
                left -= len(part)
                if left < 0 and not self._endless:
                    mib = MAX_ANSWER_BYTES >> 20
                    self._fault.text = f"its answer is larger than {mib} MiB; ask for less"
                    raise httpx2.ReadError(self._fault.text)
                yield part
        except httpx2.TransportError as error:
            if not self._fault.text:
                self._fault.text, self._fault.repeatable = _words(error), True
            raise

    async def aclose(self) -> None:
        await self._response.aclose()


def http_client(read_headers: Callable[[], Mapping[str, str]]) -> httpx2.AsyncClient:
    """A client for one server. Times are the caller's to bound: an event stream may be silent for hours."""
    limits = httpx2.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=4)
    inner = httpx2.AsyncHTTPTransport(verify=_tls(), limits=limits)
    return httpx2.AsyncClient(
        transport=BoundedTransport(inner),
        auth=SecretHeaders(read_headers),
        headers={"accept-encoding": "identity"},
        timeout=httpx2.Timeout(None, connect=_CONNECT_S),
    )


@cache
def _tls() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # 45 ms


def _failed(request: httpx2.Request, fault: Fault, text: str, *, repeatable: bool) -> httpx2.Response:
    fault.text, fault.repeatable = text, repeatable
    return httpx2.Response(503, content=b"", request=request)


def _words(error: httpx2.TransportError) -> str:
    if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
        return "it cannot be reached"
    return "the connection broke"
