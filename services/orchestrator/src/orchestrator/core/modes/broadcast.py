"""Broadcast: all members answer side by side, and a leader makes one answer of theirs."""

from collections.abc import Sequence

from manifests import Member
from orchestrator.core import prompts
from orchestrator.core.agent import Agent
from orchestrator.core.chat import Prompt
from orchestrator.core.members import Members, leader_conversation, told
from orchestrator.core.recorded import member_step
from orchestrator.core.turn import Turn, together
from servicekit.errors import ServiceError


class Broadcast:
    """Every member works on what the team is asked; the leader reads all reports and answers."""

    def __init__(self, turn: Turn, members: Members) -> None:
        self._turn = turn
        self._members = members

    async def answer(self, history: Sequence[Prompt]) -> str:
        """The leader's answer. Raises as `modes.answer` says, and what the members failed with if all did."""
        turn, spec = self._turn, self._turn.team.spec
        reports = await together([self._ask(member, history) for member in spec.members])
        failures = [report for report in reports if isinstance(report, ServiceError)]
        if len(failures) == len(reports):
            raise failures[0]
        shown = [
            (member.name, told(report) if isinstance(report, ServiceError) else report)
            for member, report in zip(spec.members, reports, strict=True)
        ]
        with turn.stages.stage("context_assembly"):
            outer = turn.outer
            asked = prompts.task(
                turn.question,
                "",
                reports=[*(outer.reports if outer else ()), *shown],
                team_task=outer.task if outer else "",
            )
            conversation = leader_conversation(turn, history, asked)
        leader = Agent(
            turn=turn,
            path=turn.path,
            member=turn.speaks_as,
            config=turn.model_of(spec.model_config_ref),
            abilities=[],
        )
        return await leader.answer(conversation)

    async def _ask(self, member: Member, history: Sequence[Prompt]) -> str | ServiceError:
        try:
            return await self._members.delegate(
                member, "", call_id=member_step(self._turn.path, member.name), history=history
            )
        except ServiceError as error:
            told(error)  # raises what ends the run
            return error
