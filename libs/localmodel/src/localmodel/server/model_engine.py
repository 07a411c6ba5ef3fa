"""Answers with a model runtime, tool adapter included."""

from collections.abc import AsyncGenerator
from typing import Any

import structlog

from localmodel.server import tools
from localmodel.server.attribution import Marks
from localmodel.server.engine import Event, Finished, FinishReason, Scored, TextDelta, ToolDecision, Usage
from localmodel.server.errors import ApiError
from localmodel.server.runtime_client import Ending, RuntimeClient
from localmodel.server.wire import ChatRequest

log = structlog.get_logger()

DEFAULT_MAX_TOKENS = 512
# Small models wander at OpenAI's default of 1.
DEFAULT_TEMPERATURE = 0.2


class ModelEngine:
    """Implements `Engine` on top of a runtime."""

    def __init__(self, *, client: RuntimeClient) -> None:
        self._client = client

    def ready(self) -> None:
        """Raises ApiError 503 while the runtime is away."""
        self._client.ready()

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Event, None]:
        """Decides on a tool first where there are tools, then streams plain text; or scores a given text."""
        if request.prompt_logprobs is not None:
            tokens, usage = await self._client.score(_scoring_body(request), request.messages[-1].text)
            yield Scored(tokens=tokens)
            yield Finished(reason="stop", usage=usage)
            return
        spent = Usage()
        plan = tools.plan_decision(request)
        if plan is not None:
            text, ending = await self._client.complete(_decision_body(request, plan))
            spent += ending.usage
            decision = _read(request, text)
            if decision is not None:
                yield decision
                yield Finished(reason="tool_calls", usage=spent)
                return
        marks = Marks(request.messages)
        checking = marks.needed and request.response_format is None and not request.logprobs
        async for event in self._client.stream(_answer_body(request)):
            if isinstance(event, Ending):
                if checking and (rest := marks.finish()):
                    yield TextDelta(text=rest)
                reason: FinishReason = "length" if event.reason == "length" else "stop"
                yield Finished(reason=reason, usage=spent + event.usage)
            elif not checking:
                yield event
            elif text := marks.feed(event.text):
                yield TextDelta(text=text)


def _read(request: ChatRequest, text: str) -> ToolDecision | None:
    try:
        return tools.read_decision(request, text)
    except ValueError as exc:
        if request.tool_choice != "auto":
            raise ApiError(
                502, f"the model made no usable tool call: {exc}; ask again", code="invalid_model_output"
            ) from exc
        log.warning("tool_decision_unusable", problem=str(exc))
        return None


def _decision_body(request: ChatRequest, plan: tools.Decision) -> dict[str, Any]:
    return {
        "messages": plan.messages,
        "temperature": 0,
        "max_tokens": tools.DECISION_MAX_TOKENS,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "next_step", "strict": True, "schema": plan.schema},
        },
    }


def _scoring_body(request: ChatRequest) -> dict[str, Any]:
    """The conversation before the text."""
    return {"messages": tools.plan_answer(request.model_copy(update={"messages": request.messages[:-1]}))}


def _answer_body(request: ChatRequest) -> dict[str, Any]:
    passed = request.model_dump(
        include={"top_p", "seed", "stop", "response_format", "logprobs", "top_logprobs"}, exclude_none=True
    )
    return {
        **passed,
        "messages": tools.plan_answer(request),
        "temperature": DEFAULT_TEMPERATURE if request.temperature is None else request.temperature,
        "max_tokens": request.max_completion_tokens or request.max_tokens or DEFAULT_MAX_TOKENS,
    }
