"""Coordinate: a leader delegates, members work, the leader answers."""

from collections.abc import Sequence

from orchestrator.core import prompts
from orchestrator.core.agent import Ability, Agent, Invocation, text_argument
from orchestrator.core.chat import Prompt
from orchestrator.core.members import Members, leader_conversation, member_named, told
from orchestrator.core.memories import memory_abilities
from orchestrator.core.turn import Turn
from servicekit.errors import ServiceError


class Coordinate:
    """A leader that delegates by calls of a tool, side by side if it asks for several at once."""

    def __init__(self, turn: Turn, members: Members) -> None:
        self._turn = turn
        self._members = members

    async def answer(self, history: Sequence[Prompt]) -> str:
        """The leader's answer. Raises as `modes.answer` says."""
        turn, spec = self._turn, self._turn.team.spec
        tool = prompts.delegate_tool(spec.members)
        leader = Agent(
            turn=turn,
            path=turn.path,
            member=turn.speaks_as,
            config=turn.model_config(spec.model_config_ref.name),
            abilities=[
                Ability(tool=tool, call=self._delegate, side_effects=False, resumes=True),
                *(memory_abilities(turn) if not turn.speaks_as else []),
            ],
        )
        with turn.stages.stage("context_assembly"):
            conversation = leader_conversation(turn, history)
        return await leader.answer(conversation)

    async def _delegate(self, call: Invocation) -> str:
        name, task = text_argument(call.arguments, "member"), text_argument(call.arguments, "task")
        member = member_named(self._turn.team, name)
        try:
            return await self._members.delegate(member, task, call_id=call.call_id)
        except ServiceError as error:
            return f"{name} {told(error)}"
