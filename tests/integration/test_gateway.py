"""The gateway over HTTP, asked by OpenAI's own client, with a scripted orchestrator behind it."""

import asyncio
import hashlib
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from agentteams.session.v1 import session_pb2

from gateway.auth import ApiKeys
from servicekit.context import Caller
from tests.support.door import QUESTION, Door, door, error_of, extra_of, stream_chunks
from tests.support.fake_orchestrator import answer, delta, items, started

__all__ = ["door"]

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
