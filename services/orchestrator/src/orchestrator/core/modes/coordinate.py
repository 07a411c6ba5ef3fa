"""Coordinate: a leader delegates, members work, the leader answers."""

from collections.abc import Sequence

from orchestrator.core import prompts
from orchestrator.core.agent import Invocation, text_argument
from orchestrator.core.chat import Prompt
from orchestrator.core.members import Members, member_named, told
from orchestrator.core.modes.leader import lead
from orchestrator.core.turn import Turn
from servicekit.errors import ServiceError


class Coordinate:
    """A leader that delegates by calls of a tool, side by side if it asks for several at once."""

    def __init__(self, turn: Turn, members: Members) -> None:
        self._turn = turn
        self._members = members

    async def answer(self, history: Sequence[Prompt]) -> str:
        """The leader's answer. Raises as `modes.answer` says."""
        tool = prompts.delegate_tool(self._turn.team.spec.members)
        return await lead(self._turn, history, tool, self._delegate)

    async def _delegate(self, call: Invocation) -> str:
        name, task = text_argument(call.arguments, "member"), text_argument(call.arguments, "task")
        member = member_named(self._turn.team, name)
        try:
            return await self._members.delegate(member, task, call_id=call.call_id)
        except ServiceError as error:
            return f"{name} {told(error)}"
