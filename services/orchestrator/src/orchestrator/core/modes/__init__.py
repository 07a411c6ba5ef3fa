"""How a team answers: one file for each mode."""

from orchestrator.core.context.conversation import history_prompts
from orchestrator.core.members import Members
from orchestrator.core.modes.coordinate import Coordinate
from orchestrator.core.turn import Turn


async def answer(turn: Turn) -> str:
    """The team's answer. A team of one member is that agent alone, in every mode.

    Raises:
        NoDocuments: A member must search first and has nothing to search in.
        ServiceError: The run's limits, or a model that cannot be had.
    """
    spec, members = turn.team.spec, Members(turn)
    history = history_prompts(turn.history)
    if len(spec.members) == 1:
        return await members.work(spec.members[0], path="", speaks_as="", task="", since=0, history=history)
    match spec.mode:
        case "Coordinate":
            return await Coordinate(turn, members).answer(history)
