from typing import Any

from localmodel.server.engine import Finished, TextDelta, ToolDecision
from localmodel.server.extractive import PREFACE, ExtractiveEngine
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

QUESTION = "How often is the signing key rotated?"


async def ask(*messages: dict[str, Any], **fields: Any) -> tuple[str, ToolDecision | None]:
    events = [event async for event in ExtractiveEngine().answer(request(*messages, **fields))]
    assert isinstance(events[-1], Finished)
    text = "".join(event.text for event in events if isinstance(event, TextDelta))
    decisions = [event for event in events if isinstance(event, ToolDecision)]
    assert events[-1].reason == ("tool_calls" if decisions else "stop")
    return text, decisions[0] if decisions else None


async def test_it_searches_then_quotes_with_the_mark() -> None:
    _, decision = await ask(user(QUESTION), tools=[SEARCH])
    assert decision == ToolDecision(name="search_knowledge", arguments={"query": QUESTION})

    text, decision = await ask(
        user(QUESTION), call(1, "search_knowledge", query=QUESTION), result(1, EVIDENCE), tools=[SEARCH]
    )
    assert decision is None
    assert text.startswith(PREFACE)
    assert "The signing key is rotated every 30 days. [2]" in text
    assert "8080" not in text


async def test_evidence_in_the_question_is_used_without_a_search() -> None:
    text, decision = await ask(user(f"{EVIDENCE}\n\nOn which port does the gateway listen?"), tools=[SEARCH])
    assert decision is None
    assert "The gateway listens on port 8080. [1]" in text


async def test_what_others_reported_is_not_taken_for_the_question() -> None:
    report = '<report by="analyst">\nThe gateway listens on port 8080, the gateway port.\n</report>'
    text, _ = await ask(user(f"{EVIDENCE}\n\n{report}\n\nQuestion of the user: {QUESTION}"))
    assert "rotated every 30 days. [2]" in text
    assert "8080" not in text


async def test_a_conversation_is_summed_up_by_the_first_sentence_of_each_message() -> None:
    said = (
        "<conversation>\nuser: My name is Ada. I live in Rome.\n"
        f"assistant: {PREFACE}\n\nThe warranty lasts two years. [1]\n</conversation>"
    )
    before = "<summary>\nuser: Ada likes trains.\n</summary>"
    text, _ = await ask(user(f"The summary so far:\n{before}\n\nWhat was said since:\n{said}\n\nWrite it."))
    assert text.splitlines() == [
        "user: Ada likes trains.",
        "user: My name is Ada.",
        "assistant: The warranty lasts two years.",
    ]
    many = "\n".join(f"user: Question {n}?" for n in range(100))
    text, _ = await ask(user(f"<conversation>\n{many}\n</conversation>"))
    assert text.splitlines() == [f"user: Question {n}?" for n in range(76, 100)]


async def test_a_leader_asks_the_first_then_the_last_then_passes_on() -> None:
    _, first = await ask(user(QUESTION), tools=[SEARCH, DELEGATE])
    assert first == ToolDecision(name="delegate_task", arguments={"member": "analyst", "task": QUESTION})
    done = [user(QUESTION), call(1, "delegate_task", member="analyst", task=QUESTION), result(1, "facts")]
    _, second = await ask(*done, tools=[DELEGATE])
    assert second == ToolDecision(name="delegate_task", arguments={"member": "writer", "task": QUESTION})
    done += [call(2, "delegate_task", member="writer", task=QUESTION), result(2, "The answer [2].")]
    text, third = await ask(*done, tools=[DELEGATE])
    assert (text, third) == ("The answer [2].", None)


async def test_nothing_found_asks_for_documents_and_a_failure_does_not_look_like_it() -> None:
    asked = (user(QUESTION), call(1, "search_knowledge", query=QUESTION))
    empty, _ = await ask(*asked, result(1, "<evidence>\n</evidence>"), tools=[SEARCH])
    assert "I found nothing" in empty
    assert "add documents" in empty
    failed, _ = await ask(*asked, result(1, "error: the vector store is down"), tools=[SEARCH])
    assert "the vector store is down" in failed
    assert "I found nothing" not in failed


async def test_tool_choice_none_never_calls() -> None:
    _, decision = await ask(user(QUESTION), tools=[SEARCH], tool_choice="none")
    assert decision is None


async def test_the_member_is_chosen_whose_role_has_the_questions_words() -> None:
    leader = system("Choose one.\nMembers:\n- greeter: Greetings.\n- keys: Signing keys and their rotation.")
    _, chosen = await ask(leader, user(QUESTION), tools=[CHOOSE], tool_choice="required")
    assert chosen == ToolDecision(name="choose_member", arguments={"member": "keys"})
    _, other = await ask(leader, user("What is the weather?"), tools=[CHOOSE], tool_choice="required")
    assert other == ToolDecision(name="choose_member", arguments={"member": "greeter"})


async def test_a_list_of_tasks_goes_through_the_members_and_its_end_is_passed_on() -> None:
    _, plan = await ask(user(QUESTION), tools=[TASKS])
    assert plan is not None
    assert plan.arguments == {
        "tasks": [
            {"member": "analyst", "text": QUESTION},
            {"member": "writer", "text": QUESTION, "depends_on": [1]},
        ]
    }
    done = "Task 1 (analyst) is done: Facts [2].\n\nTask 2 (writer) is done: Every 30 days [2]."
    text, more = await ask(user(QUESTION), call(1, "add_tasks"), result(1, done), tools=[TASKS])
    assert (text, more) == ("Every 30 days [2].", None)


async def test_a_leader_with_reports_and_no_evidence_passes_on_what_was_quoted() -> None:
    reports = '<report by="a">\nI do not know.\n</report>\n\n<report by="b">\nEvery 30 days [2].\n</report>'
    text, _ = await ask(user(f"{reports}\n\nQuestion of the user: {QUESTION}"))
    assert text == "Every 30 days [2]."
