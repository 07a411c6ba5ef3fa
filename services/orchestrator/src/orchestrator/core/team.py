"""How a team answers. Coordinate: a leader delegates, members work, the leader answers."""

from collections.abc import Sequence

from manifests import Knowledge, Member
from orchestrator.core import prompts
from orchestrator.core.agent import Ability, Agent, BadArguments, Invocation, text_argument
from orchestrator.core.model import MemberFinished, MemberStarted, Prompt
from orchestrator.core.search import NoDocuments, NothingFound, search, search_before_answer
from orchestrator.core.turn import Turn
from servicekit.errors import ServiceError


class Coordinate:
    """A leader and its members; a team of one member is that agent alone."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._spec = turn.team.spec
        # With the sequence of the event that told of it: a member sees what was reported before it began.
        self._reports: list[tuple[int, str, str]] = [
            (logged.sequence, logged.member, logged.step.answer)
            for logged in turn.recorded.member_ends.values()
            if logged.step.error is None
        ]

    async def answer(self) -> str:
        """The team's answer.

        Raises:
            NoDocuments: A member must search first and has nothing to search in.
            ServiceError: The run's limits, or a model that cannot be had.
        """
        if len(self._spec.members) == 1:
            return await self._work(
                self._spec.members[0], path="", speaks_as="", task="", since=0, history=self._history()
            )
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
                *self._history(),
                Prompt(role="user", content=self._turn.question),
            ]
        return await leader.answer(conversation)

    async def _delegate(self, call: Invocation) -> str:
        name, task = text_argument(call.arguments, "member"), text_argument(call.arguments, "task")
        member = next((m for m in self._spec.members if m.name == name), None)
        if member is None:
            names = ", ".join(m.name for m in self._spec.members)
            raise BadArguments(f"There is no member {name!r}; the members are: {names}.")
        log, recorded = self._turn.log, self._turn.recorded
        ended = recorded.member_ends.get(call.call_id)
        if ended is not None:
            return self._reported_before(member, ended.step)
        started = recorded.member_starts.get(call.call_id)
        if started is not None:
            sequence = started.sequence
        else:
            sequence = log.emit(MemberStarted(call_id=call.call_id, task=task), member=name)
        try:
            report = await self._work(
                member, path=call.call_id, speaks_as=name, task=task, since=sequence, history=[]
            )
        except NoDocuments as nothing:
            answer = prompts.no_documents(nothing.knowledge)
            log.emit(MemberFinished(call_id=call.call_id, answer=answer), member=name)
            raise
        except ServiceError as error:
            log.emit(MemberFinished(call_id=call.call_id, answer="", error=error), member=name)
            return _told(name, error)
        sequence = log.emit(MemberFinished(call_id=call.call_id, answer=report), member=name)
        self._reports.append((sequence, name, report))
        return report

    def _reported_before(self, member: Member, ended: MemberFinished) -> str:
        """What a member said in an earlier attempt of the run."""
        if ended.error is not None:
            return _told(member.name, ended.error)
        bases = [k.knowledge_base_ref.name for k in self._uses(member) if k.search == "Always"]
        if bases and ended.answer == prompts.no_documents(bases):
            raise NoDocuments(bases)
        return ended.answer

    def _uses(self, member: Member) -> list[Knowledge]:
        return [use for use in self._spec.knowledge if use.name in member.knowledge]

    async def _work(
        self,
        member: Member,
        *,
        path: str,
        speaks_as: str,
        task: str,
        since: int,
        history: Sequence[Prompt],
    ) -> str:
        uses = self._uses(member)
        first = [k for k in uses if k.search == "Always"]
        on_demand = [k for k in uses if k.search == "OnDemand"]
        try:
            found = ""
            if first:
                found = await search_before_answer(self._turn, first, path=path, member=speaks_as)
        except NothingFound:
            return prompts.nothing_found(self._turn.question)
        with self._turn.stages.stage("context_assembly"):
            system = prompts.agent_system(member.instructions, member.role, has_knowledge=bool(uses))
            conversation = [
                Prompt(role="system", content=system),
                *history,
                Prompt(role="user", content=self._task(task, found, since)),
            ]
        config = (member.model_config_ref or self._spec.model_config_ref).name
        agent = Agent(
            turn=self._turn,
            path=path,
            member=speaks_as,
            config=self._turn.model_config(config),
            abilities=[self._search_ability(speaks_as, on_demand)] if on_demand else [],
        )
        return await agent.answer(conversation)

    def _task(self, task: str, found: str, since: int) -> str:
        """What an agent is asked that began with event `since`: the same in every attempt."""
        interactions = self._spec.sharing.member_interactions
        reports: list[tuple[str, str]] = []
        if interactions != "None":
            reports = [(name, report) for sequence, name, report in self._reports if sequence < since]
        shared = ""
        if interactions == "AnswersAndEvidence" and not found:
            evidence = self._turn.ledger.evidence_before(since)
            shared = prompts.evidence_block(evidence) if evidence else ""
        return prompts.task(self._turn.question, task, evidence=found, reports=reports, shared=shared)

    def _search_ability(self, member: str, uses: Sequence[Knowledge]) -> Ability:
        async def call(made: Invocation) -> str:
            query = text_argument(made.arguments, "query")
            reports = [
                await search(self._turn, use, query, asked_by=made.call_id, member=member) for use in uses
            ]
            return "\n\n".join(report.text for report in reports)

        return Ability(tool=prompts.search_tool([use.name for use in uses]), call=call, side_effects=False)

    def _history(self) -> list[Prompt]:
        return [Prompt(role=m.role, content=m.content) for m in self._turn.history]


def _told(member: str, error: ServiceError) -> str:
    """What the leader is told of a member that failed: it may do without, or fails for the same reason."""
    if error.reason == "RUN_LIMIT_REACHED":
        raise error
    return f"{member} could not do it: {error.message}"
