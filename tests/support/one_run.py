"""One run of a team, from its start to its end, and what it came to."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from manifests import AgentTeam
from orchestrator.adapters.events_pb import event_to_pb, stored_event
from orchestrator.core.model import Event, Message, MessageCompleted
from orchestrator.core.recorded import Recorded
from orchestrator.core.run import execute
from orchestrator.core.turn import Turn
from tests.support.fake_models import Script
from tests.support.orchestrator_fakes import Bench, of_type


async def play(
    bench: Bench,
    of: AgentTeam,
    *scripts: Script,
    question: str = "Why?",
    history: Sequence[Message] = (),
    before: Sequence[Event] = (),
) -> list[Any]:
    """Runs a team to its end, after the events of an earlier attempt; returns the stored steps."""
    bench.models.add(*scripts)
    turn = bench.turn(of, question, history)
    if before:
        turn = taken_over(bench, turn, before)
    try:
        await execute(turn)
    finally:
        await turn.log.close()
    return bench.store.steps()


def taken_over(bench: Bench, turn: Turn, events: Sequence[Event]) -> Turn:
    """The turn as its second attempt begins it, after what the first has stored."""
    stored = [stored_event(event_to_pb(event)) for event in events]
    bench.store.log[turn.log.run] = list(events)
    turn.log.adopt(stored)
    return replace(turn, attempt=2, recorded=Recorded.of(stored))


def one(steps: list[Any], kind: type) -> Any:
    """The only step of a kind."""
    (step,) = of_type(steps, kind)
    return step


def answer(steps: list[Any]) -> str:
    """The text of the only message."""
    return str(one(steps, MessageCompleted).message.content)
