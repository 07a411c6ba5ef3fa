"""What a run is told of the conversation before it."""

from collections.abc import Sequence
from datetime import timedelta

from manifests import AgentTeam
from orchestrator.core.model import Message, Prompt


def history_messages(team: AgentTeam) -> int:
    """How many earlier messages a run of this team begins with."""
    return 2 * team.spec.session.history_runs


def retention(team: AgentTeam) -> timedelta | None:
    """How long a session with this team is kept after its last question; None: nothing is said."""
    days = team.spec.session.retention_days
    return None if days is None else timedelta(days=days)


def history_prompts(history: Sequence[Message]) -> list[Prompt]:
    """The conversation before, as a model is shown it; what of it does not fit is left out."""
    return [Prompt(role=m.role, content=m.content, kind="history") for m in history]
