"""The trace of a run: one span for all its attempts, and whether it is worth keeping.

The run's span has one id, stored with its first event. Each process that works
on the run records children of it; whoever ends the run exports the span itself.
What several attempts may do parts of - members, steps of a workflow, calls that
delegate - has ids that follow from the run and the step, for the same reason; so
have searches, which later attempts and later runs of the session link to.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as gen_ai
from prometheus_client import Counter

from manifests import ModelConfig
from orchestrator.core.chat import Completion, Prompt
from orchestrator.core.ledger import Found
from orchestrator.core.model import RunStarted, StoredEvent
from orchestrator.core.trace_content import CONTENT_EVENT, content
from servicekit import span_wire, spans
from servicekit.counters import from_zero
from servicekit.spans import NoSpan, Recording, Ref, Span

TRACES = Counter(
    "agentteams_traces_total",
    "Traces of runs that ended, by why they were kept or that they were not",
    ["verdict"],
)
from_zero(TRACES, verdict=("failed", "degraded", "slow", "scored", "sampled", "dropped"))

_INVOKE = gen_ai.GenAiOperationNameValues.INVOKE_AGENT.value
_CHAT = gen_ai.GenAiOperationNameValues.CHAT.value
_TOOL = gen_ai.GenAiOperationNameValues.EXECUTE_TOOL.value


class RunTrace:
    """The trace of one run, as far as this process works on it; nothing while tracing is off."""

    def __init__(self, root: Span | None) -> None:
        self._root = root

    @classmethod
    def begin(cls, team: str, *, tenant: str) -> "RunTrace":
        """Of a run that somebody asks for now, within whose trace it is."""
        if not spans.is_on():
            return cls(None)
        caller = spans.current_span()
        if caller is None:
            recording = spans.new_recording()
        else:
            recording = Recording(caller.recording.trace_id, keep=caller.recording.keep or None)
            caller.recording.upper = recording
        team = team.removeprefix("teams/")
        recording.common["agentteams.tenant"], recording.common["agentteams.team"] = tenant, team
        return cls(_root(recording, team, parent_id=caller.span_id if caller else 0))

    @classmethod
    def resume(cls, team: str, attempt: int, events: Sequence[StoredEvent]) -> "RunTrace":
        """Of a run that others have worked on, or that has waited."""
        if not spans.is_on():
            return cls(None)
        started = events[0].step if events else None
        read = span_wire.parse(started.trace_parent) if isinstance(started, RunStarted) else None
        if read is None or not isinstance(started, RunStarted):
            return cls(_root(spans.new_recording(), team, parent_id=0))
        trace_id, span_id, sampled = read
        recording = Recording(trace_id, keep=True if sampled else None)
        root = _root(recording, team, parent_id=int(started.parent_span or "0", 16), span_id=span_id)
        root.start_ns = _ns(events[0].time)
        if attempt > 1:
            recording.marks.add("taken_over")
            with spans.using(root), spans.span("resume_run", {"agentteams.attempt": attempt}) as resumed:
                # What this attempt does is the run's; the link says after whom.
                resumed.link(Ref(trace_id, span_id))
        return cls(root)

    def use(self) -> AbstractContextManager[None]:
        """Makes it the current trace."""
        return spans.using(self._root)

    def set_current(self) -> None:
        """Makes it the current trace for the rest of the task."""
        spans.set_current(self._root)

    @contextmanager
    def refused_unless_begun(self) -> Iterator[None]:
        """Makes it the current trace for the block; an error there means that there will be no run."""
        try:
            with spans.using(self._root):
                yield
        except BaseException:
            self.refuse()
            raise

    def name(self, *, run: str, session: str, team: str, tenant: str) -> None:
        """Whose it is."""
        if self._root is not None:
            recording = self._root.recording
            recording.common["agentteams.tenant"] = tenant
            span_wire.carry(recording, run=run, team=team)
            self._root.set({gen_ai.GEN_AI_CONVERSATION_ID: session})

    def end(self, *, state: str, reason: str) -> None:
        """The run has ended, and its end is stored."""
        if self._root is not None:
            _conclude(self._root, state, reason)
            self._root.end()

    def leave(self) -> None:
        """The run goes on in another process, or later: what was done here is kept for it."""
        if self._root is not None:
            self._root.recording.decide(True)

    def refuse(self) -> None:
        """There is no run."""
        if self._root is not None:
            self._root.recording.decide(False)


def conclude(*, state: str, reason: str, signs: Iterable[str], to_be_scored: bool) -> None:
    """The current run ends: its trace is kept, or forgotten. Before its end is stored and told.

    `signs` are what is suspicious about it. What scores badly is found out when its spans are
    long gone: the traces of all runs that are to be scored are kept.
    """
    span = spans.current_span()
    if span is not None and span.recording.root is not None:
        span.recording.marks.update(signs)
        _conclude(span.recording.root, state, reason, to_be_scored=to_be_scored)


def _conclude(root: Span, state: str, reason: str, *, to_be_scored: bool = False) -> None:
    recording = root.recording
    if recording.concluded:
        return
    recording.concluded = True
    if state == "FAILED":
        root.error = reason or "INTERNAL"
    verdict = _verdict(root, state, to_be_scored=to_be_scored)
    more: dict[str, spans.Value] = {"agentteams.run.state": state, "agentteams.kept": verdict}
    if recording.marks:
        more["agentteams.marks"] = sorted(recording.marks)
    root.set(more)
    recording.decide(verdict != "dropped")
    TRACES.labels(verdict).inc()


def agent_span(run: str, agent: str, path: str) -> Span | NoSpan:
    """A member at work, whichever attempt of the run it is."""
    return _lasting(
        "invoke_agent", agent, (run, "agent", agent, path), {gen_ai.GEN_AI_AGENT_NAME: agent}, _INVOKE
    )


def step_span(run: str, kind: str, path: str, attempt: int) -> Span | NoSpan:
    """An attempt of a step of a workflow."""
    own: dict[str, spans.Value] = {"agentteams.step.kind": kind, "agentteams.step.attempt": attempt}
    return _lasting("step", path, (run, "step", path, str(attempt)), own, "")


def tool_span(run: str, tool: str, call_id: str, *, lasting: bool) -> Span | NoSpan:
    """A call of a tool; `lasting`: an interrupted one goes on rather than begins again."""
    own: dict[str, spans.Value] = {gen_ai.GEN_AI_TOOL_NAME: tool, gen_ai.GEN_AI_TOOL_CALL_ID: call_id}
    return _lasting("execute_tool", tool, (run, "tool", call_id) if lasting else (), own, _TOOL)


def search_span(knowledge_base: str, step: str) -> Span | NoSpan:
    """A search of an agent, whoever answers it."""
    current = spans.current_span()
    if current is None:
        return spans.NO_SPAN
    own = {gen_ai.GEN_AI_OPERATION_NAME: "retrieval", gen_ai.GEN_AI_DATA_SOURCE_ID: knowledge_base}
    root = current.recording.root
    span_id = _search_id(root.span_id, step) if root is not None else 0
    return spans.span(f"retrieval {knowledge_base}", own, span_id=span_id)


def search_ref(trace_parent: str, step: str) -> Ref | None:
    """The span of a search, made in the run whose log begins with that traceparent; None without one."""
    read = span_wire.parse(trace_parent)
    return Ref(read[0], _search_id(read[1], step)) if read is not None else None


def _search_id(root_id: int, step: str) -> int:
    # Of the run's span rather than its name: a log holds the one and not the other.
    return spans.derived_id(f"{root_id:016x}", "search", step)


def note_search(span: Span | NoSpan, found: Found) -> None:
    """How it ended; one that the ledger answered names the search whose result it is."""
    result = found.result
    if result.outcome != "OK" or result.grade == "WEAK":
        spans.mark("weak_evidence" if result.outcome == "OK" else f"search_{result.outcome.lower()}")
    if not span:
        return
    own: dict[str, spans.Value] = {
        "agentteams.search.source": found.source,
        "agentteams.search.outcome": result.outcome,
        "agentteams.search.grade": result.grade or "NONE",
        "agentteams.search.chunks": len(result.chunks),
    }
    if found.evidence:
        own["agentteams.search.top_score"] = round(found.evidence[0].chunk.score, 6)
    span.set(own)
    if found.origin is not None and found.source != "SEARCH":
        span.link(found.origin)


def chat_span(config: ModelConfig, label: str) -> Span | NoSpan:
    """One request to a model."""
    if spans.current_span() is None:
        return spans.NO_SPAN
    own: dict[str, spans.Value] = {
        gen_ai.GEN_AI_OPERATION_NAME: _CHAT,
        gen_ai.GEN_AI_PROVIDER_NAME: config.spec.provider,
        gen_ai.GEN_AI_REQUEST_MODEL: config.spec.model or config.metadata.name,
        "agentteams.model_config": label,
    }
    span = spans.span(f"chat {own[gen_ai.GEN_AI_REQUEST_MODEL]}", own)
    if isinstance(span, Span):
        span.kind = spans.CLIENT
    return span


def note_chat(
    span: Span | NoSpan, done: Completion, *, first_token_s: float | None, prompts: Sequence[Prompt]
) -> None:
    """What came of it; what was said only where the installation wants that in traces."""
    if not span:
        return
    own: dict[str, spans.Value] = {
        gen_ai.GEN_AI_RESPONSE_MODEL: done.model,
        gen_ai.GEN_AI_USAGE_INPUT_TOKENS: done.input_tokens,
        gen_ai.GEN_AI_USAGE_OUTPUT_TOKENS: done.output_tokens,
        gen_ai.GEN_AI_RESPONSE_FINISH_REASONS: [done.finish_reason],
    }
    if first_token_s is not None:
        own[gen_ai.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = first_token_s
    span.set(own)
    if spans.content_wanted():
        span.event(CONTENT_EVENT, content(prompts, done))


def _lasting(
    what: str, name: str, id_of: tuple[str, ...], own: dict[str, spans.Value], operation: str
) -> Span | NoSpan:
    if spans.current_span() is None:
        return spans.NO_SPAN
    if operation:
        own[gen_ai.GEN_AI_OPERATION_NAME] = operation
    return spans.span(f"{what} {name}", own, span_id=spans.derived_id(*id_of) if id_of else 0)


def _root(recording: Recording, team: str, *, parent_id: int, span_id: int = 0) -> Span:
    attributes = {gen_ai.GEN_AI_OPERATION_NAME: _INVOKE, gen_ai.GEN_AI_AGENT_NAME: team}
    root = Span(recording, f"invoke_agent {team}", attributes, parent_id=parent_id, span_id=span_id)
    recording.root = root
    recording.slow_at_ns = time.time_ns() + spans.slow_ns()
    return root


def _verdict(root: Span, state: str, *, to_be_scored: bool) -> str:
    recording = root.recording
    slow = time.time_ns() - root.start_ns > spans.slow_ns()
    for verdict, holds in (
        ("failed", state == "FAILED"),
        ("degraded", bool(recording.marks - {"slow"})),
        ("slow", slow or "slow" in recording.marks),
        ("scored", to_be_scored),
    ):
        if holds:
            return verdict
    return "sampled" if recording.keep else "dropped"


def _ns(time_: datetime) -> int:
    return int(time_.timestamp() * 1_000_000) * 1_000
