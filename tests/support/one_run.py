"""One run of a team, from its start to its end, and what it came to."""

from typing import Any

from manifests import AgentTeam
from orchestrator.core.model import Message, MessageCompleted
from orchestrator.core.run import execute
from tests.support.fake_models import Script
from tests.support.orchestrator_fakes import Bench, of_type


async def play(bench: Bench, of: AgentTeam, *scripts: Script, history: tuple[Message, ...] = ()) -> list[Any]:
    """Runs a team to its end; returns the stored steps."""
    bench.models.add(*scripts)
    turn = bench.turn(of, history=history)
    try:
        await execute(turn)
    finally:
        await turn.log.close()
    return bench.store.steps()


def one(steps: list[Any], kind: type) -> Any:
    """The only step of a kind."""
    (step,) = of_type(steps, kind)
    return step


def answer(steps: list[Any]) -> str:
    """The text of the only message."""
    return str(one(steps, MessageCompleted).message.content)
