"""The turn of a run that begins, or goes on."""

from collections.abc import Sequence

from manifests import AgentTeam
from orchestrator.core.context.background import Background
from orchestrator.core.ledger import Ledger
from orchestrator.core.log import RunLog
from orchestrator.core.model import HistorySummarized, Message
from orchestrator.core.recorded import Recorded
from orchestrator.core.stages import StageClock
from orchestrator.core.turn import Turn, World


def turn_of(
    team: AgentTeam,
    conversation: Sequence[Message],
    summary: HistorySummarized | None,
    *,
    world: World,
    log: RunLog,
    stages: StageClock,
    recorded: Recorded,
    attempt: int,
) -> Turn:
    """The turn that answers the last message; `summary` is of messages before the conversation."""
    reuse = team.spec.sharing.evidence_reuse
    return Turn(
        team=team,
        question=conversation[-1].content,
        history=conversation[:-1],
        background=Background(summary=summary),
        world=world,
        log=log,
        ledger=Ledger(policy=reuse.policy, min_similarity=float(reuse.min_similarity)),
        stages=stages,
        attempt=max(attempt, 2 if recorded.has_steps else 1),
        recorded=recorded,
        answer_schema=recorded.schema_for(team),
    )
