"""What both services send, as the core knows it."""

from datetime import timedelta

from agentteams.session.v1 import run_pb2, session_pb2
from agentteams.session.v1 import run_scores_pb2 as pb

from gateway.core.model import Citation, Scores, Stage, Unsupported, Usage

_ORIGINS = {session_pb2.Citation.ORIGIN_MODEL: "model", session_pb2.Citation.ORIGIN_ATTRIBUTED: "attributed"}
_NAMES = ("faithfulness", "grounding", "retrieval_relevance", "answer_relevance")


def scores_from_pb(found: pb.RunScores) -> Scores:
    """What of them concerns whoever reads the answer."""
    return Scores(
        outcome=pb.RunScores.Outcome.Name(found.outcome).removeprefix("OUTCOME_").lower(),
        evaluator=found.evaluator,
        version=found.version,
        reason=found.reason,
        values={name: getattr(found, name) for name in _NAMES if found.HasField(name)},  # type: ignore[arg-type]
        below=tuple(found.below_thresholds),
        unsupported=tuple(
            Unsupported(
                start=one.start,
                end=one.end,
                faithfulness=one.faithfulness if one.HasField("faithfulness") else None,
                grounding=one.grounding,
                evidence=tuple(one.evidence),
            )
            for one in found.sentences
            if one.verdict == pb.SentenceScore.VERDICT_UNSUPPORTED
        ),
    )


def citation_from_pb(citation: session_pb2.Citation) -> Citation:
    """A piece of evidence of an answer."""
    return Citation(
        number=citation.number,
        document=citation.document,
        document_title=citation.document_title,
        chunk=citation.chunk,
        text=citation.text,
        origin=_ORIGINS.get(citation.origin, ""),
    )


def usage_from_pb(used: run_pb2.Usage) -> Usage:
    """What a run used."""
    return Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        model_calls=used.model_calls,
        tool_calls=used.tool_calls,
        searches=used.searches,
        searches_saved=used.searches_saved,
    )


def stages_from_pb(summary: run_pb2.RunSummary) -> tuple[Stage, ...]:
    """Where a run's time went."""
    return tuple(
        Stage(
            name=stage.stage,
            duration=timedelta(seconds=stage.duration.seconds, microseconds=stage.duration.nanos // 1000),
            count=stage.count,
        )
        for stage in summary.stages
    )
