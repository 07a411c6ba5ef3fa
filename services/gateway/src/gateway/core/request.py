"""Reads the body of POST /v1/chat/completions.

What would change the answer and is not supported is refused, never dropped.
Sampling parameters are accepted and ignored: a team's models have theirs in
their ModelConfig (the list is in the README).
"""

import re
from datetime import timedelta
from typing import Any

import msgspec

from gateway.core.errors import ApiError, invalid, model_not_found
from gateway.core.model import Message, Question

MAX_WAIT_SCORES_S = 600
_SESSION = re.compile(r"sessions/[a-z0-9-]{1,64}")
# One of the caller's namespace, or `namespace/team` of another one's.
_TEAM = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?/)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
# msgspec's words: "Expected `str`, got `int` - at `$.messages[0].content`".
_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_NAMED_FIELD = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<name>[^`]*)`")


class _Part(msgspec.Struct):
    type: str
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: Any = None
    function_call: Any = None
    audio: Any = None


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any]
    name: str = ""
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str
    json_schema: _JsonSchema | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    metadata: dict[str, str] | None = None
    # Accepted and ignored.
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    user: str | None = None
    store: bool | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None
    parallel_tool_calls: bool | None = None
    response_format: _ResponseFormat | None = None
    # Refused, unless they ask for what happens anyway.
    n: int | None = None
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    web_search_options: Any = None


# Parameter -> the values that ask for nothing special.
_UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "web_search_options": (),
}
_WHY = {
    "n": "a run has one answer",
    "tools": "a team's tools are in its manifest",
    "functions": "a team's tools are in its manifest",
}
_decode = msgspec.json.Decoder(_Body).decode


def parse_question(body: bytes, *, session_header: str, scores_header: str = "") -> Question:
    """Reads and checks a request, with its headers X-AgentTeams-Session and X-AgentTeams-Wait-Scores.

    Raises:
        ApiError: 400 (404 for a model that cannot exist); names the parameter.
    """
    request = _read(body)
    for name, harmless in _UNSUPPORTED.items():
        value = getattr(request, name)
        if value is not None and value not in harmless:
            why = f": {_WHY[name]}" if name in _WHY else ""
            raise invalid(name, f"{name} is not supported{why}. Leave it out.", code="unsupported_parameter")
    if request.stream_options is not None and not request.stream:
        raise invalid("stream_options", "stream_options needs stream=true.")
    messages = tuple(_message(index, message) for index, message in enumerate(request.messages))
    if not messages:
        raise invalid("messages", "messages is empty: the question is its last message.")
    if messages[-1].role != "user":
        raise invalid(
            f"messages[{len(messages) - 1}].role",
            f"The last message is the question: its role must be user (got {messages[-1].role!r}).",
        )
    if not messages[-1].content.strip():
        raise invalid(f"messages[{len(messages) - 1}].content", "The question has no text.")
    if not is_team_name(request.model):
        raise model_not_found(request.model)
    session = _session(session_header, (request.metadata or {}).get("session", ""))
    return Question(
        team=request.model,
        session=session,
        # A stored conversation has what came before.
        messages=messages[-1:] if session else messages,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        answer_schema=_answer_schema(request.response_format),
        wait_scores=_wait_scores(scores_header),
    )


def is_team_name(text: str) -> bool:
    """Whether a team can have this name."""
    return _TEAM.fullmatch(text) is not None


def _read(body: bytes) -> _Body:
    try:
        return _decode(body)
    except msgspec.ValidationError as error:
        raise _invalid_field(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}.", code="invalid_json") from error


def _invalid_field(text: str) -> ApiError:
    at = _AT.search(text)
    path = at["path"] if at else ""
    what = text[: at.start()] if at else text
    if named := _NAMED_FIELD.fullmatch(what):
        param = f"{path}.{named['name']}" if path else named["name"]
        if named["what"] == "contains unknown":
            return invalid(param, f"Unknown parameter: {param}.", code="unknown_parameter")
        return invalid(param, f"{param} is missing.", code="missing_required_parameter")
    if not path:
        return ApiError(400, f"The body must be a JSON object ({what}).", code="invalid_type")
    return invalid(path, f"{path}: {what}.", code="invalid_type")


def _message(index: int, message: _Message) -> Message:
    at = f"messages[{index}]"
    role = _ROLES.get(message.role)
    if role is None:
        raise invalid(
            f"{at}.role",
            f"{at}.role must be system, developer, user or assistant (got {message.role[:80]!r}).",
        )
    for name in ("tool_calls", "function_call", "audio"):
        if getattr(message, name):
            raise invalid(
                f"{at}.{name}",
                f"{at}.{name} is not supported: tools run inside the team. Leave it out.",
                code="unsupported_parameter",
            )
    if message.content is None:
        raise invalid(f"{at}.content", f"{at}.content is missing.", code="missing_required_parameter")
    if isinstance(message.content, str):
        return Message(role=role, content=message.content)
    texts = []
    for number, part in enumerate(message.content):
        if part.type != "text":
            raise invalid(
                f"{at}.content[{number}].type",
                f"{at}.content[{number}]: only parts of type text are supported (got {part.type[:80]!r}).",
                code="unsupported_parameter",
            )
        if part.text is None:
            raise invalid(
                f"{at}.content[{number}].text",
                f"{at}.content[{number}].text is missing.",
                code="missing_required_parameter",
            )
        texts.append(part.text)
    return Message(role=role, content="\n".join(texts))


def _answer_schema(wanted: _ResponseFormat | None) -> dict[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.type != "json_schema":
        raise invalid(
            "response_format.type",
            f"response_format.type must be text, json_object or json_schema (got {wanted.type[:80]!r}).",
        )
    if wanted.json_schema is None:
        raise invalid(
            "response_format.json_schema",
            "response_format.json_schema is missing.",
            code="missing_required_parameter",
        )
    return wanted.json_schema.schema


def _wait_scores(header: str) -> timedelta:
    if not header:
        return timedelta(0)
    if not (header.isascii() and header.isdigit() and int(header) <= MAX_WAIT_SCORES_S):
        name, given = "X-AgentTeams-Wait-Scores", header[:80]
        raise invalid(name, f"{name} is a whole number of seconds, 0 to {MAX_WAIT_SCORES_S} (got {given!r}).")
    return timedelta(seconds=int(header))


def _session(header: str, metadata: str) -> str:
    if header and metadata and header != metadata:
        raise invalid(
            "metadata.session",
            f"X-AgentTeams-Session ({header[:80]!r}) and metadata.session ({metadata[:80]!r}) differ.",
        )
    session = header or metadata
    if session and not _SESSION.fullmatch(session):
        param = "X-AgentTeams-Session" if header else "metadata.session"
        raise invalid(param, f"{param} has the form sessions/… (got {session[:80]!r}).")
    return session
