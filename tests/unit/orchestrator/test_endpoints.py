"""How endpoints are reached: headers and certificates from secrets; what they count and what is no answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from manifests import ModelConfig
from manifests.endpoints import SecretFiles
from orchestrator.adapters.models import EndpointModels
from orchestrator.adapters.openai_stream import Assembly
from orchestrator.core.chat import Completion, Prompt, TextPart
from servicekit.errors import FailedPrecondition, ResourceExhausted, Unavailable
from tests.support.model_server import ModelServer, Reply
from tests.support.tls import behind_tls

ASK = [Prompt(role="user", content="How long?")]


@pytest.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with ModelServer(scenario="answer") as server:
        yield server


def config(url: str, **spec: Any) -> ModelConfig:
    body = {"type": "Chat", "provider": "OpenAICompatible", "model": "m", "endpoint": {"url": url}, **spec}
    return ModelConfig.model_validate({"metadata": {"name": "chat"}, "spec": body})


def write(folder: Path, text: str) -> None:
    (folder / "keys").mkdir(exist_ok=True)
    (folder / "keys" / "k").write_text(text)


REF = {"name": "keys", "key": "k"}
X_KEY = {"headersFrom": ({"name": "X-Api-Key", "valueFrom": {"secretKeyRef": REF}},)}


async def ask(models: EndpointModels, of: ModelConfig) -> str:
    async with models.lease(of) as model:
        parts = [part async for part in model.stream(ASK, tools=[], must_answer=False)]
    return "".join(part.text for part in parts if isinstance(part, TextPart))


async def test_headers_come_from_their_secrets_each_time(server: ModelServer, tmp_path: Path) -> None:
    models = EndpointModels(built_in=None, secrets=SecretFiles(tmp_path))
    of = config(server.base_url, **X_KEY)
    with pytest.raises(
        FailedPrecondition, match="key 'k' of secret 'keys' in namespace 'default' is not usable"
    ):
        await ask(models, of)
    for value in ("one", "two"):
        write(tmp_path, f"{value}\n")
        assert await ask(models, of)
    assert [r.headers["x-api-key"] for r in server.requests] == ["one", "two"]
    await models.close()


async def test_a_header_may_be_another_kind_of_authorization(server: ModelServer, tmp_path: Path) -> None:
    models = EndpointModels(built_in=None, secrets=SecretFiles(tmp_path))
    write(tmp_path, "Basic dXNlcg==")
    header = {"name": "authorization", "valueFrom": {"secretKeyRef": REF}}
    assert await ask(models, config(server.base_url, headersFrom=(header,)))
    assert server.requests[0].headers["authorization"] == "Basic dXNlcg=="
    await models.close()


@pytest.mark.parametrize("spec", [X_KEY, {"credentialsSecretKeyRef": REF}], ids=["header", "key"])
async def test_a_secret_that_no_header_can_carry_is_refused_and_not_shown(
    server: ModelServer, tmp_path: Path, spec: dict[str, Any]
) -> None:
    models = EndpointModels(built_in=None, secrets=SecretFiles(tmp_path))
    write(tmp_path, "hunter2\nX-Evil: 1")
    with pytest.raises(FailedPrecondition) as caught:
        await ask(models, config(server.base_url, **spec))
    assert "it holds characters that no header can have" in caught.value.message
    assert caught.value.metadata["key"] == "k"
    assert "hunter2" not in caught.value.message
    assert not server.requests


async def test_an_endpoint_is_trusted_if_the_named_authority_vouches_for_it(
    server: ModelServer, tmp_path: Path
) -> None:
    ours, other = trustme.CA(), trustme.CA()
    trusting = {"tls": {"caSecretKeyRef": REF}}
    models = EndpointModels(built_in=None, secrets=SecretFiles(tmp_path))
    async with behind_tls(server.port, ours) as url:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await ask(models, config(url))
        write(tmp_path, other.cert_pem.bytes().decode())
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await ask(models, config(url, **trusting))
        write(tmp_path, ours.cert_pem.bytes().decode())  # a new one is taken without a restart
        assert await ask(models, config(url, **trusting))
        write(tmp_path, "no certificate")
        with pytest.raises(FailedPrecondition, match=r"that key holds no certificates \(PEM\)"):
            await ask(models, config(url, **trusting))
        await models.close()


@asynccontextmanager
async def too_busy(*headers: str) -> AsyncIterator[str]:
    """The URL of an endpoint that answers 429 with these headers."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        lines = ("HTTP/1.1 429 Slow", "content-length: 0", "connection: close", *headers, "", "")
        writer.write("\r\n".join(lines).encode())
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        (("retry-after: 2.5",), 2.5),
        (("retry-after: 3", "retry-after-ms: 1500"), 1.5),
        (("retry-after: Wed, 21 Oct 2015 07:28:00 GMT",), 0),
        (("retry-after: -5",), 0),
        (("retry-after: soon GMT",), None),
        (("retry-after: nan",), None),
        ((), None),
    ],
)
async def test_how_an_endpoint_says_when_to_come_again(
    headers: tuple[str, ...], seconds: float | None
) -> None:
    assert await retry_after(*headers) == (None if seconds is None else timedelta(seconds=seconds))


async def test_it_may_name_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=5), usegmt=True)
    after = await retry_after(f"Retry-After: {date}")
    assert after is not None
    assert timedelta(minutes=4) < after <= timedelta(minutes=5)


async def retry_after(*headers: str) -> timedelta | None:
    models = EndpointModels(built_in=None, secrets=SecretFiles(None))
    async with too_busy(*headers) as url:
        with pytest.raises(ResourceExhausted) as caught:
            await ask(models, config(url))
        await models.close()
    return caught.value.retry_after


# --- what endpoints write beside the answer -----------------------------------------


def assembled(*lines: str) -> tuple[str, Completion]:
    assembly = Assembly(name="chat", model="m")
    texts = [text for line in lines for text in assembly.feed(f"data: {line}\n\n".encode())]
    return "".join(texts), assembly.completion(prompt_chars=40)


def delta(json: str) -> str:
    return f'{{"choices":[{{"delta":{json}}}]}}'


STOP = '{"choices":[{"delta":{},"finish_reason":"stop"}]}'


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_reasoning_is_no_part_of_the_answer_and_is_counted(field: str) -> None:
    thought = delta(f'{{"{field}":"{"hm" * 40}"}}')
    text, done = assembled(thought, delta('{"content":"12345678"}'), STOP)
    assert text == done.text == "12345678"
    assert done.output_tokens == (80 + 8) // 4


def test_reasoning_of_another_form_is_passed_over() -> None:
    assert assembled(delta('{"reasoning":{"steps":["hm"]},"content":"x"}'), STOP)[0] == "x"


def test_a_model_that_never_stops_reasoning_is_left() -> None:
    with pytest.raises(Exception, match="reasoning of more than 400000 characters"):
        assembled(*[delta(f'{{"reasoning":"{"x" * 100_000}"}}')] * 5)


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        # Cached tokens are part of the prompt's, those of the reasoning of the completion's.
        (
            '{"prompt_tokens":100,"completion_tokens":50,"total_tokens":150,'
            '"prompt_tokens_details":{"cached_tokens":80},"completion_tokens_details":{"reasoning_tokens":40}}',
            (100, 50),
        ),
        # Here they are in the total only.
        ('{"prompt_tokens":100,"completion_tokens":10,"total_tokens":150}', (100, 50)),
        ('{"prompt_tokens":100,"completion_tokens":10,"total_tokens":0}', (100, 10)),
        ('{"prompt_tokens":100,"completion_tokens":10}', (100, 10)),
    ],
)
def test_tokens_are_counted_once(usage: str, counted: tuple[int, int]) -> None:
    text = delta('{"content":"x"}')
    _, done = assembled(text, STOP, f'{{"choices":[],"usage":{usage}}}')
    assert (done.input_tokens, done.output_tokens) == counted


async def test_a_silent_endpoint_is_told_from_a_slow_one(server: ModelServer) -> None:
    """Chunks every 60 ms are no silence of 1 s: the bound of the whole request is the caller's to hold."""
    server.queue(Reply(chunks=["a"] * 20))
    server.chunk_delay_s = 0.06
    models = EndpointModels(built_in=None, secrets=SecretFiles(None))
    of = config(server.base_url, limits={"idleTimeoutSeconds": 1, "timeoutSeconds": 1})
    assert await ask(models, of) == "a" * 20
    await models.close()
