"""Where in a run guardrails look."""

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, get_args

from prometheus_client import Counter

from manifests.guardrails import GuardrailType
from orchestrator.core.guardrails.screen import Screen, Screened
from orchestrator.core.model import GuardrailAction, GuardrailPlace, GuardrailTriggered, SearchResult
from servicekit.counters import from_zero
from servicekit.errors import FailedPrecondition
from servicekit.spans import mark

if TYPE_CHECKING:
    from orchestrator.core.turn import Turn

TRIGGERED = Counter(
    "agentteams_guardrails_triggered_total",
    "Texts in which guardrails found something",
    ["guardrail", "place", "action"],
)
from_zero(
    TRIGGERED,
    guardrail=get_args(GuardrailType),
    place=get_args(GuardrailPlace),
    action=get_args(GuardrailAction),
)

_LONG = 4_000  # characters that take a few milliseconds; longer texts are checked beside the event loop


class GuardrailBlocked(FailedPrecondition):
    """A guardrail refused the text: the run ends."""


async def screen_input(turn: "Turn") -> None:
    """Masks the question and the user's earlier ones for this run; the stored messages stay as they are.

    Raises:
        GuardrailBlocked: The question is refused.
    """
    screen = Screen(turn.guardrails, "INPUT")
    if not screen:
        return
    screened = await _check(screen, turn.question)
    report(turn, screened.triggered, member="")
    if screened.blocked:
        raise blocked("the question", screened.triggered)
    turn.question = screened.text
    turn.history = [
        replace(message, content=(await _check(screen, message.content)).text)
        if message.role == "user"
        else message
        for message in turn.history
    ]


async def screen_answer(turn: "Turn", content: str) -> str:
    """The answer as it may be seen, where it is no text that was checked while it was written.

    Raises:
        GuardrailBlocked: The answer is refused.
    """
    screen = Screen(turn.guardrails, "OUTPUT")
    if not screen or (turn.answer is not None and turn.answer.content == content):
        return content
    screened = await _check(screen, content)
    report(turn, screened.triggered, member="")
    if screened.blocked:
        raise blocked("the answer", screened.triggered)
    return screened.text


async def screen_evidence(turn: "Turn", result: SearchResult, *, member: str) -> SearchResult:
    """The chunks that may be shown to a model; what is left out is counted."""
    screen = Screen(turn.guardrails, "EVIDENCE")
    if not screen or not result.chunks:
        return result
    kept = []
    for chunk in result.chunks:
        # The title is shown, too.
        title, text = screen.check(chunk.title, subject=chunk.id), screen.check(chunk.text, subject=chunk.id)
        report(turn, (*title.triggered, *text.triggered), member=member)
        if not title.blocked and not text.blocked:
            kept.append(replace(chunk, title=title.text, text=text.text))
    quarantined = len(result.chunks) - len(kept)
    if quarantined and not kept:
        why = f"all {quarantined} chunks that were found were withheld by a guardrail"
        return replace(
            result, outcome="DEGRADED", reasons=(*result.reasons, why), chunks=(), quarantined=quarantined
        )
    return replace(result, chunks=tuple(kept), quarantined=quarantined)


async def screen_tool_result(turn: "Turn", text: str, *, call_id: str, member: str) -> str:
    """What of a tool's result a model may see."""
    screen = Screen(turn.guardrails, "TOOL_RESULT")
    if not screen:
        return text
    screened = await _check(screen, text, subject=call_id)
    report(turn, screened.triggered, member=member)
    return screened.text


def report(turn: "Turn", triggered: tuple[GuardrailTriggered, ...], *, member: str) -> None:
    """Logs and counts what guardrails found, unless an earlier attempt of the run has."""
    for one in triggered:
        if one not in turn.recorded.guardrails:
            turn.log.emit(one, member=member)
            mark("guardrail")
            TRIGGERED.labels(one.guardrail, one.place, one.action).inc()


def blocked(what: str, triggered: tuple[GuardrailTriggered, ...]) -> GuardrailBlocked:
    """Why a run ends."""
    kinds = sorted({kind for one in triggered if one.action == "BLOCK" for kind in one.kinds})
    place: GuardrailPlace | str = triggered[0].place if triggered else ""
    return GuardrailBlocked(
        f"a guardrail of the team refused {what}: it holds {', '.join(kinds) or 'what is not allowed'}",
        reason="GUARDRAIL_BLOCKED",
        metadata={"place": place, "kinds": ", ".join(kinds)},
    )


async def _check(screen: Screen, text: str, *, subject: str = "") -> Screened:
    if len(text) > _LONG:
        return await asyncio.to_thread(screen.check, text, subject=subject)
    return screen.check(text, subject=subject)
