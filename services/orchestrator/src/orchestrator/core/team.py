"""How a team answers. Coordinate: a leader delegates, members work, the leader answers."""

from collections.abc import Sequence

from manifests import Knowledge, Member
from orchestrator.core import prompts
from orchestrator.core.agent import Ability, Agent, Arguments, BadArguments, text_argument
from orchestrator.core.model import MemberFinished, MemberStarted, Prompt
from orchestrator.core.search import NoDocuments, NothingFound, search, search_before_answer
from orchestrator.core.turn import LimitReached, Turn
from servicekit.errors import ServiceError


class Coordinate:
    """A leader and its members; a team of one member is that agent alone."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._spec = turn.team.spec
        self._reports: list[tuple[str, str]] = []

    async def answer(self) -> str:
        """The team's answer.

        Raises:
            NoDocuments: A member must search first and has nothing to search in.
            ServiceError: The run's limits, or a model that cannot be had.
        """
        if len(self._spec.members) == 1:
            return await self._work(self._spec.members[0], speaks_as="", task="", history=self._history())
        leader = Agent(
            turn=self._turn,
            member="",
            config=self._turn.model_config(self._spec.model_config_ref.name),
            abilities=[
                Ability(tool=prompts.delegate_tool(self._spec.members), call=self._delegate, stage=False)
            ],
        )
        with self._turn.stages.stage("context_assembly"):
            conversation = [
                Prompt(role="system", content=prompts.leader_system(self._turn.team)),
                *self._history(),
                Prompt(role="user", content=self._turn.question),
            ]
        return await leader.answer(conversation)

    async def _delegate(self, call_id: str, arguments: Arguments) -> str:
        name, task = text_argument(arguments, "member"), text_argument(arguments, "task")
        member = next((m for m in self._spec.members if m.name == name), None)
        if member is None:
            names = ", ".join(m.name for m in self._spec.members)
            raise BadArguments(f"There is no member {name!r}; the members are: {names}.")
        log = self._turn.log
        log.emit(MemberStarted(call_id=call_id, task=task), member=name)
        try:
            report = await self._work(member, speaks_as=name, task=task, history=[])
        except NoDocuments as nothing:
            answer = prompts.no_documents(nothing.knowledge)
            log.emit(MemberFinished(call_id=call_id, answer=answer), member=name)
            raise
        except ServiceError as error:
            log.emit(MemberFinished(call_id=call_id, answer="", error=error), member=name)
            if isinstance(error, LimitReached):
                raise
            # The leader may do without this member; or it fails for the same reason.
            return f"{name} could not do it: {error.message}"
        log.emit(MemberFinished(call_id=call_id, answer=report), member=name)
        self._reports.append((name, report))
        return report

    async def _work(self, member: Member, *, speaks_as: str, task: str, history: Sequence[Prompt]) -> str:
        uses = [k for k in self._spec.knowledge if k.name in member.knowledge]
        first = [k for k in uses if k.search == "Always"]
        on_demand = [k for k in uses if k.search == "OnDemand"]
        try:
            found = await search_before_answer(self._turn, first, member=speaks_as) if first else ""
        except NothingFound:
            return prompts.nothing_found(self._turn.question)
        with self._turn.stages.stage("context_assembly"):
            system = prompts.agent_system(member.instructions, member.role, has_knowledge=bool(uses))
            conversation = [
                Prompt(role="system", content=system),
                *history,
                Prompt(role="user", content=self._task(task, found)),
            ]
        config = (member.model_config_ref or self._spec.model_config_ref).name
        agent = Agent(
            turn=self._turn,
            member=speaks_as,
            config=self._turn.model_config(config),
            abilities=[self._search_ability(speaks_as, on_demand)] if on_demand else [],
        )
        return await agent.answer(conversation)

    def _task(self, task: str, found: str) -> str:
        interactions = self._spec.sharing.member_interactions
        reports = [] if interactions == "None" else self._reports
        shared = ""
        if interactions == "AnswersAndEvidence" and not found and self._turn.ledger.evidence:
            shared = prompts.evidence_block(self._turn.ledger.evidence)
        return prompts.task(self._turn.question, task, evidence=found, reports=reports, shared=shared)

    def _search_ability(self, member: str, uses: Sequence[Knowledge]) -> Ability:
        async def call(call_id: str, arguments: Arguments) -> str:
            query = text_argument(arguments, "query")
            reports = [(await search(self._turn, use, query, member=member)).text for use in uses]
            return "\n\n".join(reports)

        return Ability(tool=prompts.search_tool([use.name for use in uses]), call=call)

    def _history(self) -> list[Prompt]:
        return [Prompt(role=m.role, content=m.content) for m in self._turn.history]
