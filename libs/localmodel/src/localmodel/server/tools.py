"""Tools for models that know no tools.

Small models do not emit tool calls by themselves (0 of 10), but they choose
well among a few branches of a JSON schema (38 of 40). So a request with tools
becomes a decision call under a schema and, on "none", a plain call for the
text. Both calls share the system message and the history; what differs stands
at the very end, so that the runtime's prompt cache serves everything before it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from localmodel.server import conversation
from localmodel.server.conversation import DELEGATE_TOOL, SEARCH_TOOL, Result
from localmodel.server.engine import ToolDecision
from localmodel.server.wire import ChatRequest, Function, Message, NamedChoice

MAX_DESCRIPTION_CHARS = 160
MAX_STRING_CHARS = 300
MAX_ITEMS = 3  # of a list; what its items say is that much shorter
MAX_QUESTION_CHARS = 400
DECISION_MAX_TOKENS = 256

_FIRST_TASKS = {
    "How often is the signing key rotated?": "How often is the signing key rotated?",
    "What does the retry option do?": "What does the retry option do?",
    "my login fails, why?": "Why does a login fail?",
    "Summarise the release notes": "What do the release notes say?",
}

_MARK = re.compile(r"\[\d+\]")

PlainMessage = dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A decision call to make: its messages and the schema of its answer."""

    messages: list[PlainMessage]
    schema: dict[str, Any]


def plan_decision(request: ChatRequest) -> Decision | None:
    """Returns the decision call, or None where there is nothing to decide: answer in plain text."""
    functions = _offered(request)
    # Half the time the model took the first member's answer for the last word: who is left is asked too.
    done = conversation.results(request.messages)
    midway = bool(_asked(done)) and bool(_waiting_members(request, done))
    forced = request.tool_choice != "auto" or midway
    if not functions:
        return None
    branches = [_branch(function) for function in functions]
    if not forced:
        branches.append(_object({"tool": {"const": "none"}}))
    messages = render(request)
    _append(messages, _decision_request(request, functions))
    return Decision(messages=messages, schema={"anyOf": branches} if len(branches) > 1 else branches[0])


def plan_answer(request: ChatRequest) -> list[PlainMessage]:
    """Returns the messages of the plain call."""
    messages = render(request)
    _append(messages, _answer_request(request))
    return messages


def read_decision(request: ChatRequest, text: str) -> ToolDecision | None:
    """Reads what the model decided; None means: answer in plain text.

    A call that this turn has made before becomes None, because a small model
    repeats itself without end.

    Raises:
        ValueError: the text is no decision (cut, or not of the schema).
    """
    value = json.loads(text)
    if not isinstance(value, dict) or not isinstance(value.get("tool"), str):
        raise ValueError("no tool in the decision")
    if value["tool"] == "none":
        return None
    if value["tool"] not in {tool.function.name for tool in request.tools}:
        raise ValueError(f"unknown tool {value['tool']!r}")
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        raise ValueError("arguments is no object")
    decision = ToolDecision(name=value["tool"], arguments=arguments)
    if request.tool_choice == "auto" and _was_made(decision, conversation.results(request.messages)):
        return None
    return decision


def render(request: ChatRequest) -> list[PlainMessage]:
    """Returns the conversation as system, user and assistant messages: these models know no tool role."""
    messages = request.messages
    system = "\n\n".join(message.text for message in messages if message.role in {"system", "developer"})
    if request.tools and request.tool_choice != "none":
        system = f"{system}\n\n{_tool_section(request)}".lstrip()
    rendered: list[PlainMessage] = [{"role": "system", "content": system}] if system else []
    calls = {call.id: call for message in messages for call in message.tool_calls or ()}
    for message in messages:
        if message.role in {"system", "developer"}:
            continue
        if message.role == "assistant":
            rendered.append({"role": "assistant", "content": _assistant_text(message)})
        elif message.role == "tool":
            call = calls.get(message.tool_call_id or "")
            name = call.function.name if call else message.name or "tool"
            arguments = conversation.parse_arguments(call.function.arguments if call else "{}")
            rendered.append({"role": "user", "content": _result_text(name, arguments, message.text)})
        else:
            rendered.append({"role": "user", "content": message.text})
    return rendered


def _offered(request: ChatRequest) -> list[Function]:
    """The functions among which to decide now; what would only loop is left out."""
    functions = [tool.function for tool in request.tools]
    if isinstance(request.tool_choice, NamedChoice):
        return [function for function in functions if function.name == request.tool_choice.function.name]
    if request.tool_choice == "none":
        return []
    if request.tool_choice == "required":
        return functions
    done = conversation.results(request.messages)
    # Evidence may also have been handed over with the question.
    searched = any(result.name == SEARCH_TOOL for result in done) or bool(
        conversation.evidence(conversation.current_turn(request.messages))
    )
    waiting = _waiting_members(request, done)
    offered = []
    for function in functions:
        if function.name == SEARCH_TOOL and (searched or _asked(done)):
            continue
        if function.name == DELEGATE_TOOL and conversation.members(request.tools):
            if waiting:
                # In their order: left the choice, the 1.5B model asked the second member first in 9 of 15.
                offered.append(_only_members(function, waiting[:1]))
            continue
        offered.append(function)
    return offered


def _only_members(function: Function, names: list[str]) -> Function:
    properties = dict(function.parameters["properties"])
    properties["member"] = {**properties["member"], "enum": names}
    return function.model_copy(update={"parameters": {**function.parameters, "properties": properties}})


def _asked(done: Sequence[Result]) -> list[str]:
    return [str(result.arguments.get("member")) for result in done if result.name == DELEGATE_TOOL]


def _waiting_members(request: ChatRequest, done: Sequence[Result]) -> list[str]:
    asked = _asked(done)
    return [member for member in conversation.members(request.tools) if member not in asked]


def _was_made(decision: ToolDecision, done: Sequence[Result]) -> bool:
    return any(result.name == decision.name and result.arguments == decision.arguments for result in done)


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _branch(function: Function) -> dict[str, Any]:
    properties = {
        name: _bounded(schema) for name, schema in function.parameters.get("properties", {}).items()
    }
    arguments = {
        **function.parameters,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return _object({"tool": {"const": function.name}, "arguments": arguments})


def _bounded(schema: Any, *, longest: int = MAX_STRING_CHARS) -> Any:
    # An unbounded string lets the model write until it is cut, and a cut decision is lost.
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "string" and not {"enum", "maxLength"} & schema.keys():
        return {**schema, "maxLength": longest}
    if schema.get("type") == "array":
        items = _bounded(schema.get("items", {}), longest=longest // MAX_ITEMS)
        return {**schema, "items": items, "maxItems": min(schema.get("maxItems", MAX_ITEMS), MAX_ITEMS)}
    if schema.get("type") == "object":
        properties = schema.get("properties", {})
        inner = {name: _bounded(value, longest=longest) for name, value in properties.items()}
        return {**schema, "properties": inner}
    return schema


def _tool_section(request: ChatRequest) -> str:
    lines = ["# Tools"]
    for tool in request.tools:
        function = tool.function
        description = " ".join(function.description.split())[:MAX_DESCRIPTION_CHARS]
        lines.append(f"- {function.name}({_signature(function)}): {description}")
    if request.tool_choice == "required":
        return "\n".join([*lines, "When you are asked for the NEXT STEP, reply with one JSON object."])
    lines.append(
        'When you are asked for the NEXT STEP, reply with one JSON object, {"tool":"none"} to use no tool.'
    )
    return "\n".join([*lines, *_examples(request)])


def _signature(function: Function) -> str:
    shown = []
    for name, schema in function.parameters.get("properties", {}).items():
        values = schema.get("enum") if isinstance(schema, dict) else None
        shown.append(f"{name}: {'|'.join(map(str, values))}" if values else name)
    return ", ".join(shown)


def _examples(request: ChatRequest) -> list[str]:
    names = [tool.function.name for tool in request.tools]
    members = conversation.members(request.tools)
    lines = []

    def add(situation: str, tool: str, arguments: dict[str, str] | None = None) -> None:
        step = {"tool": tool, "arguments": arguments} if arguments else {"tool": tool}
        lines.append(f"{situation} -> {json.dumps(step, ensure_ascii=False, separators=(',', ':'))}")

    if members:
        first, last = members[0], members[-1]
        for situation, task in _FIRST_TASKS.items():
            add(f'"{situation}", nobody asked yet', DELEGATE_TOOL, {"member": first, "task": task})
        if last != first:
            task = "Write the answer: how often is the signing key rotated?"
            add(f"{first} answered, {last} not yet", DELEGATE_TOOL, {"member": last, "task": task})
    elif SEARCH_TOOL in names:
        add('"How often is the signing key rotated?"', SEARCH_TOOL, {"query": "signing key rotation"})
        add('"my login fails, why?"', SEARCH_TOOL, {"query": "login fails"})
    add('"Hello, who are you?"', "none")
    add('"Thanks!"', "none")
    return ["Examples:", *lines]


def _decision_request(request: ChatRequest, functions: Sequence[Function]) -> str:
    done = conversation.results(request.messages)
    hint = ""
    if any(function.name == DELEGATE_TOOL for function in functions):
        asked, waiting = _asked(done), _waiting_members(request, done)
        if not asked:
            hint = "Nobody asked yet; every question is delegated, also one that you could answer. "
        elif waiting:
            question = conversation.question(request.messages)[:MAX_QUESTION_CHARS]
            hint = f'{_listed(asked)} answered, {_listed(waiting)} not yet. The question: "{question}". '
    return f"{hint}NEXT STEP as JSON:"


def _answer_request(request: ChatRequest) -> str:
    done = conversation.results(request.messages)
    question = conversation.question(request.messages)
    cited = any(_MARK.search(result.text) for result in done)
    parts = []
    if done or request.tools:
        parts.append(f"Now answer in plain text, no JSON: {question[:MAX_QUESTION_CHARS]}")
    if conversation.evidence(request.messages):
        parts.append(
            "Use only the evidence above, in one to four sentences. "
            "End each sentence with the number in brackets "
            "of the passage that says it. If no passage holds the answer, say so."
        )
    elif cited:
        parts.append(
            "Use only the answers above, in one to four sentences, and keep their numbers in brackets."
        )
    return "\n".join(parts)


def _assistant_text(message: Message) -> str:
    calls = [
        f"(used {call.function.name}: {_shown(conversation.parse_arguments(call.function.arguments))})"
        for call in message.tool_calls or ()
    ]
    return "\n".join([*([message.text] if message.text else []), *calls])


def _shown(arguments: dict[str, Any]) -> str:
    if all(isinstance(value, str) for value in arguments.values()):
        return "; ".join(arguments.values())
    return json.dumps(arguments, ensure_ascii=False)


def _result_text(name: str, arguments: dict[str, Any], text: str) -> str:
    if name == DELEGATE_TOOL and "member" in arguments:
        return f"{arguments['member']} answered:\n{text}"
    return f"Result of {name}:\n{text}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _append(messages: list[PlainMessage], text: str) -> None:
    """Adds text at the very end; to the last user message if that is last, since two in a row confuse."""
    if not text:
        return
    if messages and messages[-1]["role"] == "user":
        messages[-1] = {"role": "user", "content": f"{messages[-1]['content']}\n\n{text}"}
    else:
        messages.append({"role": "user", "content": text})
