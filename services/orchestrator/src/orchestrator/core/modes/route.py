"""Route: a leader chooses one member, whose answer is the team's."""

from collections.abc import Sequence

import structlog

from manifests import Member
from orchestrator.core import prompts
from orchestrator.core.arguments import BadArguments, read
from orchestrator.core.chat import Completion, Prompt, Tool, ToolCall
from orchestrator.core.context.assembly import complete
from orchestrator.core.members import Members, leader_conversation, member_named
from orchestrator.core.recorded import call_step, model_step
from orchestrator.core.turn import Turn

log = structlog.get_logger()

_CHOICES = 2  # a leader that chose nobody is told so once


class Route:
    """A leader that only chooses; what the member writes goes to the user as it comes."""

    def __init__(self, turn: Turn, members: Members) -> None:
        self._turn = turn
        self._members = members

    async def answer(self, history: Sequence[Prompt]) -> str:
        """The chosen member's answer. Raises as `modes.answer` says."""
        member, call_id = await self._choose(history)
        return await self._members.delegate(
            member, "", call_id=call_id, speaks_as=self._turn.speaks_as, history=history
        )

    async def _choose(self, history: Sequence[Prompt]) -> tuple[Member, str]:
        """Who answers, and under which call id: it follows from what the leader's model said."""
        turn, spec = self._turn, self._turn.team.spec
        with turn.stages.stage("context_assembly"):
            conversation = leader_conversation(turn, history)
        step, tool = "", prompts.choose_tool(spec.members)
        for number in range(1, min(_CHOICES, turn.limits.max_turns) + 1):
            step = model_step(turn.path, number)
            said = await complete(
                turn,
                turn.model_of(spec.model_config_ref),
                conversation,
                tools=[tool],
                must_answer=False,
                step=step,
                member=turn.speaks_as,
            )
            for position, call in enumerate(said.tool_calls, start=1):
                member = self._named(call, tool)
                if member is not None:
                    return member, call_step(step, position)
            conversation += self._corrected(said)
        # A question is not refused because the leader cannot choose.
        log.warning("route_chose_nobody", run=turn.log.run, team=turn.team.metadata.name)
        return spec.members[0], call_step(step, 1)

    def _named(self, call: ToolCall, tool: Tool) -> Member | None:
        if call.name != tool.name:
            return None
        try:
            return member_named(self._turn.team, read(tool, call.arguments)["member"])
        except BadArguments:
            return None  # it is told what to do, whatever was wrong

    def _corrected(self, said: Completion) -> list[Prompt]:
        again = prompts.choose_again(self._turn.team.spec.members)
        answers = [Prompt(role="tool", content=again, tool_call_id=call.id) for call in said.tool_calls]
        return [
            Prompt(role="assistant", content=said.text, tool_calls=said.tool_calls),
            *(answers or [Prompt(role="user", content=again)]),
        ]
