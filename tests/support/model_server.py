"""A stand-in for an OpenAI-compatible model endpoint: scripted, deterministic, able to fail.

In a test:

    async with ModelServer() as server:
        server.script(lambda request: Reply("Paris [1]."))
        server.queue(Reply(tool_calls=[ToolCall(name="search_knowledge", arguments={"query": "x"})]))
        server.fail(Fault(kind="status", status=429, retry_after_s=1))
        client = AsyncOpenAI(base_url=server.base_url, api_key="any")

Queued replies come first, then the script, then the scenario. As a process:

    python -m tests.support.model_server --port 18080 --scenario quickstart
    POST /control {"faults": [{"kind": "stall", "at": "middle", "seconds": 5}]}   GET /control

`POST /control` takes `faults` (added; fields of `Fault`), `clear` (true: forget faults and
requests), `scenario`, `chunks`, `chunk_delay_s`, `first_chunk_delay_s`. `GET /control` shows counts.

It is raw asyncio on httptools because it runs inside a benchmark: its own CPU must stay small.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import itertools
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

import msgspec

from tests.support import model_wire
from tests.support.model_http import HttpConnection, Refused, head
from tests.support.model_script import (
    ChatRequest,
    Fault,
    Reply,
    ScenarioName,
    Script,
    ToolCall,
    scenario,
)

__all__ = ["ChatRequest", "Fault", "ModelServer", "Received", "Reply", "ToolCall"]

_MAX_RECORDED = 2000


@dataclass(slots=True, kw_only=True)
class Received:
    """A request that came in, and how it ended."""

    path: str
    headers: Mapping[str, str]
    body: Any
    state: Literal["open", "answered", "cut", "client_gone"] = "open"
    fault: Fault | None = None
    reply: Reply | None = None
    begun: float = field(default_factory=time.time)
    ended: float = 0.0


class ModelServer:
    """The server; an async context manager that listens on loopback while entered."""

    def __init__(
        self,
        *,
        scenario: ScenarioName = "quickstart",
        chunks: int = 40,
        dimension: int = 256,
        port: int = 0,
        api_key: str | None = None,
        known_models: frozenset[str] | None = None,
        max_input_tokens: int = 8192,
    ) -> None:
        self._scenario: ScenarioName = scenario
        self._chunks = chunks
        self._dimension = dimension
        self._port = port
        self._api_key = api_key
        self._known_models = known_models
        self._max_input_tokens = max_input_tokens
        self.chunk_delay_s = 0.0
        self.first_chunk_delay_s = 0.0
        self.requests: deque[Received] = deque(maxlen=_MAX_RECORDED)
        self.counts: Counter[str] = Counter()
        # Set it to a list, and it gets every request; nothing clears it.
        self.journal: list[Received] | None = None
        self._queue: deque[Reply] = deque()
        self._script: Script | None = None
        self._faults: list[Fault] = []
        self._changed = asyncio.Condition()
        self.connections: set[HttpConnection] = set()
        self.errors: list[Exception] = []
        self._server: asyncio.Server | None = None
        self._ids = itertools.count(1)
        self._default_script = self._build_default()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        if self.errors:
            raise ExceptionGroup("a script of the model stand-in failed", self.errors)

    async def stop(self) -> None:
        """Stops listening and cuts every connection, as a killed endpoint would; `restart` brings it back."""
        if self._server is None:
            return
        self._server.close()
        tasks = [task for c in list(self.connections) if (task := c.abort()) is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    async def restart(self) -> None:
        """Listens again on the same port."""
        await self.__aenter__()

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as base URL."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def port(self) -> int:
        return self._port

    def script(self, script: Script) -> None:
        """Answers chats with what `script` returns; None falls back to the scenario."""
        self._script = script

    def queue(self, *replies: Reply) -> None:
        """Adds replies for the next chats, before the script is asked."""
        self._queue.extend(replies)

    def fail(self, *faults: Fault) -> None:
        """Adds faults; the first that matches a request strikes it."""
        self._faults.extend(faults)

    def clear(self) -> None:
        """Forgets faults, queued replies, the script and what was recorded."""
        self._faults.clear()
        self._queue.clear()
        self._script = None
        self.requests.clear()
        self.counts.clear()

    def chats(self) -> list[ChatRequest]:
        """The chat requests received so far, oldest first."""
        return [ChatRequest(r.body) for r in self.requests if r.path == "/v1/chat/completions"]

    async def received(self, count: int, *, path: str = "/v1/", within_s: float = 10.0) -> list[Received]:
        """Waits until `count` requests whose path contains `path` have come in.

        Raises:
            TimeoutError: they did not within `within_s`.
        """

        def matching() -> list[Received]:
            return [r for r in self.requests if path in r.path]

        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(lambda: len(matching()) >= count)
        return matching()

    async def ended(self, received: Received, *, within_s: float = 10.0) -> str:
        """Waits until a request has ended and returns how: answered, cut or client_gone."""
        async with asyncio.timeout(within_s), self._changed:
            await self._changed.wait_for(lambda: received.state != "open")
        return received.state

    # -- the HTTP side calls these ------------------------------------------------

    def _build_default(self) -> Callable[[ChatRequest], Reply]:
        return scenario(self._scenario, chunks=self._chunks)

    async def record(self, received: Received) -> None:
        self.requests.append(received)
        if self.journal is not None:
            self.journal.append(received)
        self.counts[received.path] += 1
        async with self._changed:
            self._changed.notify_all()

    async def finish(self, received: Received, state: Literal["answered", "cut", "client_gone"]) -> None:
        received.state, received.ended = state, time.time()
        async with self._changed:
            self._changed.notify_all()

    def take_fault(self, path: str, raw: bytes, body: Any) -> Fault | None:
        has_tools = isinstance(body, dict) and bool(body.get("tools"))
        return next((f for f in self._faults if f.take(path, raw, has_tools=has_tools)), None)

    def check(self, headers: Mapping[str, str], body: Any) -> None:
        if self._api_key is not None and headers.get("authorization") != f"Bearer {self._api_key}":
            raise Refused(401, "Incorrect API key provided.", code="invalid_api_key")
        if not isinstance(body, dict):
            return
        model = body.get("model")
        if not isinstance(model, str) or not model:
            raise Refused(400, "you must provide a model parameter", param="model")
        if self._known_models is not None and model not in self._known_models:
            raise Refused(404, f"The model `{model}` does not exist", code="model_not_found")

    def chat(self, body: Mapping[str, Any], fault: Fault | None) -> Reply:
        if not body.get("messages"):
            raise Refused(400, "[] is too short - 'messages'", param="messages")
        request = ChatRequest(body)
        queued = self._queue.popleft() if self._queue else None
        scripted = self._script(request) if queued is None and self._script is not None else None
        reply = queued or scripted or self._default_script(request)
        if fault is not None and fault.kind == "unknown_tool":
            return replace(reply, tool_calls=[ToolCall(name="no_such_tool")], chunks=(), text="")
        if fault is not None and fault.kind == "bad_tool_arguments":
            name = reply.tool_calls[0].name if reply.tool_calls else next(iter(request.tools))
            bad = ToolCall(name=name, arguments='{"query": "unfinished')
            return replace(reply, tool_calls=[bad], chunks=(), text="")
        return reply

    def embeddings(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return model_wire.embeddings(body, dimension=self._dimension, max_tokens=self._max_input_tokens)

    def models(self) -> dict[str, Any]:
        names = sorted(self._known_models or {"stand-in"})
        data = [{"id": n, "object": "model", "created": 0, "owned_by": "stand-in"} for n in names]
        return {"object": "list", "data": data}

    def control(self, body: Any) -> dict[str, Any]:
        """Applies a control request, all of it or nothing."""
        try:
            order = msgspec.convert(body, _Control) if body is not None else _Control()
            faults = [Fault(**fields) for fields in order.faults]
        except (msgspec.ValidationError, TypeError, ValueError) as exc:
            raise Refused(400, f"control: {exc}") from exc
        if order.clear:
            self.clear()
        self.fail(*faults)
        self._scenario = order.scenario or self._scenario
        self._chunks = self._chunks if order.chunks is None else order.chunks
        self._default_script = self._build_default()
        if order.chunk_delay_s is not None:
            self.chunk_delay_s = order.chunk_delay_s
        if order.first_chunk_delay_s is not None:
            self.first_chunk_delay_s = order.first_chunk_delay_s
        faults_left = sum(1 for fault in self._faults if fault.times != 0)
        return {"counts": dict(self.counts), "scenario": self._scenario, "faults": faults_left}

    def next_id(self, prefix: str) -> str:
        return f"{prefix}-{next(self._ids):08d}"


class _Control(msgspec.Struct, forbid_unknown_fields=True):
    faults: list[dict[str, Any]] = []
    clear: bool = False
    scenario: ScenarioName | None = None
    chunks: int | None = None
    chunk_delay_s: float | None = None
    first_chunk_delay_s: float | None = None


class _Connection(HttpConnection):
    """What the server does with the requests of one connection."""

    def __init__(self, server: ModelServer) -> None:
        super().__init__(opened=server.connections.add, closed=server.connections.discard)
        self._owner = server

    async def serve(self, method: str, path: str, headers: Mapping[str, str], raw: bytes) -> None:
        received: Received | None = None
        try:
            body = msgspec.json.decode(raw) if raw else None
            if path == "/control":
                self.send_json(200, self._owner.control(body if method == "POST" else None))
                return
            received = Received(path=path, headers=headers, body=body)
            received.fault = self._owner.take_fault(path, raw, body)
            await self._owner.record(received)
            cut = await self._answer(received, len(raw))
            await self._owner.finish(received, "cut" if cut else "answered")
        except msgspec.DecodeError as exc:
            self.send_error(Refused(400, f"We could not parse the JSON body of your request: {exc}"))
        except Refused as refused:
            self.send_error(refused)
            if received is not None:
                await self._owner.finish(received, "answered")
        except (asyncio.CancelledError, ConnectionError):
            if received is not None:
                await self._owner.finish(received, "client_gone")
        except Exception as exc:  # noqa: BLE001  raised again when the server is left
            self._owner.errors.append(exc)
            self.send_error(Refused(500, f"the script failed: {exc!r}"))
            if received is not None:
                await self._owner.finish(received, "answered")

    async def _answer(self, received: Received, raw_bytes: int) -> bool:
        """Writes the answer; true if the fault cut the connection."""
        owner, fault, body = self._owner, received.fault, received.body
        if fault is not None:
            if fault.kind == "stall" and fault.at == "headers":
                await asyncio.sleep(fault.seconds)
            elif fault.kind == "status":
                headers = {} if fault.retry_after_s is None else {"retry-after": f"{fault.retry_after_s:g}"}
                self.send_error(Refused(fault.status, fault.message), headers)
                return False
            elif fault.kind == "html":
                page = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
                self.send(200, page, content_type="text/html")
                return False
        owner.check(received.headers, body)
        if received.path == "/v1/models":
            self.send_json(200, owner.models())
            return False
        if not isinstance(body, dict) or received.path not in ("/v1/chat/completions", "/v1/embeddings"):
            raise Refused(404, f"Invalid URL ({received.path})")
        if received.path == "/v1/embeddings":
            return self._send_whole(owner.embeddings(body), fault, empty="data")
        reply = received.reply = owner.chat(body, fault)
        if body.get("stream"):
            return await self._stream(body, reply, fault, raw_bytes)
        if owner.first_chunk_delay_s:
            await asyncio.sleep(owner.first_chunk_delay_s)
        if reply.gate is not None:
            await reply.gate.wait()
        return self._send_whole(
            model_wire.completion(owner.next_id, body, reply, raw_bytes), fault, empty="choices"
        )

    def _send_whole(self, answer: dict[str, Any], fault: Fault | None, *, empty: str) -> bool:
        """An answer that is one JSON object, spoilt as the fault says."""
        kind = fault.kind if fault is not None else ""
        if kind == "empty_choices":
            answer[empty] = []
        payload = msgspec.json.encode(answer)
        if kind == "bad_json":
            self.send(200, payload[: len(payload) // 2])
            return False
        if kind == "cut":
            self.write(head(200, {"content-type": "application/json", "content-length": str(len(payload))}))
            self.write(payload[: len(payload) // 2])
            self.cut()
            return True
        self.send(200, payload)
        return False

    async def _stream(
        self, body: Mapping[str, Any], reply: Reply, fault: Fault | None, raw_bytes: int
    ) -> bool:
        owner = self._owner
        self.write(head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
        if fault is not None and fault.kind == "stall" and fault.at == "first_chunk":
            await asyncio.sleep(fault.seconds)
        if owner.first_chunk_delay_s:
            await asyncio.sleep(owner.first_chunk_delay_s)
        if fault is not None and fault.kind == "empty_choices":
            reply = Reply()
        sent, struck, passed = 0, False, False
        lines = model_wire.sse(owner.next_id, body, reply, fault, raw_bytes)
        for line, phase in lines:
            if phase == "chunk":
                # Even at full speed every chunk is a write of its own, as tokens are.
                await asyncio.sleep(owner.chunk_delay_s)
            ending = phase == "close"
            if (
                fault is not None
                and not struck
                and phase != "open"
                and (ending or sent >= fault.after_chunks)
            ):
                struck = True
                if fault.kind == "cut":
                    self.cut()
                    return True
                if fault.kind == "stall" and fault.at == "middle":
                    await asyncio.sleep(fault.seconds)
                elif fault.kind == "bad_json":
                    self.write_chunk(b'data: {"id": "chatcmpl-1", "choices": [{"ind\n\n')
            if reply.gate is not None and not passed and (ending or sent >= reply.gate_after):
                passed = True
                await reply.gate.wait()
            self.write_chunk(line)
            sent += phase == "chunk"
        self.write(b"0\r\n\r\n")
        return False


async def _run(arguments: argparse.Namespace) -> None:
    server = ModelServer(
        scenario=arguments.scenario,
        chunks=arguments.chunks,
        dimension=arguments.dimension,
        port=arguments.port,
        api_key=arguments.api_key,
    )
    server.chunk_delay_s = arguments.chunk_delay_s
    server.first_chunk_delay_s = arguments.first_chunk_delay_s
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        sys.stdout.write(f"model stand-in at {server.base_url}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tests.support.model_server", description=inspect.getdoc(ModelServer)
    )
    parser.add_argument(
        "--port", type=int, default=0, help="0 takes a free one; the first line printed names it"
    )
    parser.add_argument("--scenario", choices=get_args(ScenarioName), default="quickstart")
    parser.add_argument("--chunks", type=int, default=40, help="deltas of an answer")
    parser.add_argument("--chunk-delay-s", type=float, default=0.0)
    parser.add_argument("--first-chunk-delay-s", type=float, default=0.0)
    parser.add_argument("--dimension", type=int, default=256, help="of an embedding")
    parser.add_argument("--api-key", default=None, help="refuse any other key with 401")
    arguments = parser.parse_args()
    import uvloop  # noqa: PLC0415  in-process users run on the test's own loop

    uvloop.run(_run(arguments))


if __name__ == "__main__":
    main()
