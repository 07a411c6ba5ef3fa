"""How a team answers: one file for each mode."""

from orchestrator.core.context.conversation import history_prompts
from orchestrator.core.members import Members
from orchestrator.core.modes.broadcast import Broadcast
from orchestrator.core.modes.coordinate import Coordinate
from orchestrator.core.modes.route import Route
from orchestrator.core.modes.tasks import Tasks
from orchestrator.core.turn import Turn
from orchestrator.core.workflow.engine import Engine


async def answer(turn: Turn) -> str:
    """The team's answer. A team of one member is that agent alone, in every mode but Workflow.

    Raises:
        NoDocuments: A member must search first and has nothing to search in.
        ServiceError: The run's limits, or a model that cannot be had.
    """
    spec, members = turn.team.spec, Members(turn, team_answers=answer)
    history = history_prompts(turn.team, turn.history, turn.background)
    if len(spec.members) == 1 and spec.mode != "Workflow":
        return await members.work(
            spec.members[0],
            path=turn.path,
            speaks_as=turn.speaks_as,
            task="",
            since=turn.since,
            history=history,
        )
    match spec.mode:
        case "Coordinate":
            return await Coordinate(turn, members).answer(history)
        case "Route":
            return await Route(turn, members).answer(history)
        case "Broadcast":
            return await Broadcast(turn, members).answer(history)
        case "Tasks":
            return await Tasks(turn, members).answer(history)
        case "Workflow":
            return await Engine(turn, members, history).answer()
