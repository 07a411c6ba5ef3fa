"""Coordinate: a leader delegates, members work, the leader answers."""

from collections.abc import Sequence

from orchestrator.core import prompts
from orchestrator.core.agent import Ability, Agent, Invocation, text_argument
from orchestrator.core.arguments import BadArguments
from orchestrator.core.members import Members
from orchestrator.core.model import Prompt
from orchestrator.core.turn import Turn
from servicekit.errors import ServiceError


class Coordinate:
    """A leader that delegates by calls of a tool, side by side if it asks for several at once."""

    def __init__(self, turn: Turn, members: Members) -> None:
        self._turn = turn
        self._spec = turn.team.spec
        self._members = members

    async def answer(self, history: Sequence[Prompt]) -> str:
        """The leader's answer. Raises as `modes.answer` says."""
        leader = Agent(
            turn=self._turn,
            path="",
            member="",
            config=self._turn.model_config(self._spec.model_config_ref.name),
            abilities=[
                Ability(
                    tool=prompts.delegate_tool(self._spec.members),
                    call=self._delegate,
                    side_effects=False,
                    resumes=True,
                )
            ],
        )
        with self._turn.stages.stage("context_assembly"):
            conversation = [
                Prompt(role="system", content=prompts.leader_system(self._turn.team)),
                *history,
                Prompt(role="user", content=self._turn.question),
            ]
        return await leader.answer(conversation)

    async def _delegate(self, call: Invocation) -> str:
        name, task = text_argument(call.arguments, "member"), text_argument(call.arguments, "task")
        member = next((m for m in self._spec.members if m.name == name), None)
        if member is None:
            names = ", ".join(m.name for m in self._spec.members)
            raise BadArguments(f"There is no member {name!r}; the members are: {names}.")
        try:
            return await self._members.delegate(member, task, call_id=call.call_id)
        except ServiceError as error:
            return _told(name, error)


def _told(member: str, error: ServiceError) -> str:
    """What the leader is told of a member that failed: it may do without, or fails for the same reason."""
    if error.reason == "RUN_LIMIT_REACHED":
        raise error
    return f"{member} could not do it: {error.message}"
