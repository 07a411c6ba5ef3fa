"""The stand-in, seen by the official client: other suites rely on it being faithful."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import AsyncOpenAI

from tests.support.model_server import Fault, ModelServer, Reply, ToolCall

USER = [{"role": "user", "content": "How tall is the tower?"}]
SEARCH = {
    "type": "function",
    "function": {"name": "search_knowledge", "parameters": {"type": "object", "properties": {}}},
}
MEMBERS = {"member": {"enum": ["analyst", "writer"]}, "task": {"type": "string"}}
DELEGATE = {
    "type": "function",
    "function": {"name": "delegate_task", "parameters": {"type": "object", "properties": MEMBERS}},
}


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer() as running:
        yield running


@pytest.fixture
async def client(server: ModelServer) -> AsyncIterator[Any]:
    # Any: the request types of the client are much narrower than what is tried here.
    async with AsyncOpenAI(base_url=server.base_url, api_key="k", max_retries=0, timeout=5) as opened:
        yield opened


async def _stream(client: Any, **extra: Any) -> list[Any]:
    stream = await client.chat.completions.create(model="m", stream=True, **{"messages": USER, **extra})
    return [chunk async for chunk in stream]


def _text(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


async def test_streams_deltas_then_the_finish_then_usage(server: ModelServer, client: Any) -> None:
    server.queue(Reply("It is  330 m tall [1].", input_tokens=7))
    chunks = await _stream(client, stream_options={"include_usage": True})
    assert _text(chunks) == "It is  330 m tall [1]."
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (7, 6)


async def test_no_usage_unless_asked(client: Any) -> None:
    assert all(chunk.usage is None for chunk in await _stream(client))


async def test_tool_calls_stream_in_pieces_that_join_to_json(server: ModelServer, client: Any) -> None:
    arguments = {"query": "a question that is longer than one piece of arguments"}
    server.queue(Reply(tool_calls=[ToolCall(name="a", arguments=arguments), ToolCall(name="b", id="x")]))
    chunks = await _stream(client)
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for call in chunk.choices[0].delta.tool_calls or []:
            calls.setdefault(call.index, ["", ""])
            calls[call.index][0] += call.function.name or ""
            calls[call.index][1] += call.function.arguments or ""
    assert {i: (name, json.loads(text)) for i, (name, text) in calls.items()} == {
        0: ("a", arguments),
        1: ("b", {}),
    }
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_whole_answer_with_tool_calls(server: ModelServer, client: Any) -> None:
    server.script(
        lambda request: Reply(tool_calls=[ToolCall(name="t", arguments={"q": request.last_user_text})])
    )
    answer = await client.chat.completions.create(model="m", messages=USER)
    call = answer.choices[0].message.tool_calls[0].function
    assert (call.name, json.loads(call.arguments)) == ("t", {"q": USER[0]["content"]})
    assert server.chats()[0].model == "m"


async def test_scenario_searches_then_cites(client: Any) -> None:
    first = (
        (await client.chat.completions.create(model="m", messages=USER, tools=[SEARCH])).choices[0].message
    )
    assert json.loads(first.tool_calls[0].function.arguments) == {"query": USER[0]["content"]}
    shown = "<evidence>\n[3] (tower.md) The tower is 330 m tall.\n</evidence>"
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": shown}
    messages = [*USER, first.model_dump(exclude_none=True), result]
    chunks = await _stream(client, messages=messages, tools=[SEARCH])
    assert _text(chunks).endswith("[3].")
    assert sum(1 for c in chunks if c.choices and c.choices[0].delta.content) == 40


async def test_scenario_delegates_to_every_member_in_order(client: Any) -> None:
    messages: list[Any] = list(USER)
    asked = []
    for _ in range(2):
        answer = await client.chat.completions.create(model="m", messages=messages, tools=[DELEGATE, SEARCH])
        message = answer.choices[0].message
        asked.append(json.loads(message.tool_calls[0].function.arguments)["member"])
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "330 m [1]"}
        messages += [message.model_dump(exclude_none=True), result]
    final = await client.chat.completions.create(model="m", messages=messages, tools=[DELEGATE, SEARCH])
    assert asked == ["analyst", "writer"]
    assert final.choices[0].message.content.endswith("[1].")


async def test_a_new_turn_searches_again(client: Any) -> None:
    old = [{"role": "tool", "tool_call_id": "x", "content": "[1] old"}, {"role": "assistant", "content": "a"}]
    answer = await client.chat.completions.create(model="m", messages=[*USER, *old, *USER], tools=[SEARCH])
    assert answer.choices[0].message.tool_calls is not None


async def test_embeddings_are_unit_vectors_and_near_for_shared_words(client: Any) -> None:
    texts = ["the height of the iron tower", "how tall is the iron tower", "recipes with cheese"]
    # Without a format the client asks for base64 and decodes it.
    for encoding in ({"encoding_format": "float"}, {}):
        made = await client.embeddings.create(model="e", input=texts, **encoding)
        vectors = np.array([item.embedding for item in made.data], dtype=np.float32)
        assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        assert vectors[0] @ vectors[1] > 0.4
        assert abs(vectors[0] @ vectors[2]) < 0.2


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, openai.AuthenticationError),
        (404, openai.NotFoundError),
        (429, openai.RateLimitError),
        (500, openai.InternalServerError),
    ],
)
async def test_status_fault_strikes_once(
    server: ModelServer, client: Any, status: int, error: type[openai.APIStatusError]
) -> None:
    server.fail(Fault(kind="status", status=status, retry_after_s=2))
    with pytest.raises(error) as caught:
        await client.models.list()
    assert caught.value.response.headers["retry-after"] == "2"
    assert [m.id for m in (await client.models.list()).data] == ["stand-in"]


async def test_cut_after_chunks(server: ModelServer, client: Any) -> None:
    server.fail(Fault(kind="cut", after_chunks=3))
    stream = await client.chat.completions.create(model="m", stream=True, messages=USER)
    for _ in range(4):  # the role, then three words
        await anext(stream)
    with pytest.raises((openai.APIError, httpx.HTTPError)):
        await anext(stream)
    assert await server.ended(server.requests[0]) == "cut"


async def test_stall_lasts_until_the_client_gives_up(server: ModelServer, client: Any) -> None:
    for place in ("headers", "first_chunk", "middle"):
        server.fail(Fault(kind="stall", at=place, seconds=60))
        with pytest.raises(openai.APITimeoutError):
            await _stream(client, timeout=0.2)
        assert await server.ended(server.requests[-1]) == "client_gone"


async def test_bad_json_line(server: ModelServer, client: Any) -> None:
    server.fail(Fault(kind="bad_json"))
    with pytest.raises(json.JSONDecodeError):
        await _stream(client)


async def test_tool_faults_wait_for_a_request_with_tools(server: ModelServer, client: Any) -> None:
    server.fail(Fault(kind="bad_tool_arguments"), Fault(kind="unknown_tool"))
    assert (await client.chat.completions.create(model="m", messages=USER)).choices[0].message.content
    bad = await client.chat.completions.create(model="m", messages=USER, tools=[SEARCH])
    with pytest.raises(json.JSONDecodeError):
        json.loads(bad.choices[0].message.tool_calls[0].function.arguments)
    unknown = await client.chat.completions.create(model="m", messages=USER, tools=[SEARCH])
    assert unknown.choices[0].message.tool_calls[0].function.name == "no_such_tool"


async def test_empty_choices_and_html(server: ModelServer, client: Any) -> None:
    server.fail(Fault(kind="empty_choices", times=2))
    assert (await client.chat.completions.create(model="m", messages=USER)).choices == []
    assert all(chunk.choices == [] for chunk in (await _stream(client))[:1])
    server.fail(Fault(kind="html"))
    assert "<html>" in str(await client.chat.completions.create(model="m", messages=USER))


async def test_skip_and_contains_choose_the_request(server: ModelServer, client: Any) -> None:
    server.fail(Fault(kind="status", contains="marked", skip=1))
    marked = [{"role": "user", "content": "marked"}]
    await client.chat.completions.create(model="m", messages=marked)
    await client.chat.completions.create(model="m", messages=USER)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="m", messages=marked)


async def test_gate_holds_the_stream(server: ModelServer, client: Any) -> None:
    gate = asyncio.Event()
    server.queue(Reply("one two three", gate=gate, gate_after=2))
    stream = await client.chat.completions.create(model="m", stream=True, messages=USER)
    seen = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
    assert "".join(seen) == "one two"
    gate.set()
    assert _text([chunk async for chunk in stream]) == " three"


async def test_stop_and_restart_keep_the_address(server: ModelServer, client: Any) -> None:
    await client.models.list()
    await server.stop()
    with pytest.raises(openai.APIConnectionError):
        await client.models.list()
    await server.restart()
    await client.models.list()


async def test_a_failing_script_fails_the_test() -> None:
    def broken(_: object) -> Reply:
        raise LookupError("no answer")

    async def run() -> None:
        async with (
            ModelServer() as server,
            AsyncOpenAI(base_url=server.base_url, api_key="k", max_retries=0) as client,
        ):
            server.script(broken)
            with pytest.raises(openai.InternalServerError, match="no answer"):
                await client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])

    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(LookupError, match="no answer")


def test_as_a_process_with_control() -> None:
    command = [
        sys.executable,
        "-m",
        "tests.support.model_server",
        "--scenario",
        "one-search",
        "--chunks",
        "5",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            base = process.stdout.readline().split()[-1]
            root = base.removesuffix("/v1")
            chat = {"model": "m", "messages": USER}
            with httpx.Client(timeout=10, trust_env=False) as client:
                refused = client.post(f"{root}/control", json={"faults": [{"kind": "nonsense"}]})
                assert refused.status_code == 400
                assert "nonsense" in refused.text
                client.post(f"{root}/control", json={"faults": [{"kind": "status", "status": 503}]})
                assert client.post(f"{base}/chat/completions", json=chat).status_code == 503
                answer = client.post(f"{base}/chat/completions", json=chat).json()
                assert answer["usage"]["completion_tokens"] == 5
                counts = client.get(f"{root}/control").json()["counts"]
                assert counts == {"/v1/chat/completions": 2}
        finally:
            process.terminate()
            assert process.wait(10) == 0
