"""What earlier attempts of a run have stored, by step (docs/durability.md)."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from manifests import AgentTeam
from orchestrator.core.model import (
    ContextTrimmed,
    EvidenceRetrieved,
    GuardrailTriggered,
    InputProvided,
    InputRequested,
    MemberFinished,
    MemberStarted,
    Message,
    MessageCompleted,
    ModelCallFinished,
    RunStarted,
    Step,
    StepFinished,
    StepStarted,
    StoredEvent,
    TasksChanged,
    TeamCalled,
    ToolCallFinished,
    ToolCallStarted,
)
from orchestrator.core.prompts import ASK_USER, LEADER_TOOLS, MEMORY_TOOLS
from orchestrator.core.totals import Usage
from orchestrator.core.workflow.paths import agent_path, missing_steps

What = TypeVar("What")

_OWN = "~"
_TASK = re.compile(r"#\d+\.\d+/\d+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Logged(Generic[What]):
    """A step with its place in the log."""

    sequence: int
    member: str
    step: What


@dataclass(slots=True, kw_only=True)
class Recorded:
    """The steps that need not be done again, in the order of the log.

    Attributes:
        team_revision: Of the team that the run began with.
        answer_schema: That the caller asked for.
        trace_parent: Names the run's span; empty: there is none.
        models: Model calls that ended, by step.
        calls: Tool calls that began, by call id.
        results: Tool calls that ended, by call id.
        searches: Searches that ended, by step.
        member_starts: Delegations that began, by call id.
        member_ends: Delegations that ended, by call id.
        tasks: The task list as it was told last, of each team in mode Tasks, by the team's path.
        trimmed: What was left out of prompts, by the model call's step.
        step_starts: Steps of a workflow that began, by path and attempt.
        step_ends: Steps of a workflow that ended, likewise.
        guardrails: What guardrails have found.
        requests: What people were asked, by call id.
        provided: What they said, or that nobody did, by call id.
        calls_across: Teams of other namespaces that were asked, as they were told last, by the path.
        answer: The answer; the run needs nothing but its end.
    """

    team_revision: str = ""
    answer_schema: Mapping[str, object] | None = None
    trace_parent: str = ""
    models: dict[str, Logged[ModelCallFinished]] = field(default_factory=dict)
    calls: dict[str, Logged[ToolCallStarted]] = field(default_factory=dict)
    results: dict[str, Logged[ToolCallFinished]] = field(default_factory=dict)
    searches: dict[str, Logged[EvidenceRetrieved]] = field(default_factory=dict)
    member_starts: dict[str, Logged[MemberStarted]] = field(default_factory=dict)
    member_ends: dict[str, Logged[MemberFinished]] = field(default_factory=dict)
    tasks: dict[str, TasksChanged] = field(default_factory=dict)
    trimmed: dict[str, Logged[ContextTrimmed]] = field(default_factory=dict)
    step_starts: dict[tuple[str, int], Logged[StepStarted]] = field(default_factory=dict)
    step_ends: dict[tuple[str, int], Logged[StepFinished]] = field(default_factory=dict)
    guardrails: set[GuardrailTriggered] = field(default_factory=set)
    requests: dict[str, InputRequested] = field(default_factory=dict)
    provided: dict[str, InputProvided] = field(default_factory=dict)
    calls_across: dict[str, TeamCalled] = field(default_factory=dict)
    answer: Message | None = None

    @classmethod
    def of(cls, events: Iterable[StoredEvent]) -> "Recorded":
        """Reads a log."""
        out = cls()
        for event in events:
            out._add(event)
        return out

    def usage(self, *, max_tool_calls: int) -> Usage:
        """What the run used so far."""
        models = [logged.step for logged in self.models.values()]
        searches = [logged.step.source for logged in self.searches.values()]
        corrections = [s.step for s in self.searches.values() if s.step.corrected_query]
        return Usage(
            input_tokens=sum(call.input_tokens for call in models),
            output_tokens=sum(call.output_tokens for call in models),
            model_calls=len(models),
            # What began beyond the limit was refused, and does not count.
            tool_calls=min(
                sum(not is_own(call) for call in self.calls) + sum(map(is_task, self.member_starts)),
                max_tool_calls,
            ),
            searches=searches.count("SEARCH") + sum(step.source == "SEARCH" for step in corrections),
            searches_saved=len(searches) - searches.count("SEARCH"),
            steps=len(self.step_starts),
            cost_micros=sum(call.cost_micros for call in models),
            currency=next((call.currency for call in models if call.currency), ""),
        )

    def schema_for(self, team: AgentTeam) -> Mapping[str, object] | None:
        """What the answer must satisfy: the caller's schema, else the team's."""
        own = team.spec.answer
        return self.answer_schema or (own.json_schema if own else None)

    @property
    def has_steps(self) -> bool:
        """Whether anything was done."""
        return bool(self.models or self.calls or self.searches or self.step_starts)

    @property
    def unfinished_calls(self) -> tuple[str, ...]:
        """Tool calls to be made again. A delegation is not, nor is a question to the user: they go on."""
        return tuple(
            call_id
            for call_id, logged in self.calls.items()
            if call_id not in self.results and logged.step.tool not in (*LEADER_TOOLS, ASK_USER)
        )

    def searches_of(self, team: AgentTeam, path: str) -> dict[str, Logged[EvidenceRetrieved]]:
        """The searches of a team that stands at that path; not those of the teams within it."""
        foreign = self.teams_within(team, path)
        return {
            step: logged
            for step, logged in self.searches.items()
            if _is_below(step, path) and not any(_is_below(step, other) for other in foreign)
        }

    def teams_within(self, team: AgentTeam, path: str) -> dict[str, str]:
        """The names of the teams that the team at that path has asked, by their own paths."""
        own = team.metadata.namespace
        within = [m for m in team.spec.members if m.team_ref and not m.team_ref.foreign_to(own)]
        refs = {member.name: member.team_ref.name for member in within if member.team_ref}
        asked = {call_id: logged.member for call_id, logged in self.member_starts.items()}
        asked |= {agent_path(*step): begun.member for step, begun in self.step_starts.items()}
        return {
            made: refs[_name(member)]
            for made, member in asked.items()
            if parent(made) == path and _name(member) in refs
        }

    def misfit(self, team: AgentTeam, path: str = "") -> str:
        """Why the steps at a path cannot be those of this team; empty if they can."""
        members = {member.name for member in team.spec.members}
        started = {c: _name(logged.member) for c, logged in self.member_starts.items() if parent(c) == path}
        gone = sorted(set(started.values()) - members)
        if gone:
            return f"it has no member {', '.join(gone)} any more"
        uses = {use.name for use in team.spec.knowledge}
        gone = sorted({knowledge_of(step) for step in self.searches_of(team, path)} - uses)
        if gone:
            return f"it has no knowledge {', '.join(gone)} any more"
        if started and len(members) == 1:
            return "it has no leader any more"
        # Of those that worked: a model may ask for tools that never were there.
        own = {
            logged.step.tool
            for call_id, logged in self.calls.items()
            if parent(call_id) == path and not is_own(call_id) and self._worked(call_id)
        }
        if len(members) > 1 and own - {*LEADER_TOOLS, *MEMORY_TOOLS}:
            return "it has a leader now"
        if any(team.spec.mode not in self._modes(call_id) for call_id in started):
            return f"its mode is {team.spec.mode} now"
        return self._misfit_of_workflow(team, path)

    def _worked(self, call_id: str) -> bool:
        result = self.results.get(call_id)
        return result is not None and result.step.error is None

    def _misfit_of_workflow(self, team: AgentTeam, path: str) -> str:
        steps = [logged.step for logged in self.step_starts.values()]
        own = [(s.path.rpartition("@")[2], s.kind) for s in steps if parent(agent_path(s.path)) == path]
        gone = missing_steps(team.spec, own)
        return f"its workflow has no step {', '.join(gone)} any more" if gone else ""

    def _modes(self, delegation: str) -> tuple[str, ...]:
        """The modes that delegate under such a call id."""
        if delegation[len(parent(delegation)) :].startswith("@"):
            return ("Broadcast", "Workflow")
        if is_task(delegation):
            return ("Tasks",)
        return ("Coordinate",) if delegation in self.calls else ("Route",)

    def _add(self, event: StoredEvent) -> None:
        step, sequence, member = event.step, event.sequence, event.member
        match step:
            case RunStarted():
                self.team_revision, self.answer_schema = step.team_revision, step.answer_schema
                self.trace_parent = step.trace_parent
            case ModelCallFinished():
                self.models[step.step] = Logged(sequence=sequence, member=member, step=step)
            case ToolCallStarted():
                # The first one: a repeated call keeps its place.
                self.calls.setdefault(step.call_id, Logged(sequence=sequence, member=member, step=step))
            case ToolCallFinished():
                self.results[step.call_id] = Logged(sequence=sequence, member=member, step=step)
            case EvidenceRetrieved():
                self.searches[step.step] = Logged(sequence=sequence, member=member, step=step)
            case MemberStarted():
                self.member_starts[step.call_id] = Logged(sequence=sequence, member=member, step=step)
            case MemberFinished():
                self.member_ends[step.call_id] = Logged(sequence=sequence, member=member, step=step)
            case TasksChanged():
                self.tasks[step.path] = step
            case ContextTrimmed():
                self.trimmed[step.step] = Logged(sequence=sequence, member=member, step=step)
            case MessageCompleted():
                if not member and step.message.role == "assistant":
                    self.answer = step.message
            case _:
                self._add_other(step, sequence, member)

    def _add_other(self, step: Step | None, sequence: int, member: str) -> None:
        match step:
            case StepStarted():
                begun = Logged(sequence=sequence, member=member, step=step)
                self.step_starts[step.path, step.attempt] = begun
            case StepFinished():
                ended = Logged(sequence=sequence, member=member, step=step)
                self.step_ends[step.path, step.attempt] = ended
            case InputRequested():
                self.requests[step.call_id] = step
            case InputProvided():
                self.provided[step.input.call_id] = step
            case GuardrailTriggered():
                self.guardrails.add(step)
            case TeamCalled():
                self.calls_across[step.call_id] = step
            case _:
                pass


def model_step(path: str, number: int) -> str:
    """The name of an agent's model call; the first is 1."""
    return f"{path}#{number}"


def text_id(step: str) -> str:
    """The id of what a model call writes: a follower of another attempt sees it begin anew."""
    return f"text-{step}"


def call_step(step: str, position: int) -> str:
    """The id of a tool call that a model call asked for; the first is 1."""
    return f"{step}.{position}"


def search_step(asked_by: str, knowledge: str) -> str:
    """The name of a search: of an agent (its path) before it answers, or of a tool call (its id)."""
    return f"{asked_by}?{knowledge}"


def knowledge_of(search: str) -> str:
    """The knowledge that a search was made in."""
    return search.rpartition("?")[2]


def member_step(path: str, member: str) -> str:
    """The call id of a delegation that no tool call asked for: to a member of the team at that path."""
    return f"{path}@{member}"


def task_step(call_id: str, number: int) -> str:
    """The call id of a task that a tool call put into the list."""
    return f"{call_id}/{number}"


def is_task(call_id: str) -> bool:
    """Whether a delegation is a task of a list."""
    return _TASK.search(call_id) is not None


def parent(call_id: str) -> str:
    """The path of the agent or team that called, or delegated."""
    return call_id[: max(call_id.rfind("#"), call_id.rfind("@"), 0)]


def _is_below(step: str, path: str) -> bool:
    return not path or step.startswith((f"{path}#", f"{path}@", f"{path}?"))


def _name(member: str) -> str:
    """A member's name in its own team."""
    return member.rpartition("/")[2]


def own_step(what: str) -> str:
    """The name of a model call that no agent makes, but the run itself: nobody follows its text."""
    return f"{_OWN}{what}"


def is_own(step: str) -> bool:
    """Whether the run itself makes the call."""
    return step.startswith(_OWN)
