"""The quality of knowledge bases: protobuf to domain and back."""

from agentteams.retrieval.v1 import quality_pb2 as pb

from retrieval.convert_search import between
from retrieval.core.model import EvaluationPolicy
from retrieval.core.quality import METRICS, Quality
from servicekit.errors import InvalidArgument

MAX_GOLDEN_SET_NAME = 512
_MIN_INTERVAL_S, _MAX_INTERVAL_S, _INTERVAL_S = 5, 2_592_000, 86_400


def policy_from_pb(message: pb.EvaluationPolicy, field: str) -> EvaluationPolicy:
    """With defaults filled in.

    Raises:
        InvalidArgument: Out of the bounds that the proto file names.
    """
    if len(message.golden_set) > MAX_GOLDEN_SET_NAME:
        raise InvalidArgument.field(
            f"{field}.golden_set",
            f"must have at most {MAX_GOLDEN_SET_NAME} characters",
            len(message.golden_set),
        )
    interval_s = message.interval_seconds or _INTERVAL_S
    if not _MIN_INTERVAL_S <= interval_s <= _MAX_INTERVAL_S:
        raise InvalidArgument.field(
            f"{field}.interval_seconds",
            f"must be {_MIN_INTERVAL_S} to {_MAX_INTERVAL_S}, or 0 for {_INTERVAL_S}",
            interval_s,
        )
    thresholds = {}
    for metric in METRICS:
        least = between(message.thresholds, metric, 0, "a score", field=f"{field}.thresholds.{metric}")
        if least is not None:
            thresholds[metric] = least
    if not thresholds:
        raise InvalidArgument.field(
            f"{field}.thresholds", f"must have at least one of {', '.join(METRICS)}; set one"
        )
    return EvaluationPolicy(thresholds=thresholds, golden_set=message.golden_set, interval_s=interval_s)


def policy_to_pb(policy: EvaluationPolicy) -> pb.EvaluationPolicy:
    """All of it."""
    return pb.EvaluationPolicy(
        golden_set=policy.golden_set,
        interval_seconds=policy.interval_s,
        thresholds=pb.QualityThresholds(**policy.thresholds),
    )


def quality_to_pb(quality: Quality) -> pb.Quality:
    """All of it."""
    message = pb.Quality(
        state=pb.Quality.State.ValueType(quality.state),
        reason=pb.Quality.Reason.ValueType(quality.reason),
        message=quality.message,
        shortfalls=[
            pb.Shortfall(metric=one.metric, value=one.value, threshold=one.threshold)
            for one in quality.shortfalls
        ],
        golden_set=quality.golden_set,
        golden_set_sha256=quality.golden_set_sha256,
    )
    newest = quality.newest
    if newest is not None:
        message.scores.CopyFrom(
            pb.QualityScores(
                **{metric: getattr(newest, metric) for metric in METRICS},
                queries=newest.queries,
                degraded=newest.degraded,
                missing_documents=newest.missing_documents,
            )
        )
        message.scores.finish_time.FromDatetime(newest.finish_time)
    if quality.next_time is not None:
        message.next_time.FromDatetime(quality.next_time)
    return message
