"""The OpenAI adapter against a real HTTP endpoint that can fail in every way, and the stream's decoder."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, DefaultAioHttpClient

from manifests import ModelConfig
from manifests.endpoints import ModelEndpoint, SecretFiles
from orchestrator.adapters.llm_openai import OpenAIChatModel
from orchestrator.adapters.models import EndpointModels
from orchestrator.adapters.openai_stream import Assembly
from orchestrator.core.chat import Completion, Prompt, TextPart, Tool
from servicekit.errors import FailedPrecondition, Internal, ResourceExhausted, ServiceError, Unavailable
from tests.support.model_server import Fault, ModelServer, Reply, ToolCall
from tests.support.orchestrator_fakes import model_config

ASK = [Prompt(role="user", content="How long?")]
SEARCH = Tool(name="search_knowledge", description="Searches.", parameters={"type": "object"})


@asynccontextmanager
async def connected(url: str, *, timeout_s: float = 10.0) -> AsyncIterator[OpenAIChatModel]:
    timeout = openai.Timeout(timeout_s, connect=5.0)
    http = DefaultAioHttpClient(timeout=timeout, verify=ssl.create_default_context())
    client = AsyncOpenAI(base_url=url, api_key="secret-key", max_retries=0, timeout=timeout, http_client=http)
    try:
        yield OpenAIChatModel(client=client, model="stand-in", config=model_config())
    finally:
        await client.close()


async def ask(
    model: OpenAIChatModel, *, tools: Sequence[Tool] = (), must_answer: bool = False
) -> tuple[str, Completion]:
    """The pieces together, and the completion, which comes last and once."""
    parts = [part async for part in model.stream(ASK, tools=tools, must_answer=must_answer)]
    *pieces, last = parts
    assert isinstance(last, Completion)
    return "".join(p.text for p in pieces if isinstance(p, TextPart)), last


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(scenario="answer") as server:
        yield server


async def test_an_answer_comes_in_pieces_and_whole(server: ModelServer) -> None:
    server.queue(Reply("Three years [1].", input_tokens=7, output_tokens=3))
    async with connected(server.base_url) as model:
        pieces, done = await ask(model)
    assert pieces == done.text == "Three years [1]."
    assert (done.finish_reason, done.model, done.input_tokens, done.output_tokens) == (
        "stop",
        "stand-in",
        7,
        3,
    )


async def test_tool_calls_in_pieces_are_put_together(server: ModelServer) -> None:
    wanted = [ToolCall(name="search_knowledge", arguments={"query": f"q{n} " * 20}) for n in range(2)]
    server.queue(Reply(tool_calls=wanted))
    async with connected(server.base_url) as model:
        pieces, done = await ask(model, tools=[SEARCH])
    assert pieces == ""
    assert [(c.name, c.arguments) for c in done.tool_calls] == [(w.name, w.arguments_json()) for w in wanted]
    assert len({c.id for c in done.tool_calls}) == 2
    assert done.finish_reason == "tool_calls"


async def test_what_is_sent(server: ModelServer) -> None:
    spec = {
        "type": "Chat",
        "provider": "BuiltIn",
        "parameters": {"temperature": "0.5", "topP": "0.9", "maxOutputTokens": 9, "seed": 4},
    }
    config = ModelConfig.model_validate({"metadata": {"name": "chat"}, "spec": spec})
    async with connected(server.base_url) as model:
        tuned = OpenAIChatModel(client=model._client, model="m", config=config)
        assert (await ask(tuned, tools=[SEARCH], must_answer=True))[0]
        await ask(model, tools=[SEARCH])
        await ask(model)
    (first, second, third) = [r.body for r in server.requests]
    assert first["tool_choice"] == "none"
    assert first["tools"][0]["function"]["name"] == "search_knowledge"
    assert (first["temperature"], first["top_p"], first["max_tokens"], first["seed"]) == (0.5, 0.9, 9, 4)
    assert second["tool_choice"] == "auto"
    assert not {"tools", "tool_choice", "temperature", "max_tokens"} & third.keys()
    assert third["stream_options"] == {"include_usage": True}


async def test_the_form_of_the_answer_is_asked_for(server: ModelServer) -> None:
    schema = {"type": "object", "required": ["a"]}
    async with connected(server.base_url) as model:
        for form in (schema, {"type": "object"}):
            assert [p async for p in model.stream(ASK, tools=[], must_answer=True, answer_schema=form)]
    first, second = [r.body["response_format"] for r in server.requests]
    assert first == {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    assert second == {"type": "json_object"}


async def test_an_endpoint_that_cannot_do_forms_is_asked_without(server: ModelServer) -> None:
    server.fail(Fault(kind="status", status=400, contains="response_format", times=1))
    async with connected(server.base_url) as model:
        parts = [p async for p in model.stream(ASK, tools=[], must_answer=True, answer_schema={"a": 1})]
    assert isinstance(parts[-1], Completion)
    assert ["response_format" in r.body for r in server.requests] == [True, False]


async def test_one_connection_serves_many_answers(server: ModelServer) -> None:
    async with connected(server.base_url) as model:
        for _ in range(5):
            await ask(model)
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("fault", "kind", "reason", "says"),
    [
        (Fault(kind="status", status=429, retry_after_s=2), ResourceExhausted, "MODEL_RATE_LIMITED", "429"),
        (Fault(kind="status", status=500), Unavailable, "MODEL_UNAVAILABLE", "500"),
        (Fault(kind="status", status=503, retry_after_s=2), Unavailable, "MODEL_UNAVAILABLE", "503"),
        (
            Fault(kind="status", status=401, message="bad key"),
            FailedPrecondition,
            "MODEL_REJECTED",
            "bad key",
        ),
        (
            Fault(kind="status", status=400, message="This model's maximum context length is 8192 tokens."),
            FailedPrecondition,
            "MODEL_REJECTED",
            "(set contextTokens of ModelConfig chat: ",
        ),
        (Fault(kind="status", status=404), FailedPrecondition, "MODEL_REJECTED", "404"),
        (Fault(kind="status", status=400), FailedPrecondition, "MODEL_REJECTED", "400"),
        (Fault(kind="cut"), Unavailable, "MODEL_UNAVAILABLE", "no answer"),
        (Fault(kind="bad_json"), Internal, "MODEL_BAD_RESPONSE", "no chat completion chunk"),
        (Fault(kind="html"), Internal, "MODEL_BAD_RESPONSE", "text/html"),
    ],
    ids=lambda value: f"{value.kind}-{value.status}" if isinstance(value, Fault) else "",
)
async def test_every_fault_has_its_error(
    server: ModelServer, fault: Fault, kind: type[ServiceError], reason: str, says: str
) -> None:
    server.fail(fault)
    async with connected(server.base_url) as model:
        with pytest.raises(ServiceError) as caught:
            await ask(model)
        assert (type(caught.value), caught.value.reason) == (kind, reason)
        assert says in caught.value.message
        assert "\n" not in caught.value.message
        wanted = None if fault.retry_after_s is None else timedelta(seconds=fault.retry_after_s)
        assert caught.value.retry_after == wanted
        assert (await ask(model))[0]  # the next one is fine


@pytest.mark.parametrize("at", ["headers", "first_chunk", "middle"])
async def test_a_model_that_falls_silent_is_left(server: ModelServer, at: Any) -> None:
    server.fail(Fault(kind="stall", at=at))
    async with connected(server.base_url, timeout_s=0.2) as model:
        with pytest.raises(Unavailable) as caught:
            await ask(model)
    assert "said nothing for" in caught.value.message
    (request,) = server.requests
    assert await server.ended(request) == "client_gone"


async def test_an_endpoint_that_is_down_is_not_called_slow(server: ModelServer) -> None:
    async with connected(server.base_url) as model:
        await ask(model)
        await server.stop()
        with pytest.raises(Unavailable):
            await ask(model)
        with pytest.raises(Unavailable) as caught:
            await ask(model)
        assert "Connect call failed" in caught.value.message
        await server.restart()
        assert (await ask(model))[0]


RAW = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"garbage\r\n\r\n",
        RAW + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        RAW + b"content-encoding: gzip\r\ncontent-length: 6\r\n\r\nabcdef",
        RAW + b"content-length: 900\r\n\r\ndata: {}\n\n",
        b"HTTP/1.1 429 Slow\r\nretry-after: inf\r\ncontent-length: 0\r\n\r\n",
    ],
    ids=["closed", "no-http", "bad-chunk", "bad-gzip", "short", "endless-retry-after"],
)
async def test_nothing_of_the_http_library_escapes(answer: bytes) -> None:
    async with raw_server(answer) as url, connected(url) as model:
        with pytest.raises((Unavailable, ResourceExhausted)) as caught:
            await ask(model)
    assert "secret-key" not in caught.value.message


async def test_a_connection_that_stays_open_after_the_answer_does_not_hold_it_up() -> None:
    body = b'data: {"choices":[{"delta":{"content":"hi"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    head = RAW + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
    async with raw_server(head, linger=True) as url, connected(url) as model, asyncio.timeout(5):
        pieces, done = await ask(model)
    assert pieces == "hi"
    # Without usage it is guessed at.
    assert (done.input_tokens, done.output_tokens) == (len("How long?") // 4, 0)


@asynccontextmanager
async def raw_server(answer: bytes, *, linger: bool = False) -> AsyncIterator[str]:
    answered: list[asyncio.Task[None]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if linger:
                await reader.read()  # until the client hangs up
            writer.close()
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answered.append(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        await asyncio.gather(*answered)


# --- which endpoint ---------------------------------------------------------------


def compatible(url: str, *, key: bool = False) -> ModelConfig:
    spec: dict[str, Any] = {
        "type": "Chat",
        "provider": "OpenAICompatible",
        "model": "m",
        "endpoint": {"url": url},
    }
    if key:
        spec["credentialsSecretKeyRef"] = {"name": "keys", "key": "chat"}
    metadata = {"name": "chat", "labels": {"a": "b"}}
    return ModelConfig.model_validate({"metadata": metadata, "spec": spec})


async def test_the_key_is_read_from_its_secret_each_time(server: ModelServer, tmp_path: Path) -> None:
    models = EndpointModels(built_in=None, secrets=SecretFiles(tmp_path))
    config = compatible(server.base_url, key=True)
    with pytest.raises(FailedPrecondition) as caught:
        async with models.lease(config):
            pass
    assert "key 'chat' of secret 'keys' in namespace 'default' is not usable" in caught.value.message
    (tmp_path / "keys").mkdir()
    for key in ("one", "two"):
        (tmp_path / "keys" / "chat").write_text(f"{key}\n")
        async with models.lease(config) as model:
            assert [part async for part in model.stream(ASK, tools=[], must_answer=False)]
    assert [r.headers["authorization"] for r in server.requests] == ["Bearer one", "Bearer two"]
    await models.close()


async def test_without_a_model_of_the_installation_builtin_says_what_to_do() -> None:
    models = EndpointModels(built_in=None, secrets=SecretFiles(None))
    with pytest.raises(FailedPrecondition) as caught:
        async with models.lease(model_config()):
            pass
    assert "AGENTTEAMS_BUILTIN_CHAT_URL" in caught.value.message


async def test_clients_are_shared_and_bounded(server: ModelServer) -> None:
    models = EndpointModels(built_in=ModelEndpoint(url=server.base_url, model="m"), secrets=SecretFiles(None))
    config = compatible(server.base_url)
    async with models.lease(config), models.lease(config), models.lease(model_config()):
        assert len(models._clients) == 2
    for number in range(70):
        async with models.lease(compatible(f"http://127.0.0.1:1/v{number}")):
            pass
    assert len(models._clients) == 64
    await models.close()


# --- lines ------------------------------------------------------------------------


def assemble(*pieces: bytes) -> tuple[str, Completion]:
    assembly = Assembly(name="chat", model="m")
    texts = [text for piece in pieces for text in assembly.feed(piece)]
    return "".join(texts), assembly.completion(prompt_chars=40)


def line(json: str) -> bytes:
    return f"data: {json}\n\n".encode()


STOP = line('{"choices":[{"delta":{},"finish_reason":"stop"}]}')


def test_a_stream_may_be_torn_anywhere() -> None:
    whole = line('{"choices":[{"delta":{"content":"Grüße €"}}]}') + STOP + b"data: [DONE]\n\n"
    for cut in range(len(whole)):
        assert assemble(whole[:cut], whole[cut:])[0] == "Grüße €"


@pytest.mark.parametrize(
    "extra",
    [
        b": keep-alive\n\n",
        b"event: ping\r\n\r\n",
        line('{"choices":null}'),
        line('{"choices":[]}'),
        line('{"choices":[{"delta":null}]}'),
        line('{"choices":[{"delta":{"content":null,"reasoning":"hm"}}],"odd":{"a":[1]}}'),
    ],
)
def test_lines_that_say_nothing_are_passed_over(extra: bytes) -> None:
    assert assemble(extra, line('{"choices":[{"delta":{"content":"x"}}]}'), extra, STOP)[0] == "x"


def test_usage_may_be_missing_or_null() -> None:
    text = line('{"choices":[{"delta":{"content":"12345678"}}]}')
    assert assemble(text, STOP)[1].output_tokens == 2
    null = line('{"choices":[],"usage":{"prompt_tokens":null,"completion_tokens":null}}')
    assert assemble(text, STOP, null)[1].input_tokens == 10
    given = line('{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}}')
    assert assemble(text, STOP, given)[1].input_tokens == 5


def test_tool_calls_without_numbers_are_kept_apart() -> None:
    def call(json: str) -> bytes:
        return line(f'{{"choices":[{{"delta":{{"tool_calls":[{json}]}}}}]}}')

    _, done = assemble(
        call('{"id":"a","function":{"name":"f","arguments":"{"}}'),
        call('{"function":{"arguments":"}"}}'),
        call('{"id":"b","function":{"name":"g","arguments":"{}"}}'),
        STOP,
    )
    assert [(c.id, c.name, c.arguments) for c in done.tool_calls] == [("a", "f", "{}"), ("b", "g", "{}")]


@pytest.mark.parametrize(
    ("json", "kind"),
    [
        ('{"error":{"message":"overloaded","code":429}}', ResourceExhausted),
        ('{"error":{"message":null,"code":"rate_limit_exceeded"}}', ResourceExhausted),
        ('{"error":{"message":"broken"}}', Unavailable),
        ('{"error":"broken"}', Unavailable),
        ('{"choices":7}', Internal),
        ("not json", Internal),
        ('{"choices":[{"delta":{"content":"' + "x" * 400_001 + '"}}]}', Internal),
    ],
)
def test_a_stream_that_fails_says_how(json: str, kind: type[ServiceError]) -> None:
    with pytest.raises(kind):
        assemble(line(json))


def test_a_stream_that_ends_too_early_is_cut_off() -> None:
    with pytest.raises(Unavailable, match="cut off"):
        assemble(line('{"choices":[{"delta":{"content":"x"}}]}'))


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(Internal, match="a line of more than"):
        assemble(*[b"x" * 100_000] * 11)


async def test_a_tool_that_must_be_called_is_said_to_be(server: ModelServer) -> None:
    must = replace(SEARCH, required=True)
    async with connected(server.base_url) as model:
        await ask(model, tools=[SEARCH, must])
        await ask(model, tools=[must], must_answer=True)
    assert [chat.body["tool_choice"] for chat in server.chats()] == ["required", "none"]
