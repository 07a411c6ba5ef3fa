"""How one member of a team works, and what it is shown of the others."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from manifests import MAX_TEAM_DEPTH, AgentTeam, Knowledge, Member
from orchestrator.core import prompts
from orchestrator.core.agent import Agent
from orchestrator.core.arguments import BadArguments
from orchestrator.core.calls import call_team
from orchestrator.core.chat import Prompt
from orchestrator.core.context.background import Background
from orchestrator.core.guardrails.turns import screen_answer
from orchestrator.core.model import MemberFinished, MemberStarted
from orchestrator.core.recorded import parent
from orchestrator.core.search import NoDocuments, NothingFound, search_before_answer
from orchestrator.core.toolbox import abilities_for
from orchestrator.core.tracing import agent_span
from orchestrator.core.turn import Outer, Turn
from servicekit.errors import FailedPrecondition, NotFound, ServiceError

# What ends the run, whichever member it happens to.
_END_THE_RUN = ("RUN_LIMIT_REACHED", "TEAM_CHANGED")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    sequence: int  # of the event that told of it: a member sees what was reported before it began
    call_id: str
    member: str
    text: str


class Members:
    """The members of a turn's team at work; remembers what each reported.

    Args:
        turn: The turn.
        team_answers: How a team answers that is itself a member.
    """

    def __init__(self, turn: Turn, *, team_answers: Callable[[Turn], Awaitable[str]]) -> None:
        self._turn = turn
        self._spec = turn.team.spec
        self._team_answers = team_answers
        self._reports = [
            _Report(
                sequence=logged.sequence,
                call_id=call_id,
                member=logged.member.rpartition("/")[2],
                text=logged.step.answer,
            )
            for call_id, logged in turn.recorded.member_ends.items()
            if logged.step.error is None and parent(call_id) == turn.path
        ]

    async def delegate(
        self,
        member: Member,
        task: str,
        *,
        call_id: str,
        speaks_as: str | None = None,
        history: Sequence[Prompt] = (),
        needs: Sequence[str] = (),
    ) -> str:
        """A member's report on a task; from the log if an earlier attempt of the run has it.

        Args:
            member: Who.
            task: What to do; empty for what the team itself is asked.
            call_id: The delegation's name, and the path of the member's steps.
            speaks_as: Whose its texts are; by default its own.
            history: The conversation before the question.
            needs: Delegations whose reports it is shown in any case.

        Raises:
            NoDocuments: It must search first and has nothing to search in.
            ServiceError: It failed. The log has it; what becomes of the run is the caller's to say.
        """
        log, recorded = self._turn.log, self._turn.recorded
        name = self._turn.event_member(member.name)
        ended = recorded.member_ends.get(call_id)
        if ended is not None:
            return self._reported_before(member, ended.step)
        started = recorded.member_starts.get(call_id)
        if started is not None:
            since = started.sequence
        else:
            since = log.emit(MemberStarted(call_id=call_id, task=task or self._turn.sought), member=name)
        try:
            report = await self.work(
                member,
                path=call_id,
                speaks_as=name if speaks_as is None else speaks_as,
                task=task,
                since=since,
                history=history,
                needs=needs,
            )
        except NoDocuments as nothing:
            answer = prompts.no_documents(nothing.knowledge)
            log.emit(MemberFinished(call_id=call_id, answer=answer), member=name)
            raise
        except ServiceError as error:
            log.emit(MemberFinished(call_id=call_id, answer="", error=error), member=name)
            raise
        sequence = log.emit(MemberFinished(call_id=call_id, answer=report), member=name)
        self._reports.append(_Report(sequence=sequence, call_id=call_id, member=member.name, text=report))
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
        needs: Sequence[str] = (),
    ) -> str:
        """A member's answer.

        Args:
            member: Who works.
            path: Its place in the run: empty, or the call that delegated to it.
            speaks_as: Whose its events are: its name; empty for the team itself.
            task: What it is to do; empty for the question.
            since: Sequence of the event that it began with: what came later it is not shown.
            history: The conversation before the question.
            needs: Delegations whose reports it is shown in any case.

        Raises:
            NoDocuments: It must search first and has nothing to search in.
            ServiceError: The run's limits, or a model that cannot be had.
        """
        name = self._turn.event_member(member.name)
        with agent_span(self._turn.log.run, name, path):
            return await self._work(
                member,
                path=path,
                speaks_as=speaks_as,
                task=task,
                since=since,
                history=history,
                needs=needs,
            )

    async def _work(
        self,
        member: Member,
        *,
        path: str,
        speaks_as: str,
        task: str,
        since: int,
        history: Sequence[Prompt],
        needs: Sequence[str],
    ) -> str:
        ref = member.team_ref
        if ref is not None and ref.foreign_to(self._turn.team.metadata.namespace):
            asked = self._task(task, "", since, needs, shares=False)
            name = speaks_as or self._turn.event_member(member.name)
            return await call_team(self._turn, ref, asked, path=path, member=name)
        if ref is not None:
            outer = Outer(
                turn=self._turn,
                path=path,
                member=self._turn.event_member(member.name),
                speaks_as=speaks_as,
                task=task or (self._turn.outer.task if self._turn.outer else ""),
                since=since,
                reports=tuple(self._shown(since, needs)),
            )
            return await self._team(ref.name, outer, has_history=bool(history))
        uses = self._uses(member)
        first = [k for k in uses if k.search == "Always"]
        try:
            found = ""
            if first:
                found = await search_before_answer(self._turn, first, path=path, member=speaks_as)
        except NothingFound:
            return prompts.nothing_found(self._turn.sought)
        with self._turn.stages.stage("context_assembly"):
            system = prompts.agent_system(member.instructions, member.role, has_knowledge=bool(uses))
            conversation = [
                Prompt(role="system", content=system),
                *history,
                Prompt(role="user", content=self._task(task, found, since, needs)),
            ]
        config = member.model_config_ref or self._spec.model_config_ref
        agent = Agent(
            turn=self._turn,
            path=path,
            member=speaks_as,
            config=self._turn.model_of(config),
            abilities=await abilities_for(self._turn, member, for_user=not speaks_as),
        )
        return await agent.answer(conversation)

    async def _team(self, name: str, outer: Outer, *, has_history: bool) -> str:
        """What another team answers, as a member of this one."""
        turn = self._turn
        if name in turn.teams or len(turn.teams) >= MAX_TEAM_DEPTH:
            chain = " > ".join([*turn.teams, name])
            raise FailedPrecondition(
                f"at most {MAX_TEAM_DEPTH} teams may lie one within the other, none within itself: {chain}",
                reason="TEAM_NOT_READY",
                metadata={"team": name},
            )
        team = turn.world.catalogue.team(turn.team.metadata.namespace, name)
        if team is None:
            raise NotFound(
                f'team "{name}" does not exist: apply it, or correct the teamRef of team '
                f"{turn.team.metadata.name}",
                reason="TEAM_NOT_FOUND",
                metadata={"team": name},
            )
        misfit = turn.recorded.misfit(team, outer.path)
        if misfit:
            raise FailedPrecondition(
                f'team "{name}" was changed while nobody worked on the run: {misfit}; ask again',
                reason="TEAM_CHANGED",
                metadata={"team": name},
            )
        inner = turn.nested(team, outer, turn.history if has_history else ())
        inner.background = turn.background if has_history else Background()
        try:
            return await screen_answer(inner, await self._team_answers(inner))
        except NoDocuments as nothing:
            return prompts.no_documents(nothing.knowledge)

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

    def _task(self, task: str, found: str, since: int, needs: Sequence[str], *, shares: bool = True) -> str:
        """What an agent is asked that began with event `since`: the same in every attempt."""
        outer = self._turn.outer
        shared = ""
        if shares and self._spec.sharing.member_interactions == "AnswersAndEvidence" and not found:
            evidence = self._turn.ledger.evidence_before(since)
            shared = prompts.evidence_block(evidence) if evidence else ""
        return prompts.task(
            self._turn.question,
            task,
            evidence=found,
            reports=[*(outer.reports if outer else ()), *self._shown(since, needs)],
            shared=shared,
            team_task=outer.task if outer else "",
        )

    def _shown(self, since: int, needs: Sequence[str]) -> list[tuple[str, str]]:
        """The reports that a member is shown which began with event `since`, in their order."""
        sharing = self._spec.sharing
        before = [report for report in self._reports if report.sequence < since]
        others = [report for report in before if report.call_id not in needs]
        latest = [] if sharing.member_interactions == "None" else others[-sharing.max_interactions :]
        return [(r.member, r.text) for r in before if r.call_id in needs or r in latest]


def leader_conversation(turn: Turn, history: Sequence[Prompt], asked: str = "") -> list[Prompt]:
    """What the leader of a turn's team is shown first; `asked` instead of the question."""
    outer = turn.outer
    if not asked:
        asked = prompts.task(turn.question, outer.task, reports=outer.reports) if outer else turn.question
    return [
        Prompt(role="system", content=prompts.leader_system(turn.team)),
        *history,
        Prompt(role="user", content=asked),
    ]


def told(error: ServiceError) -> str:
    """What a leader is told of a member that failed. Raises the error if the run fails for it."""
    if error.reason in _END_THE_RUN:
        raise error
    return prompts.could_not(error.message)


def member_named(team: AgentTeam, name: object) -> Member:
    """The member that a model means. Raises BadArguments."""
    for member in team.spec.members:
        if member.name == name:
            return member
    names = ", ".join(member.name for member in team.spec.members)
    raise BadArguments(f"There is no member {name!r}; the members are: {names}.")
