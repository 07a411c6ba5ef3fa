"""How agents search: through the ledger, with every outcome told for what it is."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import structlog
from prometheus_client import Counter

from manifests import AgentTeam
from manifests import Knowledge as KnowledgeUse
from orchestrator.core import prompts
from orchestrator.core.grading import grade, rewritten
from orchestrator.core.guardrails.turns import screen_evidence
from orchestrator.core.ledger import UNKNOWN_REVISION, Found
from orchestrator.core.metrics import GRADES, SEARCHES, UNGRADED, team_label
from orchestrator.core.model import (
    Embedding,
    EvidenceRetrieved,
    Grade,
    SearchQuery,
    SearchResult,
    StoredEvent,
)
from orchestrator.core.recorded import Recorded, knowledge_of, search_step
from orchestrator.core.stages import ORDER
from orchestrator.core.tracing import note_search, search_ref, search_span
from orchestrator.core.turn import Turn, together
from servicekit.counters import from_zero
from servicekit.errors import DeadlineExceeded, ResourceExhausted, ServiceError, Unavailable

log = structlog.get_logger()

_NOTHING = "NOTHING"
CORRECTIONS = Counter(
    "agentteams_ledger_corrections_total",
    "Second searches, in other words, after one that found nothing that fits",
    ["grade"],
)
from_zero(CORRECTIONS, grade=[grade or _NOTHING for grade in get_args(Grade)])

_DEFAULT_TOP_K = 8
# A restarted retrieval service is back within seconds: waiting beats an answer without evidence.
_RETRIES_S = (0.5, 1.0, 2.0, 4.0)


class NoDocuments(Exception):
    """An agent that must search first has nothing to search in."""

    def __init__(self, knowledge: list[str]) -> None:
        super().__init__(", ".join(knowledge))
        self.knowledge = knowledge


class NothingFound(Exception):
    """Nothing was found, and the team is told to refuse then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a search tells a model, and how many documents there were to search."""

    text: str
    outcome: str
    ready_documents: int


async def search(turn: Turn, use: KnowledgeUse, text: str, *, asked_by: str, member: str) -> Report:
    """Searches one knowledge base and logs how it ended. Never raises for a search that failed.

    `asked_by` is the agent's path, or the tool call that asks.
    """
    step = search_step(asked_by, use.name)
    recorded = turn.recorded.searches.get(step)
    if recorded is not None:
        return _report(turn, text, _found(turn.recorded, recorded.step))
    base = use.knowledge_base_ref.of(turn.team.metadata.namespace)
    manifest = turn.world.catalogue.knowledge_base(turn.team.metadata.namespace, base)
    query = _query(turn, use, text)

    async def embed(query_text: str) -> Embedding | None:
        if manifest is None:
            return None
        try:
            with turn.stages.stage("embedding"):
                return await turn.world.embedder.embed_query(
                    manifest.spec.embedding.model_config_ref.of(manifest.metadata.namespace), query_text
                )
        except ServiceError as error:
            # The retrieval service then embeds by itself, or searches by words and says Degraded.
            log.warning("query_not_embedded", knowledge_base=base, error=error.message)
            return None

    async def ask(asked: SearchQuery) -> SearchResult:
        return await _best(turn, use, asked, member=member)

    async def revision() -> str:
        try:
            return await turn.world.knowledge.revision(base)
        except ServiceError as error:
            log.warning("revision_not_read", knowledge_base=base, error=error.message)
            return UNKNOWN_REVISION

    with search_span(base, step) as span:
        await _recall(turn)
        found = await turn.ledger.find(query, embed=embed, search=ask, revision=revision)
        turn.ledger.by_step[step] = found.evidence
        _log(turn, query, found, step, member)
        note_search(span, found)
    return _report(turn, text, found)


async def _best(turn: Turn, use: KnowledgeUse, query: SearchQuery, *, member: str) -> SearchResult:
    """A search; what hardly fits is looked for once more, in other words."""
    first = await _graded(turn, use, query, query.text, member=member)
    words = rewritten(query.text, turn.sought) if first.grade == "WEAK" else ""
    if not words:
        return first
    other = replace(query, text=words, vector=None, model_fingerprint="")
    second = await _graded(turn, use, other, words, member=member)
    CORRECTIONS.labels(second.grade or _NOTHING).inc()
    quarantined = first.quarantined + second.quarantined
    if second.grade == "STRONG":
        return replace(second, corrected_query=words, quarantined=quarantined)
    known = {chunk.id for chunk in first.chunks}
    more = tuple(chunk for chunk in second.chunks if chunk.id not in known)
    chunks = (*first.chunks, *more)[: query.top_k]
    return replace(first, chunks=chunks, corrected_query=words, quarantined=quarantined)


async def _graded(
    turn: Turn, use: KnowledgeUse, query: SearchQuery, wanted: str, *, member: str
) -> SearchResult:
    turn.usage.searches += 1
    with turn.stages.stage("vector_search"):
        result = await _search_with_retries(turn, query)
        for stage, seconds in result.stages.items():
            if stage != "vector_search" and stage in ORDER:
                turn.stages.move(stage, seconds)
    result = await screen_evidence(turn, result, member=member)
    # A search that was limited may have compared something else than its mode says.
    similarity = _least_similarity(turn, use, result) if result.outcome == "OK" else None
    return replace(result, grade=grade(wanted, result.chunks, similarity=similarity))


def _least_similarity(turn: Turn, use: KnowledgeUse, result: SearchResult) -> float | None:
    """The cosine that the best chunk has at least; None: it is not known."""
    if result.chunks and result.chunks[0].similarity is not None:
        return result.chunks[0].similarity
    namespace = turn.team.metadata.namespace
    manifest = turn.world.catalogue.knowledge_base(namespace, use.knowledge_base_ref.of(namespace))
    mode = use.search_mode or (manifest.spec.retrieval.search_mode if manifest else "")
    return float(use.min_score) if use.min_score is not None and mode == "Hybrid" else None


async def _recall(turn: Turn) -> None:
    """Lets the ledger know what earlier runs of the session have found, where the team wants that."""
    if turn.ledger.earlier is None or turn.outer is not None:
        return
    uses = {use.name: use for use in turn.team.spec.knowledge}

    def entries(events: Sequence[StoredEvent]) -> Iterator[tuple[SearchQuery, Found]]:
        recorded = Recorded.of(events)
        if recorded.team_revision != turn.team.revision:
            return  # its searches were others, or its guardrails
        own = recorded.searches_of(turn.team, "")
        for step, logged in sorted(own.items(), key=lambda item: -item[1].sequence):
            use = uses.get(knowledge_of(step))
            if use is not None and logged.step.source == "SEARCH" and logged.step.knowledge_revision:
                yield _query(turn, use, logged.step.query), _found(recorded, logged.step)

    try:
        await turn.ledger.recall(entries)
    except ServiceError as error:
        log.warning("session_evidence_not_read", run=turn.log.run, error=error.message)


def restore(turn: Turn) -> None:
    """Fills the ledger with what earlier attempts of the run have found, in whichever team."""
    uses = dict(_uses(turn, turn.team, turn.path))
    for step, logged in turn.recorded.searches.items():
        found, use = _found(turn.recorded, logged.step), uses.get(step)
        query = None if use is None else _query(turn, use, logged.step.query)
        turn.ledger.by_step[step] = found.evidence
        turn.ledger.restore(query, found, logged.step.knowledge_base, logged.sequence)


def _uses(turn: Turn, team: AgentTeam, path: str) -> Iterator[tuple[str, KnowledgeUse]]:
    """The knowledge that each recorded search of a team, and of the teams within it, was made in."""
    named = {use.name: use for use in team.spec.knowledge}
    for step in turn.recorded.searches_of(team, path):
        if knowledge_of(step) in named:
            yield step, named[knowledge_of(step)]
    for below, name in turn.recorded.teams_within(team, path).items():
        inner = turn.world.catalogue.team(team.metadata.namespace, name)
        if inner is not None:
            yield from _uses(turn, inner, below)


def _query(turn: Turn, use: KnowledgeUse, text: str) -> SearchQuery:
    base = use.knowledge_base_ref.of(turn.team.metadata.namespace)
    manifest = turn.world.catalogue.knowledge_base(turn.team.metadata.namespace, base)
    default_top_k = manifest.spec.retrieval.top_k if manifest else _DEFAULT_TOP_K
    return SearchQuery(
        knowledge_base=base,
        text=text,
        top_k=use.top_k or default_top_k,
        mode=use.search_mode,
        min_similarity=None if use.min_score is None else float(use.min_score),
        filter=use.filter,
        max_per_document=use.max_per_document or 0,
        neighbours=use.neighbours,
    )


def _found(of: Recorded, event: EvidenceRetrieved) -> Found:
    """A search as the log of its run tells of it."""
    # Of a search that ended OK it is the query that was used again.
    reasons = (event.reason,) if event.reason and event.outcome != "OK" else ()
    result = SearchResult(
        outcome=event.outcome,
        reasons=reasons,
        chunks=tuple(evidence.chunk for evidence in event.evidence),
        ready_documents=event.ready_documents,
        quarantined=event.quarantined,
        revision=event.knowledge_revision,
        grade=event.grade,
        corrected_query=event.corrected_query,
    )
    return Found(
        result=result,
        evidence=tuple(event.evidence),
        source=event.source,
        origin=search_ref(of.trace_parent, event.step),
    )


def _report(turn: Turn, text: str, found: Found) -> Report:
    with turn.stages.stage("context_assembly"):
        told = prompts.search_report(text, found.result, found.evidence)
    return Report(text=told, outcome=found.result.outcome, ready_documents=found.result.ready_documents)


async def search_before_answer(turn: Turn, uses: list[KnowledgeUse], *, path: str, member: str) -> str:
    """Searches all knowledge bases for what the team is asked; returns what the prompt says about it.

    Raises:
        NoDocuments: None of them has a document.
        NothingFound: Nothing was found, and each says `onEmpty: Refuse`.
    """
    reports = await together([search(turn, use, turn.sought, asked_by=path, member=member) for use in uses])
    if all(report.outcome == "EMPTY" and report.ready_documents == 0 for report in reports):
        raise NoDocuments([use.knowledge_base_ref.name for use in uses])
    if all(r.outcome == "EMPTY" and use.on_empty == "Refuse" for r, use in zip(reports, uses, strict=True)):
        raise NothingFound
    return "\n\n".join(report.text for report in reports)


async def _search_with_retries(turn: Turn, query: SearchQuery) -> SearchResult:
    for delay in (*_RETRIES_S, None):
        try:
            result = await turn.world.knowledge.search(query)
        except (Unavailable, DeadlineExceeded, ResourceExhausted) as error:
            result = SearchResult(outcome="FAILED", reasons=(error.message,))
        except ServiceError as error:
            return SearchResult(outcome="FAILED", reasons=(error.message,))
        if result.outcome != "FAILED" or delay is None:
            return result
        await asyncio.sleep(delay)
    raise AssertionError("unreachable: the last delay is None")


def _log(turn: Turn, query: SearchQuery, found: Found, step: str, member: str) -> None:
    if found.source != "SEARCH":
        turn.usage.searches_saved += 1
    team = team_label(turn)
    SEARCHES.labels(team, found.source, found.result.outcome).inc()
    GRADES.labels(team, found.result.grade or UNGRADED).inc()
    is_other_query = found.source in ("LEDGER_SEMANTIC", "LEDGER_SESSION")
    reason = "; ".join(found.result.reasons) or (found.reused_query if is_other_query else "")
    sequence = turn.log.emit(
        EvidenceRetrieved(
            query=query.text,
            knowledge_base=query.knowledge_base,
            source=found.source,
            outcome=found.result.outcome,
            reason=reason,
            evidence=found.evidence,
            step=step,
            ready_documents=found.result.ready_documents,
            quarantined=found.result.quarantined if found.source == "SEARCH" else 0,
            grade=found.result.grade,
            corrected_query=found.result.corrected_query,
            knowledge_revision=found.result.revision,
            similarity=found.similarity if is_other_query else 0.0,
            reused_sequence=found.reused_sequence,
        ),
        member=member,
    )
    turn.ledger.reported(found, query, sequence)
