"""What a request may ask."""

import json
from typing import Any

import pytest

from gateway.core.errors import ApiError
from gateway.core.request import parse_question

QUESTION = {"role": "user", "content": "Hi?"}


def parse(session_header: str = "", **fields: Any) -> Any:
    body = {"model": "support", "messages": [QUESTION]} | fields
    return parse_question(json.dumps(body).encode(), session_header=session_header)


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"tool_choice": "required"},
        {"functions": [{}]},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"logit_bias": {"5": 1}},
        {"modalities": ["text", "audio"]},
        {"audio": {"voice": "x"}},
        {"prediction": {"type": "content"}},
        {"web_search_options": {}},
    ],
)
def test_what_would_change_the_answer_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        parse(**fields)
    name = next(iter(fields))
    assert (caught.value.status, caught.value.code, caught.value.param) == (
        400,
        "unsupported_parameter",
        name,
    )
    assert name in caught.value.message


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 1, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "logprobs": False},
        {
            "temperature": 0,
            "top_p": 0.5,
            "max_tokens": 9,
            "stop": ["a"],
            "seed": 1,
            "user": "u",
            "store": False,
        },
        {"n": None, "tools": None, "stop": None, "stream": None, "stream_options": None, "metadata": None},
        {"metadata": {"anything": "else"}},
    ],
)
def test_what_changes_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert parse(**fields).team == "support"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([QUESTION, {"role": "assistant", "content": "x"}], "messages[1].role"),
        ([{"role": "tool", "content": "x"}, QUESTION], "messages[0].role"),
        ([{"role": "user", "content": " \n"}], "messages[0].content"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "assistant", "content": "x", "tool_calls": [{}]}, QUESTION], "messages[0].tool_calls"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ],
)
def test_wrong_messages_are_named(messages: list[Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(messages=messages)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_message_of_the_client_itself_can_be_sent_back() -> None:
    echoed: dict[str, Any] = {
        "role": "assistant",
        "content": "Hello",
        "refusal": None,
        "annotations": [],
        "tool_calls": None,
    }
    assert [m.content for m in parse(messages=[echoed, QUESTION]).messages] == ["Hello", "Hi?"]


@pytest.mark.parametrize(
    ("header", "metadata", "param"),
    [
        ("s1", None, "X-AgentTeams-Session"),
        ("", "sessions/../x", "metadata.session"),
        ("sessions/a", "sessions/b", "metadata.session"),
    ],
)
def test_wrong_sessions_are_named(header: str, metadata: str | None, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(header, metadata=None if metadata is None else {"session": metadata})
    assert (caught.value.status, caught.value.param) == (400, param)


def test_stream_options_need_a_stream() -> None:
    with pytest.raises(ApiError) as caught:
        parse(stream_options={"include_usage": True})
    assert caught.value.param == "stream_options"
    assert parse(stream=True, stream_options={"include_usage": True}).include_usage


def test_half_a_character_is_not_json() -> None:
    body = b'{"model":"support","messages":[{"role":"user","content":"\\ud800"}]}'
    with pytest.raises(ApiError) as caught:
        parse_question(body, session_header="")
    assert caught.value.code == "invalid_json"


SCHEMA = {"type": "object", "properties": {"years": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "a", "strict": True, "schema": SCHEMA}}, SCHEMA),
    ],
)
def test_the_form_of_the_answer(wanted: dict[str, Any], schema: dict[str, Any] | None) -> None:
    assert parse(response_format=wanted).answer_schema == schema


@pytest.mark.parametrize(
    ("wanted", "param"),
    [
        ({"type": "xml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema"),
        ({"type": "json_schema", "json_schema": {"schema": 1}}, "response_format.json_schema.schema"),
    ],
)
def test_a_form_that_cannot_be_is_refused(wanted: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        parse(response_format=wanted)
    assert (caught.value.status, caught.value.param) == (400, param)
