"""A leader that answers with the help of one tool."""

from collections.abc import Awaitable, Callable, Sequence

from orchestrator.core.agent import Ability, Agent, Invocation
from orchestrator.core.chat import Prompt, Tool
from orchestrator.core.members import leader_conversation
from orchestrator.core.memories import memory_abilities
from orchestrator.core.turn import Turn


async def lead(
    turn: Turn, history: Sequence[Prompt], tool: Tool, call: Callable[[Invocation], Awaitable[str]]
) -> str:
    """The leader's answer; `call` does what the tool says. Raises as `modes.answer` says."""
    leader = Agent(
        turn=turn,
        path=turn.path,
        member=turn.speaks_as,
        config=turn.model_of(turn.team.spec.model_config_ref),
        abilities=[
            Ability(tool=tool, call=call, side_effects=False, resumes=True),
            *(memory_abilities(turn) if not turn.speaks_as else []),
        ],
    )
    with turn.stages.stage("context_assembly"):
        conversation = leader_conversation(turn, history)
    return await leader.answer(conversation)
