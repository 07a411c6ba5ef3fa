"""The gateway over HTTP, asked by OpenAI's own client, with a scripted orchestrator behind it."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
import openai
import pytest
from agentteams.session.v1 import session_pb2
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from gateway.auth import ApiKeys
from servicekit.context import Caller
from servicekit.errors import (
    Conflict,
    FailedPrecondition,
    FieldViolation,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    ServiceError,
    Unavailable,
)
from tests.support.fake_orchestrator import (
    FakeOrchestrator,
    answer,
    completed,
    delta,
    deltas,
    finished,
    items,
    model_call_finished,
    person_answered,
    person_asked,
    started,
)
from tests.support.gateway import Gateway, serve_gateway

MODEL_DOWN = Unavailable("the model's endpoint does not answer", reason="MODEL_UNAVAILABLE")
QUESTION: list[Any] = [{"role": "user", "content": "Hi?"}]


class Door:
    """An orchestrator, a gateway before it, and clients."""

    def __init__(self, stack: AsyncExitStack, orchestrator: FakeOrchestrator) -> None:
        self.orchestrator = orchestrator
        self._stack = stack
        self.gateway: Gateway
        self.http: httpx.AsyncClient

    async def open(self, target: str = "", *, api_key: str = "none", **options: Any) -> AsyncOpenAI:
        """Starts the gateway (before a running orchestrator) and returns a client."""
        where = target or await self._stack.enter_async_context(self.orchestrator.serve())
        self.gateway = await self._stack.enter_async_context(serve_gateway(where, **options))
        self.http = await self._stack.enter_async_context(httpx.AsyncClient(base_url=self.gateway.url))
        return await self.client(api_key=api_key)

    async def client(self, *, api_key: str) -> AsyncOpenAI:
        """Another client."""
        client = AsyncOpenAI(base_url=f"{self.gateway.url}/v1", api_key=api_key, max_retries=0, timeout=20.0)
        return await self._stack.enter_async_context(client)

    async def post(self, body: object, **headers: str) -> httpx.Response:
        """A raw request."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        merged = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.http.post("/v1/chat/completions", content=content, headers=merged)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    async with AsyncExitStack() as stack:
        yield Door(stack, FakeOrchestrator())


async def stream_chunks(client: AsyncOpenAI, **more: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(
        model="support", messages=more.pop("messages", QUESTION), stream=True, **more
    )
    return [chunk async for chunk in stream]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def extra_of(answered: Any) -> dict[str, Any]:
    extra = answered.model_extra["agentteams"]
    assert isinstance(extra, dict)
    return extra


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert {"message", "type", "param", "code"} <= set(body["error"])
    return dict(body["error"])


# -- models -----------------------------------------------------------------------


async def test_teams_are_models(door: Door) -> None:
    client = await door.open()
    door.orchestrator.teams += [type(door.orchestrator.teams[0])(name=f"teams/t{i}") for i in range(4)]
    models = [model async for model in client.models.list()]
    assert [model.id for model in models] == ["support", "t0", "t1", "t2", "t3"]
    model = await client.models.retrieve("support")
    assert (model.object, model.owned_by) == ("model", "agentteams")
    assert extra_of(model)["members"] == ["analyst", "writer"]


@pytest.mark.parametrize("name", ["nobody", "Not A Name", "a/b"])
async def test_unknown_model_is_404_everywhere(door: Door, name: str) -> None:
    client = await door.open()
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve(name)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError) as caught:
        await client.chat.completions.create(model=name, messages=QUESTION)
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert name in caught.value.message


# -- answers ----------------------------------------------------------------------


CITATION = session_pb2.Citation(
    number=1,
    document="knowledgeBases/docs/documents/d",
    document_title="guide.md",
    chunk="c1",
    text="It is blue.",
    origin=session_pb2.Citation.ORIGIN_MODEL,
)


async def test_answer_in_one_piece(door: Door) -> None:
    client = await door.open()
    door.orchestrator.streams[0] = items(*answer("It is", " blue [1].", citations=[CITATION]))
    completion = await client.chat.completions.create(model="support", messages=QUESTION)
    assert completion.choices[0].message.content == "It is blue [1]."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.total_tokens) == (70, 82)
    assert extra_of(completion) == {
        "run": "runs/r1",
        "session": "sessions/new",
        "status": "succeeded",
        "answer_offset": 0,
        "citations": [
            {
                "number": 1,
                "document": "knowledgeBases/docs/documents/d",
                "document_title": "guide.md",
                "chunk": "c1",
                "text": "It is blue.",
                "origin": "model",
            }
        ],
        "usage": {
            "input_tokens": 70,
            "output_tokens": 12,
            "model_calls": 3,
            "tool_calls": 2,
            "searches": 1,
            "searches_saved": 1,
        },
        "stages": [{"stage": "llm_inference", "duration_ms": 1500.0, "count": 3}],
    }


async def test_answer_streamed(door: Door) -> None:
    client = await door.open()
    gate = asyncio.Event()
    first, *rest = answer("Grüße", ' "x"\n', "😀", citations=[CITATION])[1:]
    member = delta("only for colleagues", 0, message="m0", member="analyst")
    door.orchestrator.streams[0] = items(started(), member, first, gate, *rest)
    stream = await client.chat.completions.create(
        model="support", messages=QUESTION, stream=True, stream_options={"include_usage": True}
    )
    chunks = []
    async for chunk in stream:
        chunks.append(chunk)
        if chunk.choices and chunk.choices[0].delta.content == "Grüße":
            gate.set()  # the first piece came while the rest was not written yet
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.content for c in chunks[1:4]] == ["Grüße", ' "x"\n', "😀"]
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * 4 + ["stop"]
    assert extra_of(chunks[-2])["citations"][0]["chunk"] == "c1"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert {c.id for c in chunks} == {"chatcmpl-r1"}


async def test_without_include_usage_no_chunk_has_usage(door: Door) -> None:
    client = await door.open()
    chunks = await stream_chunks(client)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


async def test_what_is_sent_to_the_orchestrator(door: Door) -> None:
    client = await door.open()
    messages: list[Any] = [
        {"role": "developer", "content": "Be short."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": [{"type": "text", "text": "Three"}, {"type": "text", "text": "four?"}]},
    ]
    await client.chat.completions.create(model="support", messages=messages, temperature=0.1, seed=3)
    request = door.orchestrator.starts[-1]
    assert request.team == "teams/support"
    assert request.session == ""
    assert uuid.UUID(request.request_id).version == 4
    assert [(m.role, m.content) for m in request.input] == [
        (session_pb2.ROLE_SYSTEM, "Be short."),
        (session_pb2.ROLE_USER, "One?"),
        (session_pb2.ROLE_ASSISTANT, "Two."),
        (session_pb2.ROLE_USER, "Three\nfour?"),
    ]
    assert door.orchestrator.callers[-1] == Caller("default", "local")

    for more in (
        {"extra_headers": {"X-AgentTeams-Session": "sessions/s1"}},
        {"metadata": {"session": "sessions/s1"}},
    ):
        await client.chat.completions.create(model="support", messages=messages, **more)  # type: ignore[call-overload]
        request = door.orchestrator.starts[-1]
        assert request.session == "sessions/s1"
        assert [m.content for m in request.input] == ["Three\nfour?"]


async def test_idempotency_key_is_the_request_id(door: Door) -> None:
    client = await door.open()
    key = str(uuid.uuid4())
    runs = []
    for _ in range(2):
        completion = await client.chat.completions.create(
            model="support", messages=QUESTION, extra_headers={"Idempotency-Key": key}
        )
        runs.append(extra_of(completion)["run"])
    assert runs == ["runs/r1", "runs/r1"]
    assert [start.request_id for start in door.orchestrator.starts] == [key, key]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(
            model="support", messages=QUESTION, extra_headers={"Idempotency-Key": "42"}
        )
    assert caught.value.param == "Idempotency-Key"


# -- requests that are refused ------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (b"{", None, "invalid_json"),
        (b"\xff\xfe", None, "invalid_json"),
        (b'{"tools":' + b"[" * 100_000, None, "invalid_json"),
        ([], None, "invalid_type"),
        ({"messages": QUESTION}, "model", "missing_required_parameter"),
        ({"model": "support"}, "messages", "missing_required_parameter"),
        ({"model": 3, "messages": QUESTION}, "model", "invalid_type"),
        ({"model": "support", "messages": "Hi"}, "messages", "invalid_type"),
        (
            {"model": "support", "messages": [{"role": "user", "content": 3}]},
            "messages[0].content",
            "invalid_type",
        ),
        ({"model": "support", "messages": QUESTION, "temperature": "hot"}, "temperature", "invalid_type"),
        ({"model": "support", "messages": QUESTION, "stream": "yes"}, "stream", "invalid_type"),
        ({"model": "support", "messages": QUESTION, "temprature": 1}, "temprature", "unknown_parameter"),
    ],
)
async def test_wrong_bodies_name_the_field(door: Door, body: object, param: str | None, code: str) -> None:
    await door.open()
    response = await door.post(body)
    assert response.status_code == 400
    error = error_of(response)
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert param is None or param in error["message"]
    assert door.orchestrator.starts == []


async def test_too_large_body_is_413_announced_or_not(door: Door) -> None:
    await door.open()
    body = json.dumps(
        {"model": "support", "messages": [{"role": "user", "content": "x" * 1_100_000}]}
    ).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(body), 65536):
            yield body[begin : begin + 65536]

    for content in (body, pieces()):
        response = await door.http.post(
            "/v1/chat/completions", content=content, headers={"content-type": "application/json"}
        )
        assert response.status_code == 413
        assert error_of(response)["code"] == "request_too_large"


async def test_unknown_path_and_method(door: Door) -> None:
    await door.open()
    response = await door.http.get("/v1/nothing")
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")
    response = await door.http.get("/v1/chat/completions")
    assert (response.status_code, error_of(response)["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == "POST"
    response = await door.http.post("/v1/models")
    assert response.status_code == 405


async def test_web_pages_of_other_sites_are_kept_out(door: Door) -> None:
    await door.open()
    body = {"model": "support", "messages": QUESTION}
    response = await door.post(body, content_type="text/plain")
    assert (response.status_code, error_of(response)["param"]) == (415, "Content-Type")
    response = await door.post(body, host="evil.example")
    assert (response.status_code, error_of(response)["param"]) == (403, "Host")
    preflight = await door.http.options("/v1/chat/completions", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in preflight.headers
    assert door.orchestrator.starts == []


# -- the orchestrator says no -------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            ResourceExhausted("50 runs", reason="TOO_MANY_RUNS", retry_after=timedelta(seconds=7)),
            (429, "too_many_runs", None, "7"),
        ),
        (FailedPrecondition("no model", reason="TEAM_NOT_READY"), (503, "team_not_ready", "model", "1")),
        (Conflict("runs/x is not finished", reason="SESSION_BUSY"), (409, "session_busy", None, "1")),
        (
            NotFound("no session", reason="SESSION_NOT_FOUND"),
            (404, "session_not_found", "metadata.session", None),
        ),
        (
            InvalidArgument("used before", reason="REQUEST_ID_REUSED"),
            (400, "request_id_reused", "Idempotency-Key", None),
        ),
        (
            InvalidArgument(
                "input[1].content: too long",
                reason="INVALID_FIELD",
                violations=[FieldViolation("input[1].content", "too long")],
            ),
            (400, "invalid_value", "messages[1].content", None),
        ),
        (Internal("internal error", reason="INTERNAL"), (500, "internal", None, None)),
    ],
)  # fmt: skip
async def test_refusals_of_the_orchestrator(
    door: Door, error: ServiceError, shown: tuple[int, str, str | None, str | None]
) -> None:
    await door.open()
    door.orchestrator.start_error = error
    for stream in (False, True):
        response = await door.post({"model": "support", "messages": QUESTION, "stream": stream})
        body = error_of(response)
        retry_after = response.headers.get("retry-after")
        assert (response.status_code, body["code"], body["param"], retry_after) == shown


async def test_orchestrator_down_is_503_soon(door: Door, unused_tcp_port: int) -> None:
    client = await door.open(f"127.0.0.1:{unused_tcp_port}")
    async with asyncio.timeout(8):
        with pytest.raises(openai.InternalServerError) as caught:
            await client.chat.completions.create(model="support", messages=QUESTION)
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"
        assert (await door.http.get("/v1/models")).status_code == 503
        assert (await door.http.get("/readyz")).status_code == 503
        assert (await door.http.get("/healthz")).status_code == 200


async def test_an_orchestrator_that_hangs_is_504_in_time(door: Door) -> None:
    await door.open(start_timeout_s=0.3)
    door.orchestrator.start_gate = asyncio.Event()
    response = await door.post({"model": "support", "messages": QUESTION, "stream": True})
    assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")


async def test_services_that_do_not_trust_one_another_say_so(door: Door) -> None:
    async with door.orchestrator.serve(key=b"another key, also of 32 bytes or more") as target:
        await door.open(target)
        response = await door.post({"model": "support", "messages": QUESTION})
    assert response.status_code == 500
    assert "identity keys differ" in error_of(response)["message"]


async def test_ready_while_the_orchestrator_serves_and_no_stop_was_asked(door: Door) -> None:
    await door.open()
    assert (await door.http.get("/readyz")).status_code == 200
    door.gateway.turns.draining = True
    assert (await door.http.get("/readyz")).status_code == 503


async def test_too_many_open_questions(door: Door) -> None:
    client = await door.open(max_turns=1)
    gate = asyncio.Event()
    door.orchestrator.streams[0] = items(started(), gate, *answer("done")[1:])
    stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
    response = await door.post({"model": "support", "messages": QUESTION})
    assert (response.status_code, error_of(response)["code"]) == (503, "too_many_requests")
    assert response.headers["retry-after"] == "1"
    gate.set()
    assert text_of([chunk async for chunk in stream]) == "done"
    assert (await door.post({"model": "support", "messages": QUESTION})).status_code == 200


# -- runs that fail -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status"),
    [(MODEL_DOWN, 502), (Internal("The run was abandoned", reason="RUN_ABANDONED"), 500)],
)
async def test_failed_run(door: Door, error: ServiceError, status: int) -> None:
    client = await door.open()
    door.orchestrator.streams[0] = items(started(), *deltas("Half an"), finished(2, error=error))
    with pytest.raises(openai.InternalServerError) as caught:
        await client.chat.completions.create(model="support", messages=QUESTION)
    assert caught.value.status_code == status
    assert caught.value.code == error.reason.lower()
    assert error.message in caught.value.message
    assert "runs/r1" in caught.value.message
    # The orchestrator has retried what is safe; the client would start another run.
    assert caught.value.response.headers["x-should-retry"] == "false"

    stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
    seen: list[ChatCompletionChunk] = []
    with pytest.raises(openai.APIError) as streamed:  # noqa: PT012  what came before it counts too
        async for chunk in stream:
            seen.append(chunk)
    assert text_of(seen) == "Half an"
    assert error.message in streamed.value.message
    assert isinstance(streamed.value.body, dict)
    assert (streamed.value.body["run"], streamed.value.body["code"]) == ("runs/r2", error.reason.lower())


async def test_cancelled_run(door: Door) -> None:
    await door.open()
    door.orchestrator.streams[0] = items(started(), finished(2, cancelled=True))
    response = await door.post({"model": "support", "messages": QUESTION})
    assert (response.status_code, error_of(response)["code"]) == (409, "run_cancelled")


# -- streams that break, and time ----------------------------------------------------


async def test_a_broken_stream_is_found_again(door: Door) -> None:
    client = await door.open()
    cut = Unavailable("going away", reason="DEPENDENCY_UNAVAILABLE")
    door.orchestrator.streams.clear()
    door.orchestrator.streams.extend(
        [
            items(started(), *deltas("It is"), model_call_finished(2, member="analyst"), cut),
            items(cut),
            # Joined late: the text so far comes as one piece.
            items(delta("It is bl", 0), delta("ue.", 8), completed(3, "It is blue."), finished(4)),
        ]
    )
    chunks = await stream_chunks(client)
    assert [c.choices[0].delta.content for c in chunks[1:-1]] == ["It is", " bl", "ue."]
    assert extra_of(chunks[-1])["answer_offset"] == 0
    assert [f.after_sequence for f in door.orchestrator.follows] == [0, 2, 2]
    assert len(door.orchestrator.starts) == 1


async def test_a_restarted_orchestrator_is_found_again(door: Door) -> None:
    gate = asyncio.Event()
    door.orchestrator.streams.clear()
    door.orchestrator.streams.extend(
        [items(started(), *deltas("It "), gate), items(completed(2, "It is."), finished(3))]
    )
    async with door.orchestrator.serve() as target:
        client = await door.open(target)
        stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
        seen = [await anext(stream), await anext(stream)]
    async with door.orchestrator.serve(port=int(target.rpartition(":")[2])):
        seen += [chunk async for chunk in stream]
    assert text_of(seen) == "It is."


async def test_an_orchestrator_that_stays_away_is_a_clear_error(door: Door) -> None:
    door.orchestrator.streams[0] = items(started(), *deltas("It "), asyncio.Event())
    async with door.orchestrator.serve() as target:
        client = await door.open(target, reconnect_s=0.5)
        stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
        seen = [await anext(stream), await anext(stream)]
    assert text_of(seen) == "It "
    async with asyncio.timeout(10):
        with pytest.raises(openai.APIError) as caught:
            [chunk async for chunk in stream]
    assert "Idempotency-Key" in caught.value.message


async def test_an_answer_that_begins_anew(door: Door) -> None:
    client = await door.open()
    door.orchestrator.streams[0] = items(
        started(), *deltas("It is red"), *deltas("It is", " blue."), completed(2, "It is blue."), finished(3)
    )
    chunks = await stream_chunks(client)
    text = text_of(chunks)
    assert text == "It is red\n\n[The answer begins anew:]\n\nIt is blue."
    assert text[extra_of(chunks[-1])["answer_offset"] :] == "It is blue."
    completion = await client.chat.completions.create(model="support", messages=QUESTION)
    assert completion.choices[0].message.content == "It is blue."
    assert extra_of(completion)["answer_offset"] == 0


async def test_a_missing_piece_is_asked_for_again(door: Door) -> None:
    client = await door.open()
    door.orchestrator.streams.clear()
    whole = [completed(2, "abcdef"), finished(3)]
    door.orchestrator.streams.extend(
        [items(started(), delta("ab", 0), delta("ef", 4), *whole), items(started(), delta("abcd", 0), *whole)]
    )
    chunks = await stream_chunks(client)
    assert text_of(chunks) == "abcdef"


async def test_silence_is_filled_with_comments(door: Door) -> None:
    await door.open(keep_alive_s=0.05)
    gate = asyncio.Event()
    door.orchestrator.streams[0] = items(started(), gate, *answer("done")[1:])
    lines = []
    async with door.http.stream(
        "POST", "/v1/chat/completions", json={"model": "support", "messages": QUESTION, "stream": True}
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for line in response.aiter_lines():
            lines.append(line)
            if lines.count(": the team is at work") == 2:
                gate.set()
    assert lines[-2] == "data: [DONE]"
    assert any("done" in line for line in lines)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_hangs_up_is_not_followed_any_more(door: Door, stream: bool) -> None:
    await door.open()
    door.orchestrator.streams[0] = items(started(), asyncio.Event())
    body = {"model": "support", "messages": QUESTION, "stream": stream}

    async def ask() -> None:
        async with door.http.stream("POST", "/v1/chat/completions", json=body) as response:
            await response.aread()

    asking = asyncio.create_task(ask())
    async with asyncio.timeout(10):
        await door.orchestrator.followed.wait()
        asking.cancel()
        await door.orchestrator.left.wait()
    assert len(door.orchestrator.starts) == 1  # and nobody cancelled the run


@pytest.mark.parametrize("stream", [False, True])
async def test_a_run_without_end_is_left_in_time(door: Door, stream: bool) -> None:
    await door.open(run_timeout_s=0.3)
    door.orchestrator.streams[0] = items(started(), *deltas("Well,"), asyncio.Event())
    response = await door.post({"model": "support", "messages": QUESTION, "stream": stream})
    if stream:
        assert response.status_code == 200
        last = response.text.strip().splitlines()[-1]
        error = json.loads(last.removeprefix("data: "))["error"]
    else:
        assert response.status_code == 504
        error = error_of(response)
    assert (error["code"], error["run"]) == ("deadline_exceeded", "runs/r1")
    assert door.orchestrator.starts[0].request_id in error["message"]


async def test_a_run_that_waits_for_a_person_says_for_what(door: Door) -> None:
    await door.open(run_timeout_s=0.3)
    steps = [started(), person_asked(2, "#1.1"), person_asked(3, "#1.2"), person_answered(4, "#1.2")]
    door.orchestrator.streams[0] = items(*steps, asyncio.Event())
    response = await door.post({"model": "support", "messages": QUESTION})
    error = error_of(response)
    assert (response.status_code, error["code"]) == (504, "waiting_for_person")
    assert "waits for approval of refund (call #1.1); it goes on." in error["message"]
    assert door.orchestrator.starts[0].request_id in error["message"]


async def test_a_stop_ends_open_streams_with_words(door: Door) -> None:
    client = await door.open()
    door.orchestrator.streams[0] = items(started(), *deltas("Well,"), asyncio.Event())
    stream = await client.chat.completions.create(model="support", messages=QUESTION, stream=True)
    await anext(stream)
    door.gateway.turns.end_all()
    with pytest.raises(openai.APIError) as caught:
        [chunk async for chunk in stream]
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["code"] == "gateway_stopping"


# -- keys -------------------------------------------------------------------------------


async def test_api_keys(door: Door) -> None:
    keys = ApiKeys(
        [
            (hashlib.sha256(b"key-a").digest(), Caller("acme", "ann")),
            (hashlib.sha256(b"key-b").digest(), Caller("bolt", "bob")),
        ]
    )
    client = await door.open(auth=keys, api_key="key-b")
    await client.chat.completions.create(model="support", messages=QUESTION)
    assert door.orchestrator.callers[-1] == Caller("bolt", "bob")
    await (await door.client(api_key="key-a")).models.retrieve("support")
    assert door.orchestrator.callers[-1] == Caller("acme", "ann")
    wrong = await door.client(api_key="key-c")
    for call in (
        wrong.models.list(),
        wrong.models.retrieve("support"),
        wrong.chat.completions.create(model="support", messages=QUESTION),
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            await call
        assert caught.value.code == "invalid_api_key"
    assert (await door.http.get("/v1/models")).status_code == 401
    assert len(door.orchestrator.starts) == 1
