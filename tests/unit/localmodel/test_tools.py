import json

import pytest

from localmodel.server import tools
from localmodel.server.attribution import Marks
from localmodel.server.engine import ToolDecision
from localmodel.server.errors import ApiError
from localmodel.server.wire import ChatRequest, parse_request
from tests.unit.localmodel.support import (
    CHOOSE,
    DELEGATE,
    EVIDENCE,
    SEARCH,
    TASKS,
    call,
    request,
    result,
    system,
    user,
)

QUESTION = "How often is the key rotated?"


def branches(asked: ChatRequest) -> list[str]:
    decision = tools.plan_decision(asked)
    if decision is None:
        return []
    schemas = decision.schema.get("anyOf", [decision.schema])
    return [schema["properties"]["tool"]["const"] for schema in schemas]


def test_each_tool_and_none_is_a_branch() -> None:
    assert branches(request(user(QUESTION), tools=[SEARCH, DELEGATE])) == [
        "search_knowledge",
        "delegate_task",
        "none",
    ]


def test_tool_choice_is_honoured() -> None:
    both = [SEARCH, DELEGATE]
    named = {"type": "function", "function": {"name": "search_knowledge"}}
    assert branches(request(user("?"), tools=both, tool_choice="none")) == []
    assert branches(request(user("?"), tools=both, tool_choice="required")) == [
        "search_knowledge",
        "delegate_task",
    ]
    assert branches(request(user("?"), tools=both, tool_choice=named)) == ["search_knowledge"]


def test_with_evidence_there_is_nothing_left_to_decide() -> None:
    searched = (user(QUESTION), call(1, "search_knowledge", query="key"), result(1, EVIDENCE))
    assert branches(request(*searched, tools=[SEARCH])) == []
    assert branches(request(user(f"{EVIDENCE}\n\n{QUESTION}"), tools=[SEARCH])) == []
    # The next question starts anew.
    assert branches(request(*searched, user("And the port?"), tools=[SEARCH])) == ["search_knowledge", "none"]


def test_members_are_asked_in_their_order_and_once() -> None:
    def members(*messages: dict[str, object]) -> list[str]:
        decision = tools.plan_decision(request(*messages, tools=[DELEGATE]))
        if decision is None:
            return []
        branch = decision.schema.get("anyOf", [decision.schema])[0]
        arguments = branch["properties"]["arguments"]
        assert isinstance(arguments, dict)
        return list(arguments["properties"]["member"]["enum"])

    first = (call(1, "delegate_task", member="analyst", task="t"), result(1, "30 days [2]."))
    second = (call(2, "delegate_task", member="writer", task="t"), result(2, "It is 30 days [2]."))
    assert members(user(QUESTION)) == ["analyst"]
    assert members(user(QUESTION), *first) == ["writer"]
    assert members(user(QUESTION), *first, *second) == []
    assert branches(request(user(QUESTION), tools=[DELEGATE])) == ["delegate_task", "none"]
    assert branches(request(user(QUESTION), *first, tools=[DELEGATE])) == ["delegate_task"]


def test_a_call_that_was_made_before_becomes_none() -> None:
    fetch = {"type": "function", "function": {"name": "fetch", "parameters": {"properties": {"url": {}}}}}
    messages = (user("?"), call(1, "fetch", url="a"), result(1, "x"))
    again = json.dumps({"tool": "fetch", "arguments": {"url": "a"}})
    other = json.dumps({"tool": "fetch", "arguments": {"url": "b"}})
    assert tools.read_decision(request(*messages, tools=[fetch]), again) is None
    decided = tools.read_decision(request(*messages, tools=[fetch]), other)
    assert decided == ToolDecision(name="fetch", arguments={"url": "b"})
    required = request(*messages, tools=[fetch], tool_choice="required")
    assert tools.read_decision(required, again) == ToolDecision(name="fetch", arguments={"url": "a"})


@pytest.mark.parametrize(
    "text", ["", '{"tool":"search_kn', "[]", '{"tool":"other"}', '{"tool":"search_knowledge","arguments":1}']
)
def test_what_is_no_decision_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        tools.read_decision(request(user("?"), tools=[SEARCH]), text)


def test_calls_and_results_become_text_without_a_tool_role() -> None:
    asked = request(
        system("Be brief."),
        user(QUESTION),
        call(1, "delegate_task", member="analyst", task="Find it"),
        result(1, "30 days [2]."),
        tools=[DELEGATE],
    )
    messages = tools.plan_answer(asked)
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] == "(used delegate_task: analyst; Find it)"
    assert messages[3]["content"].startswith("analyst answered:\n30 days [2].")


def test_both_calls_share_all_but_their_end_and_turns_share_the_start() -> None:
    start = request(system("Be brief."), user(QUESTION), tools=[SEARCH])
    decision = tools.plan_decision(start)
    assert decision is not None
    answer = tools.plan_answer(start)
    assert decision.messages[:-1] == answer[:-1]
    assert decision.messages[-1]["content"].startswith(QUESTION)
    assert answer[-1]["content"].startswith(QUESTION)
    later = request(
        system("Be brief."),
        user(QUESTION),
        call(1, "search_knowledge", query="key"),
        result(1, EVIDENCE),
        tools=[SEARCH],
    )
    assert tools.plan_answer(later)[0] == answer[0]


def test_strings_are_bounded_so_that_a_decision_is_not_cut() -> None:
    decision = tools.plan_decision(request(user("?"), tools=[SEARCH], tool_choice="required"))
    assert decision is not None
    query = decision.schema["properties"]["arguments"]["properties"]["query"]
    assert query == {"type": "string", "maxLength": 300}


def marked(answer: str, asked: ChatRequest, *, size: int = 3) -> str:
    marks = Marks(asked.messages)
    pieces = [answer[start : start + size] for start in range(0, len(answer), size)]
    return "".join([*(marks.feed(piece) for piece in pieces), marks.finish()])


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The signing key is rotated every 30 days.", "The signing key is rotated every 30 days. [2]"),
        ("The signing key is rotated every 30 days [2].", "The signing key is rotated every 30 days [2]."),
        ("The signing key is rotated every 30 days [1].", "The signing key is rotated every 30 days [2]."),
        ("The signing key is rotated [7]. Port 8080 [2]!", "The signing key is rotated [2]. Port 8080 [1]!"),
        ("Bananas are yellow and grow on tall plants.", "Bananas are yellow and grow on tall plants."),
        ("Read the signing key from keys[1] [2] [", "Read the signing key from keys[1] [2] ["),
    ],
)
def test_marks_are_checked_against_the_passages(answer: str, expected: str, size: int) -> None:
    assert marked(answer, request(user(f"{EVIDENCE}\n{QUESTION}")), size=size) == expected


def test_a_leader_passes_on_the_mark_of_what_the_member_said() -> None:
    asked = request(
        user(QUESTION),
        call(1, "delegate_task", member="writer", task="t"),
        result(1, "The gateway listens on 8080 [1]. The signing key is rotated every 30 days. [4]"),
    )
    assert marked("The signing key is rotated every 30 days.", asked).endswith("days. [4]")


def test_without_passages_there_is_nothing_to_check() -> None:
    assert not Marks(request(user("Hello [1]")).messages).needed


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tools": [SEARCH, SEARCH]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"model": None}, "model"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, object], param: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **change}
    with pytest.raises(ApiError) as caught:
        parse_request(json.dumps(body).encode())
    assert caught.value.status == 400
    assert caught.value.param == param
    assert param in caught.value.message


def test_a_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(ApiError) as caught:
        parse_request(b"{")
    assert caught.value.param == "body"


def test_a_choice_that_must_be_made_has_one_branch_and_no_word_of_none() -> None:
    asked = request(system("Choose."), user(QUESTION), tools=[CHOOSE], tool_choice="required")
    decision = tools.plan_decision(asked)
    assert decision is not None
    assert decision.schema["properties"]["tool"] == {"const": "choose_member"}
    assert decision.schema["properties"]["arguments"]["properties"]["member"]["enum"] == ["greeter", "keys"]
    assert "choose_member(member: greeter|keys)" in decision.messages[0]["content"]
    assert "none" not in decision.messages[0]["content"]


def test_a_list_and_what_its_items_say_are_bounded() -> None:
    decision = tools.plan_decision(request(user(QUESTION), tools=[TASKS], tool_choice="required"))
    assert decision is not None
    listed = decision.schema["properties"]["arguments"]["properties"]["tasks"]
    assert listed["maxItems"] == 3
    assert listed["items"]["properties"]["text"]["maxLength"] == 100
    assert listed["items"]["properties"]["depends_on"]["maxItems"] == 3
    assert listed["items"]["properties"]["member"] == {"type": "string", "enum": ["analyst", "writer"]}
