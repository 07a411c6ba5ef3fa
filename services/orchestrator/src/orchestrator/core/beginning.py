"""The turn of a run that begins, or goes on."""

from collections.abc import Sequence
from dataclasses import dataclass

from manifests import AgentTeam
from orchestrator.core.context.background import Background
from orchestrator.core.ledger import EarlierLogs, Ledger
from orchestrator.core.log import RunLog
from orchestrator.core.metrics import team_asked
from orchestrator.core.model import HistorySummarized, Message
from orchestrator.core.ports import BusyPolicy
from orchestrator.core.recorded import Recorded
from orchestrator.core.stages import StageClock
from orchestrator.core.structured import Schema
from orchestrator.core.turn import Turn, World
from servicekit.context import Caller


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a caller asked for."""

    caller: Caller
    team: AgentTeam
    session: str
    messages: Sequence[Message]
    request_id: str
    on_busy: BusyPolicy
    answer_schema: Schema | None


def turn_of(
    team: AgentTeam,
    conversation: Sequence[Message],
    summary: HistorySummarized | None,
    *,
    world: World,
    log: RunLog,
    earlier: EarlierLogs,
    stages: StageClock,
    recorded: Recorded,
    attempt: int,
) -> Turn:
    """The turn that answers the last message.

    Args:
        team: Who answers.
        conversation: What was said, the question last.
        summary: Of messages before the conversation.
        world: What the turn works with.
        log: The run's.
        earlier: Reads the logs of earlier runs of the session.
        stages: Measure it.
        recorded: What earlier attempts have done.
        attempt: Which of the run's it is.
    """
    team_asked(team)
    return Turn(
        team=team,
        question=conversation[-1].content,
        history=conversation[:-1],
        background=Background(summary=summary),
        world=world,
        log=log,
        ledger=Ledger.of(team, earlier=earlier),
        stages=stages,
        attempt=max(attempt, 2 if recorded.has_steps else 1),
        recorded=recorded,
        answer_schema=recorded.schema_for(team),
    )
