"""Scores as the session service keeps them."""

from agentteams.session.v1 import run_scores_pb2

from evaluation.core.model import Job, Scores

RunScores = run_scores_pb2.RunScores
SentenceScore = run_scores_pb2.SentenceScore


def scores_to_pb(job: Job, scores: Scores) -> run_scores_pb2.RunScores:
    """The resource, without what is output only."""
    usage = scores.usage
    selection = "UNSPECIFIED" if job.selection == "ASKED" else job.selection
    return RunScores(
        run=job.run,
        evaluator=scores.evaluator,
        version=scores.version,
        outcome=RunScores.Outcome.Value(f"OUTCOME_{scores.outcome}"),
        reason=scores.reason,
        faithfulness=scores.faithfulness,
        grounding=scores.grounding,
        retrieval_relevance=scores.retrieval_relevance,
        answer_relevance=scores.answer_relevance,
        agreement=scores.agreement,
        sentences=[
            SentenceScore(
                start=one.start,
                end=one.end,
                verdict=SentenceScore.Verdict.Value(f"VERDICT_{one.verdict}"),
                faithfulness=one.faithfulness,
                grounding=one.grounding,
                evidence=one.evidence,
            )
            for one in scores.sentences
        ],
        chunks=[
            run_scores_pb2.ChunkScore(
                number=one.chunk.number,
                knowledge_base=one.chunk.knowledge_base,
                chunk=one.chunk.chunk,
                relevance=one.relevance,
                judged=one.judged,
            )
            for one in scores.chunks
        ],
        judge=run_scores_pb2.JudgeUsage(
            model_config=usage.model_config and f"modelConfigs/{usage.model_config.rpartition('/')[2]}",
            calls=usage.calls,
            cached=usage.cached,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_micros=usage.cost_micros,
            currency=usage.currency,
        ),
        selection=run_scores_pb2.ScoringRequest.Selection.Value(f"SELECTION_{selection}"),
        suspicions=job.suspicions,
        below_thresholds=scores.below,
    )
