"""The curve of recall over latency as lines of text."""

from collections.abc import Mapping

from agentteams.retrieval.v1 import index_pb2 as pb

_WIDTH = 40


def curve_lines(status: pb.IndexStatus) -> list[str]:
    """What was measured, one line a point; the bar is the recall, from the lowest to 100 %."""
    tuning = status.tuning
    head = f"{named(pb.IndexType.Name(status.type), 'INDEX_TYPE_')} {shown(status.build_params)}".rstrip()
    if tuning.state == pb.Tuning.STATE_FAILED:
        return [f"{head}: FAILED. {tuning.message}"]
    lines = [f"{head}, searched with {shown(status.search_params) or 'no parameter'}", tuning.message]
    lowest = min((point.recall_percent for point in tuning.curve), default=0.0)
    for point in tuning.curve:
        chosen = "*" if dict(point.search_params) == dict(status.search_params) else " "
        share = (point.recall_percent - lowest) / (100 - lowest) if lowest < 100 else 1.0
        lines.append(
            f"{chosen} {shown(point.search_params) or 'exact':<14} {point.recall_percent:6.2f} %  "
            f"{point.p50_milliseconds:8.2f} ms  p99 {point.p99_milliseconds:8.2f} ms  "
            f"{'█' * max(1, round(_WIDTH * share))}"
        )
    lines.append(
        f"{tuning.recall_percent:.1f} % of the exact ten, on queries that the choice did not see; "
        f"{tuning.queries} queries, {tuning.real_queries} of them real; {tuning.chunk_count:,} chunks"
    )
    return lines


def shown(params: Mapping[str, int]) -> str:
    """ef 64."""
    return ", ".join(f"{name} {value}" for name, value in sorted(params.items()))


def named(name: str, prefix: str) -> str:
    """Without the prefix of its enum."""
    return name.removeprefix(prefix)
