"""How one member of a team works, and what it is shown of the others."""

from collections.abc import Sequence

from manifests import Knowledge, Member
from orchestrator.core import prompts
from orchestrator.core.agent import Ability, Agent, Invocation, text_argument
from orchestrator.core.model import MemberFinished, MemberStarted, Prompt
from orchestrator.core.search import NoDocuments, NothingFound, search, search_before_answer
from orchestrator.core.turn import Turn
from servicekit.errors import ServiceError


class Members:
    """The members of a turn's team at work; remembers what each reported."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._spec = turn.team.spec
        # With the sequence of the event that told of it: a member sees what was reported before it began.
        self._reports: list[tuple[int, str, str]] = [
            (logged.sequence, logged.member, logged.step.answer)
            for logged in turn.recorded.member_ends.values()
            if logged.step.error is None
        ]

    async def delegate(self, member: Member, task: str, *, call_id: str) -> str:
        """A member's report on a task; from the log if an earlier attempt of the run has it.

        Raises:
            NoDocuments: It must search first and has nothing to search in.
            ServiceError: It failed. The log has it; what becomes of the run is the caller's to say.
        """
        log, recorded = self._turn.log, self._turn.recorded
        ended = recorded.member_ends.get(call_id)
        if ended is not None:
            return self._reported_before(member, ended.step)
        started = recorded.member_starts.get(call_id)
        if started is not None:
            sequence = started.sequence
        else:
            sequence = log.emit(MemberStarted(call_id=call_id, task=task), member=member.name)
        try:
            report = await self.work(
                member, path=call_id, speaks_as=member.name, task=task, since=sequence, history=[]
            )
        except NoDocuments as nothing:
            answer = prompts.no_documents(nothing.knowledge)
            log.emit(MemberFinished(call_id=call_id, answer=answer), member=member.name)
            raise
        except ServiceError as error:
            log.emit(MemberFinished(call_id=call_id, answer="", error=error), member=member.name)
            raise
        sequence = log.emit(MemberFinished(call_id=call_id, answer=report), member=member.name)
        self._reports.append((sequence, member.name, report))
        return report

    async def work(
        self,
        member: Member,
        *,
        path: str,
        speaks_as: str,
        task: str,
        since: int,
        history: Sequence[Prompt],
    ) -> str:
        """A member's answer.

        Args:
            member: Who works.
            path: Its place in the run: empty, or the call that delegated to it.
            speaks_as: Whose its events are: its name; empty for the team itself.
            task: What it is to do; empty for the user's question.
            since: Sequence of the event that it began with: what came later it is not shown.
            history: The conversation before the question.

        Raises:
            NoDocuments: It must search first and has nothing to search in.
            ServiceError: The run's limits, or a model that cannot be had.
        """
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

    def _reported_before(self, member: Member, ended: MemberFinished) -> str:
        """What a member said in an earlier attempt of the run."""
        if ended.error is not None:
            raise ended.error
        bases = [k.knowledge_base_ref.name for k in self._uses(member) if k.search == "Always"]
        if bases and ended.answer == prompts.no_documents(bases):
            raise NoDocuments(bases)
        return ended.answer

    def _uses(self, member: Member) -> list[Knowledge]:
        return [use for use in self._spec.knowledge if use.name in member.knowledge]

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
