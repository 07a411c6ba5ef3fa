import asyncio
import json
import signal
import sys

import openai
import pytest
from openai.types.chat import ChatCompletionToolParam

from evaluation.adapters.likelihoods import text_logprob
from localmodel.assets import SMOLLM2
from localmodel.assets.catalog import CHAT_MODELS
from localmodel.assets.chat_model import runtime_installed
from localmodel.assets.settings import AssetSettings
from tests.unit.localmodel.support import SEARCH

# The second is more than one token, one of them a part of a character.
CITIES = ("Paris", "Kraków")
TOOLS: list[ChatCompletionToolParam] = [SEARCH]  # type: ignore[list-item]
FILE = next(model.artifact.filename for model in CHAT_MODELS if model.name == SMOLLM2)


@pytest.mark.slow
async def test_the_tiny_model_serves_a_tool_call_a_streamed_answer_and_likelihoods() -> None:
    path = AssetSettings.from_environment().cache / "chat" / FILE
    if not (path.exists() and runtime_installed()):
        pytest.skip(
            f"NOT RUN, nothing real was tested: needs xllamacpp and {path}; python -m localmodel fetch"
        )
    command = (
        sys.executable,
        "-m",
        "localmodel",
        "serve",
        "--model",
        SMOLLM2,
        "--port",
        "0",
        "--threads",
        "1",
    )
    server = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert server.stderr is not None
    try:
        events: list[dict[str, str]] = []
        async with asyncio.timeout(90):
            while not events or events[-1]["event"] != "runtime_ready":
                line = await server.stderr.readline()
                assert line, f"the server ended early: {events}"
                events.append(json.loads(line))
        url = next(event["url"] for event in events if event["event"] == "serving")
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as api:
            called = await api.chat.completions.create(
                model="default",
                messages=[{"role": "user", "content": "How often is the signing key rotated?"}],
                tools=TOOLS,
                tool_choice="required",
            )
            stream = await api.chat.completions.create(
                model=SMOLLM2,
                messages=[{"role": "user", "content": "Say hello."}],
                max_tokens=16,
                stream=True,
                stream_options={"include_usage": True},
            )
            chunks = [chunk async for chunk in stream]
            right, wrong = [await _likelihood(api, f"The capital of France is {city}.") for city in CITIES]
    finally:
        if server.returncode is None:
            server.terminate()
        await asyncio.wait_for(server.communicate(), 15)
    assert right > wrong + 1
    [call] = called.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert isinstance(json.loads(call.function.arguments)["query"], str)
    assert any(choice.delta.content for chunk in chunks for choice in chunk.choices)
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 16
    # It stops orderly and then ends by the signal, as uvicorn does.
    assert server.returncode in {0, -signal.SIGTERM}


async def _likelihood(api: openai.AsyncOpenAI, text: str) -> float:
    """As the judge asks for it and reads it."""
    answer = await api.chat.completions.create(
        model=SMOLLM2,
        messages=[
            {"role": "user", "content": "What is the capital of France?"},
            {"role": "assistant", "content": text},
        ],
        extra_body={"prompt_logprobs": 0, "continue_final_message": True, "add_generation_prompt": False},
    )
    assert answer.model_extra is not None
    nats = text_logprob(answer.model_extra["prompt_logprobs"], text)
    assert -100 < nats < 0
    return nats
