"""An answer with its unsupported sentences marked, and its scores."""

from agentteams.session.v1 import run_scores_pb2

from agentteams_cli.console import Output

UNSUPPORTED = "⚠"
_NAMES = {
    "faithfulness": "faithfulness",
    "grounding": "grounding",
    "retrieval_relevance": "retrieval relevance",
    "answer_relevance": "answer relevance",
}


def marked(answer: str, scores: run_scores_pb2.RunScores | None) -> str:
    """The answer, each unsupported sentence between two marks."""
    if scores is None:
        return answer
    text, at = [], 0
    for sentence in scores.sentences:
        if sentence.verdict != run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED:
            continue
        text += [answer[at : sentence.start], UNSUPPORTED, answer[sentence.start : sentence.end], UNSUPPORTED]
        at = sentence.end
    return "".join([*text, answer[at:]])


def unsupported(answer: str, scores: run_scores_pb2.RunScores) -> list[str]:
    """The sentences that the evidence does not support."""
    wrong = run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED
    return [answer[one.start : one.end] for one in scores.sentences if one.verdict == wrong]


def print_scores(output: Output, scores: run_scores_pb2.RunScores) -> None:
    """One line of scores, and what the marks mean."""
    outcome = run_scores_pb2.RunScores.Outcome.Name(scores.outcome).removeprefix("OUTCOME_").lower()
    found = [
        f"{name} {getattr(scores, field):.2f}" + (" (below)" if field in scores.below_thresholds else "")
        for field, name in _NAMES.items()
        if scores.HasField(field)  # type: ignore[arg-type]  # one of its fields
    ]
    output.line(f"scores ({scores.evaluator}): {', '.join(found) or outcome.replace('_', ' ')}")
    if scores.reason:
        output.line(f"  {scores.reason}")
    unsupported = sum(
        one.verdict == run_scores_pb2.SentenceScore.VERDICT_UNSUPPORTED for one in scores.sentences
    )
    if unsupported:
        output.line(f"{UNSUPPORTED} the evidence does not support {unsupported} marked sentence(s)", "yellow")


def scores_dict(scores: run_scores_pb2.RunScores) -> dict[str, object]:
    """For --json: each sentence with its place and verdict."""
    return {
        "evaluator": scores.evaluator,
        "version": scores.version,
        "outcome": run_scores_pb2.RunScores.Outcome.Name(scores.outcome).removeprefix("OUTCOME_"),
        "reason": scores.reason,
        **{field: getattr(scores, field) for field in _NAMES if scores.HasField(field)},  # type: ignore[arg-type]
        "below_thresholds": list(scores.below_thresholds),
        "sentences": [
            {
                "start": one.start,
                "end": one.end,
                "verdict": run_scores_pb2.SentenceScore.Verdict.Name(one.verdict).removeprefix("VERDICT_"),
                "grounding": one.grounding,
            }
            for one in scores.sentences
        ],
    }
