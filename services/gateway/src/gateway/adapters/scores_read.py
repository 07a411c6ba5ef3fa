"""Scores as they come over the wire."""

from agentteams.session.v1 import run_scores_pb2 as pb

from gateway.core.model import Scores, Unsupported

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
