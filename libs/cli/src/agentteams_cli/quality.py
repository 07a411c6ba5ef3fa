"""The quality of a knowledge base, in words."""

from collections.abc import Sequence

from agentteams.retrieval.v1 import evaluation_pb2 as evaluation_pb
from agentteams.retrieval.v1 import knowledge_base_pb2 as kb_pb
from agentteams.retrieval.v1 import quality_pb2 as pb

from agentteams_cli.console import Output
from agentteams_cli.render import when

HISTORY = 10
"""Evaluations that are shown."""
SCORES = {
    "nDCG@10": "ndcg_at_10",
    "recall@10": "recall_at_10",
    "recall@100": "recall_at_100",
    "MRR@10": "mrr_at_10",
}


def mode_name(mode: "kb_pb.SearchMode.ValueType") -> str:
    """Such as Dense."""
    return kb_pb.SearchMode.Name(mode).removeprefix("SEARCH_MODE_").capitalize()


def quality_rows(one: kb_pb.KnowledgeBase) -> list[tuple[str, str]]:
    """What is known, if it is watched."""
    if not one.HasField("quality"):
        return []
    quality = one.quality
    state = pb.Quality.State.Name(quality.state).removeprefix("STATE_").lower()
    return [
        ("quality", f"{state}: {quality.message}" if quality.message else state),
        ("golden set", quality.golden_set),
        ("next measured", when(quality.next_time) if quality.HasField("next_time") else ""),
    ]


def show_history(output: Output, evaluations: Sequence[evaluation_pb.Evaluation]) -> None:
    """Newest first; in brackets the change against the one before of the same golden set and mode."""
    if not evaluations:
        return
    rows = []
    for place, one in enumerate(evaluations):
        before = next(
            (
                other
                for other in evaluations[place + 1 :]
                if (other.mode, other.golden_set_sha256) == (one.mode, one.golden_set_sha256)
            ),
            None,
        )
        scores = [score_text(one, before, name) for name in SCORES.values()]
        missing = f"{one.missing_documents} documents missing" if one.missing_documents else ""
        rows.append([when(one.finish_time), mode_name(one.mode), *scores, str(one.queries), missing])
    output.line()
    output.table(["MEASURED", "MODE", *SCORES, "QUERIES", ""], rows, right=[*SCORES, "QUERIES"])


def score_text(one: evaluation_pb.Evaluation, before: evaluation_pb.Evaluation | None, name: str) -> str:
    """Such as 0.7500 (+0.2500)."""
    value = float(getattr(one, name))
    return f"{value:.4f}" if before is None else f"{value:.4f} ({value - getattr(before, name):+.4f})"
