"""What of a conversation traces may hold: bounded, and without secrets."""

import json

import pytest

from orchestrator.core.chat import Completion, Prompt, ToolCall
from orchestrator.core.trace_content import MASK, MAX_CHARS, content, masked


def done(text: str = "Yes.", *calls: ToolCall) -> Completion:
    return Completion(
        text=text, tool_calls=calls, finish_reason="stop", model="m", input_tokens=1, output_tokens=1
    )


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnop1234",
        "ghp_abcdefghijklmnopqrst123456",
        "AKIAIOSFODNN7EXAMPLE",
        "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
        "xoxb-1234567890-abcdef",
    ],
)
def test_secrets_are_masked_wherever_they_stand(secret: str) -> None:
    for text in (secret, f"my key is {secret}, keep it", f'{{"a": "{secret}"}}'):
        assert secret not in masked(text)
        assert MASK in masked(text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("api_key=abcd1234", f"api_key={MASK}"),
        ('"password": "hunter22"', f'"password": "{MASK}"'),
        ("Authorization: Bearer abcdefgh12", f"Authorization: Bearer {MASK}"),
        ("postgres://ada:pw@db/x", f"postgres://{MASK}@db/x"),
        ("How many tokens does a prompt have?", "How many tokens does a prompt have?"),
    ],
)
def test_what_is_called_a_secret_is_one(text: str, kept: str) -> None:
    assert masked(text) == kept


def test_the_newest_messages_are_kept_and_no_more_than_so_many_characters() -> None:
    prompts = [Prompt(role="user", content=letter * MAX_CHARS) for letter in "ab"]
    prompts.append(Prompt(role="user", content="the question"))
    held = content(prompts, done("z" * 2 * MAX_CHARS))
    said = json.loads(held["gen_ai.input.messages"])
    texts = [message["parts"][0]["content"] for message in said]
    assert sum(map(len, texts)) == MAX_CHARS
    assert texts[-1] == "the question"
    assert set(texts[0]) == {"b"}
    assert len(json.loads(held["gen_ai.output.messages"])[0]["parts"][0]["content"]) == MAX_CHARS


def test_tool_calls_are_masked_too() -> None:
    call = ToolCall(id="1", name="login", arguments='{"password": "hunter22"}')
    assert "hunter22" not in content([], done("", call))["gen_ai.output.messages"]
