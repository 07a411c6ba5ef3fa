"""What a conversation holds, read from OpenAI messages: the turn, its tool results, its evidence.

The markers are those that the orchestrator writes: evidence stands between
`<evidence>` and `</evidence>`, each chunk as `[3] (handbook.md) text`.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localmodel.server.wire import Message, Tool

SEARCH_TOOL = "search_knowledge"
DELEGATE_TOOL = "delegate_task"
CHOOSE_TOOL = "choose_member"
TASKS_TOOL = "add_tasks"

_EVIDENCE = re.compile(r"<evidence>(.*?)(?:</evidence>|\Z)", re.DOTALL)
# What is shown to an agent besides its question, marked as data in the same way.
_DATA = re.compile(r"<(report|summary|memories)\b[^>\n]*>\n.*?\n</\1>", re.DOTALL)
_REPORT = re.compile(r"<report by=\"[^\"\n]*\">\n(.*?)\n</report>", re.DOTALL)
_SUMMARY = re.compile(r"<summary>\n(.*?)\n</summary>", re.DOTALL)
_TRANSCRIPT = re.compile(r"<conversation>\n(.*?)\n</conversation>", re.DOTALL)
_CHUNK = re.compile(r"^\[(\d+)\] (?:\(([^)\n]*)\) ?)?", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """One retrieved chunk as it was shown to the model."""

    number: int
    document: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A tool call of the current turn with what came back."""

    name: str
    arguments: dict[str, Any]
    text: str


def current_turn(messages: Sequence[Message]) -> Sequence[Message]:
    """Returns the messages from the last user message on."""
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].role == "user":
            return messages[index:]
    return messages


def question(messages: Sequence[Message]) -> str:
    """Returns the last user message without the data in it."""
    turn = current_turn(messages)
    text = turn[0].text if turn else ""
    return _DATA.sub("", _EVIDENCE.sub("", text)).strip()


def reports(messages: Sequence[Message]) -> list[str]:
    """Returns what the last user message shows of other members' reports."""
    turn = current_turn(messages)
    return _REPORT.findall(turn[0].text) if turn else []


def results(messages: Sequence[Message]) -> list[Result]:
    """Returns the tool results of the current turn in their order."""
    calls = {call.id: call.function for message in messages for call in message.tool_calls or ()}
    found = []
    for message in current_turn(messages):
        if message.role != "tool":
            continue
        call = calls.get(message.tool_call_id or "")
        name = call.name if call else message.name or "tool"
        found.append(
            Result(name=name, arguments=parse_arguments(call.arguments if call else "{}"), text=message.text)
        )
    return found


def parse_arguments(text: str) -> dict[str, Any]:
    """Reads a call's arguments; what is no JSON object is kept under the key `text`."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {"text": text}
    return value if isinstance(value, dict) else {"text": text}


def evidence(messages: Sequence[Message]) -> list[Chunk] | None:
    """Returns the chunks that the messages show, or None if no evidence block is there at all."""
    chunks: dict[int, Chunk] = {}
    seen = False
    for message in messages:
        if message.role in {"system", "developer", "assistant"}:
            continue
        for block in _EVIDENCE.finditer(message.text):
            seen = True
            chunks.update((chunk.number, chunk) for chunk in _chunks(block.group(1)))
    return list(chunks.values()) if seen else None


def transcript(messages: Sequence[Message]) -> tuple[str, str] | None:
    """Returns the summary so far and the conversation to sum up; None if that is not what is asked."""
    text = messages[-1].text if messages else ""
    said = _TRANSCRIPT.search(text)
    if said is None:
        return None
    before = _SUMMARY.search(text)
    return (before.group(1) if before else "", said.group(1))


def members(tools: Sequence[Tool]) -> list[str]:
    """Returns the members that delegate_task accepts, in their order; empty without that tool."""
    for tool in tools:
        if tool.function.name == DELEGATE_TOOL:
            schema = tool.function.parameters.get("properties", {}).get("member", {})
            return [str(name) for name in schema.get("enum", [])]
    return []


def _chunks(block: str) -> list[Chunk]:
    heads = list(_CHUNK.finditer(block))
    ends = [*(head.start() for head in heads[1:]), len(block)][: len(heads)]
    return [
        Chunk(number=int(head.group(1)), document=head.group(2) or "", text=block[head.end() : end].strip())
        for head, end in zip(heads, ends, strict=True)
    ]
