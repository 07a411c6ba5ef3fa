import asyncio
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aiohttp
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from starlette.responses import JSONResponse

from localmodel.server.admission import Admission
from localmodel.server.app import build_app
from localmodel.server.errors import ApiError
from localmodel.server.extractive import PREFACE, ExtractiveEngine
from localmodel.server.model_engine import ModelEngine
from localmodel.server.runtime_client import RuntimeClient
from localmodel.server.supervisor import Address, Supervisor
from tests.unit.localmodel.runtime import FakeRuntime, forced, serving, sse
from tests.unit.localmodel.support import EVIDENCE, SEARCH

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How often is the key rotated?"}]
TOOLS: list[ChatCompletionToolParam] = [SEARCH]  # type: ignore[list-item]
DECIDED = json.dumps({"tool": "search_knowledge", "arguments": {"query": "key ¼"}})


@contextlib.asynccontextmanager
async def server(
    runtime: FakeRuntime, *, running: int = 2, waiting: int = 2
) -> AsyncIterator[tuple[str, openai.AsyncOpenAI]]:
    async with contextlib.AsyncExitStack() as stack:
        below = await stack.enter_async_context(serving(runtime.app()))
        client = RuntimeClient(
            address=lambda: Address(url=below, key="k"), silence_timeout=timedelta(seconds=1)
        )
        await stack.enter_async_context(client)
        admission = Admission(running=running, waiting=waiting, patience=timedelta(seconds=5))
        app = build_app(model="qwen", engine=ModelEngine(client=client), admission=admission)
        url = await stack.enter_async_context(serving(app))
        api = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0)
        yield url, await stack.enter_async_context(api)


async def test_models_and_a_plain_answer() -> None:
    async with server(FakeRuntime(replies=["Every 30 days"])) as (_, api):
        assert [model.id async for model in api.models.list()] == ["qwen"]
        answer = await api.chat.completions.create(model="default", messages=ASK)
    assert (answer.choices[0].message.content or "").strip() == "Every 30 days"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (10, 12)


async def test_tools_become_a_schema_and_the_decision_a_tool_call() -> None:
    runtime = FakeRuntime(replies=[DECIDED])
    async with server(runtime) as (_, api):
        answer = await api.chat.completions.create(model="qwen", messages=ASK, tools=TOOLS)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    [call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "search_knowledge"
    assert json.loads(call.function.arguments) == {"query": "key ¼"}
    assert runtime.bodies[0]["response_format"]["type"] == "json_schema"
    assert "tools" not in runtime.bodies[0]


async def test_a_streamed_tool_call_is_read_by_the_official_client() -> None:
    async with server(FakeRuntime(replies=[DECIDED])) as (_, api):
        name, arguments, reasons, usage = "", "", [], None
        async for chunk in await api.chat.completions.create(
            model="qwen", messages=ASK, tools=TOOLS, stream=True, stream_options={"include_usage": True}
        ):
            usage = chunk.usage or usage
            for choice in chunk.choices:
                reasons.append(choice.finish_reason)
                for call in choice.delta.tool_calls or []:
                    assert call.function is not None
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
    assert (name, json.loads(arguments)) == ("search_knowledge", {"query": "key ¼"})
    assert reasons[-1] == "tool_calls"
    assert usage is not None
    assert usage.completion_tokens == 2


async def test_none_is_followed_by_streamed_text_and_usage_counts_both_calls() -> None:
    runtime = FakeRuntime(replies=['{"tool":"none"}', "Hello there friend"])
    async with server(runtime) as (_, api):
        pieces, usage = [], None
        async for chunk in await api.chat.completions.create(
            model="qwen", messages=ASK, tools=TOOLS, stream=True, stream_options={"include_usage": True}
        ):
            usage = chunk.usage or usage
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
    assert pieces == ["Hello ", "there ", "friend "]
    assert usage is not None
    assert usage.prompt_tokens == 20
    assert "response_format" not in runtime.bodies[1]


async def test_without_include_usage_no_usage_chunk_is_sent() -> None:
    async with server(FakeRuntime(replies=["Hi"])) as (_, api):
        stream = await api.chat.completions.create(model="qwen", messages=ASK, stream=True)
        chunks = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks)
    assert all(chunk.usage is None for chunk in chunks)


async def test_an_unusable_decision_is_answered_in_text_unless_a_call_was_required() -> None:
    async with server(FakeRuntime(replies=['{"tool":"sea', "Plain"])) as (_, api):
        answer = await api.chat.completions.create(model="qwen", messages=ASK, tools=TOOLS)
        assert (answer.choices[0].message.content or "").strip() == "Plain"
    async with server(FakeRuntime(replies=['{"tool":"sea'])) as (_, api):
        with pytest.raises(openai.InternalServerError, match="no usable tool call"):
            await api.chat.completions.create(model="qwen", messages=ASK, tools=TOOLS, tool_choice="required")


async def test_a_stream_that_is_cut_ends_in_an_error_after_what_was_produced() -> None:
    async def cut() -> AsyncIterator[bytes]:
        yield sse({"choices": [{"index": 0, "delta": {"content": "Half"}, "finish_reason": None}]})

    async with server(FakeRuntime(replies=[cut])) as (_, api):
        pieces: list[str] = []
        stream = await api.chat.completions.create(model="qwen", messages=ASK, stream=True)

        async def read() -> None:
            async for chunk in stream:
                pieces.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)

        with pytest.raises(openai.APIError, match="middle of the answer"):
            await read()
        assert pieces == ["Half"]


async def test_a_silent_runtime_is_a_504_and_a_long_prompt_a_400() -> None:
    async def silent() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    too_long = {"error": {"type": "exceed_context_size_error", "message": "5000 tokens, 4096 fit"}}
    async with server(FakeRuntime(replies=[silent, JSONResponse(too_long, status_code=400)])) as (_, api):
        with pytest.raises(openai.APIStatusError) as caught:
            await api.chat.completions.create(model="qwen", messages=ASK, stream=True)
        assert caught.value.status_code == 504
        with pytest.raises(openai.BadRequestError, match="4096 fit") as refused:
            await api.chat.completions.create(model="qwen", messages=ASK)
        assert refused.value.code == "context_length_exceeded"


async def test_a_full_queue_is_a_429_with_retry_after() -> None:
    go_on, started = asyncio.Event(), asyncio.Event()

    async def held() -> AsyncIterator[bytes]:
        started.set()
        await go_on.wait()
        yield sse({"choices": [{"index": 0, "delta": {"content": "ok"}, "finish_reason": "stop"}]})
        yield b"data: [DONE]\n\n"

    async with server(FakeRuntime(replies=[held]), running=1, waiting=0) as (_, api):
        first = asyncio.create_task(api.chat.completions.create(model="qwen", messages=ASK))
        await started.wait()
        with pytest.raises(openai.RateLimitError) as caught:
            await api.chat.completions.create(model="qwen", messages=ASK)
        assert int(caught.value.response.headers["retry-after"]) >= 1
        go_on.set()
        assert (await first).choices[0].message.content == "ok"


async def test_a_client_that_goes_away_frees_its_slot() -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()
        yield b""

    async with server(FakeRuntime(replies=[endless, "Next"]), running=1, waiting=1) as (_, api):
        gone = asyncio.create_task(api.chat.completions.create(model="qwen", messages=ASK))
        await started.wait()
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        answer = await api.chat.completions.create(model="qwen", messages=ASK)
        assert (answer.choices[0].message.content or "").strip() == "Next"
        await asyncio.wait_for(stopped.wait(), 5)


SCORED = {"prompt_logprobs": 0, "continue_final_message": True, "add_generation_prompt": False}


async def test_a_given_text_is_scored_as_the_answer_token_by_token() -> None:
    runtime = FakeRuntime(replies=[forced("no")])
    async with server(runtime) as (_, api):
        answer = await api.chat.completions.create(
            model="qwen", messages=[*ASK, {"role": "assistant", "content": "no"}], extra_body=SCORED
        )
    assert answer.model_extra is not None
    assert answer.model_extra["prompt_logprobs"] == [
        {"110": {"logprob": 0.0, "decoded_token": "n"}},
        {"111": {"logprob": -1.0, "decoded_token": "o"}},
    ]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (12, 0)
    tokenized, scored = runtime.bodies
    # What looks like a mark of the chat template is text.
    assert (tokenized["add_special"], tokenized["parse_special"]) == (False, False)
    assert [message["role"] for message in scored["messages"]] == ["user"]
    assert scored["grammar"] == "root ::= <[110]> <[111]>"
    assert (scored["max_tokens"], scored["logprobs"], scored["temperature"]) == (2, True, 0)


async def test_a_runtime_that_writes_another_text_is_an_error_and_no_score() -> None:
    async with server(FakeRuntime(replies=[forced("yes")])) as (_, api):
        with pytest.raises(openai.InternalServerError, match="did not score the text"):
            await api.chat.completions.create(
                model="qwen", messages=[*ASK, {"role": "assistant", "content": "no"}], extra_body=SCORED
            )


async def test_a_text_too_long_to_score_is_refused_before_the_runtime_reads_its_grammar() -> None:
    runtime = FakeRuntime()
    async with server(runtime) as (_, api):
        with pytest.raises(openai.BadRequestError, match="5000 tokens, at most 4096") as caught:
            await api.chat.completions.create(
                model="qwen", messages=[*ASK, {"role": "assistant", "content": "x" * 5000}], extra_body=SCORED
            )
    assert caught.value.code == "context_length_exceeded"
    assert len(runtime.bodies) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_logprobs": 5},
        {"continue_final_message": False},
        {"messages": ASK},
        {"messages": [{"role": "assistant", "content": "no"}]},
        {"messages": [*ASK, {"role": "assistant", "content": ""}]},
        {"stream": True},
        {"tools": TOOLS},
    ],
)
async def test_what_cannot_be_scored_is_refused_by_name(wrong: dict[str, Any]) -> None:
    body = {"messages": [*ASK, {"role": "assistant", "content": "no"}], **SCORED} | wrong
    messages: Any = body.pop("messages")
    async with server(FakeRuntime()) as (_, api):
        with pytest.raises(openai.BadRequestError) as caught:
            await api.chat.completions.create(model="qwen", messages=messages, extra_body=body)
    assert caught.value.param == "prompt_logprobs"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "param"),
    [
        ("POST", "/v1/chat/completions", b"", 400, "body"),
        ("POST", "/v1/chat/completions", b"[1", 400, "body"),
        ("POST", "/v1/chat/completions", b'{"model":"m"}', 400, "messages"),
        (
            "POST",
            "/v1/chat/completions",
            b'{"model":"m","messages":[{"role":"user","content":"x"}]}',
            404,
            "model",
        ),
        ("POST", "/v1/chat/completions", b"x" * 2_000_001, 413, "body"),
        ("GET", "/v1/nothing", b"", 404, None),
        ("GET", "/v1/chat/completions", b"", 405, None),
    ],
)
async def test_errors_have_openai_s_shape(
    method: str, path: str, body: bytes, status: int, param: str | None
) -> None:
    async with (
        server(FakeRuntime()) as (url, _),
        aiohttp.ClientSession() as http,
        http.request(method, f"{url}{path}", data=io.BytesIO(body)) as response,
    ):
        value: dict[str, Any] = await response.json()
    assert response.status == status
    assert set(value["error"]) == {"message", "type", "param", "code"}
    assert value["error"]["param"] == param


async def test_the_extractive_model_streams_through_the_same_server() -> None:
    admission = Admission(running=1, waiting=1, patience=timedelta(seconds=5))
    app = build_app(model="extractive", engine=ExtractiveEngine(), admission=admission)
    question = f"{EVIDENCE}\n\nHow often is the signing key rotated?"
    async with (
        serving(app) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as api,
    ):
        text = ""
        async for chunk in await api.chat.completions.create(
            model="extractive", messages=[{"role": "user", "content": question}], stream=True
        ):
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
        with pytest.raises(openai.BadRequestError, match="has no probabilities"):
            await api.chat.completions.create(
                model="extractive", messages=[*ASK, {"role": "assistant", "content": "x"}], extra_body=SCORED
            )
    assert text.startswith(PREFACE)
    assert "every 30 days. [2]" in text


CHILD = """
import json, sys
print("noise", flush=True)
print(json.dumps({"url": "http://127.0.0.1:" + sys.argv[1]}), flush=True)
sys.stdin.read()
"""


async def test_a_dead_runtime_is_restarted_and_meanwhile_refused_with_retry_after() -> None:
    started: list[int] = []

    def command() -> tuple[str, ...]:
        started.append(len(started) + 1)
        return (sys.executable, "-c", CHILD, str(started[-1]))

    async with Supervisor(command=command, first_backoff=timedelta(milliseconds=50)) as supervisor:
        with pytest.raises(ApiError) as early:
            supervisor.address()
        assert (early.value.status, early.value.headers()) == (503, {"retry-after": "2"})
        first = await supervisor.wait_ready(timedelta(seconds=20))
        assert supervisor.pid is not None
        os.kill(supervisor.pid, signal.SIGKILL)
        await supervisor.wait_ended(timedelta(seconds=20))
        with pytest.raises(ApiError, match="ended with code -9"):
            supervisor.address()
        second = await supervisor.wait_ready(timedelta(seconds=20))
    assert (first.url, second.url) == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert first.key != second.key


async def test_a_runtime_that_cannot_start_says_why() -> None:
    fails = (sys.executable, "-c", "import sys; sys.exit('no such model')")
    async with Supervisor(command=lambda: fails, first_backoff=timedelta(seconds=20)) as supervisor:
        await supervisor.wait_ended(timedelta(seconds=20))
        with pytest.raises(ApiError, match=r"code 1; last words: no such model"):
            supervisor.address()
