"""How steps of a workflow fail."""

from manifests.expressions import ExpressionError
from servicekit.errors import FailedPrecondition, Internal, ServiceError

# The run cannot go on, whatever the step says about its failures.
_FATAL = ("RUN_LIMIT_REACHED", "TEAM_CHANGED")


def is_fatal(error: ServiceError) -> bool:
    """Whether it ends the run, also past `onFailure: Continue`."""
    return error.reason in _FATAL


def is_worth_repeating(error: ServiceError) -> bool:
    """Whether another attempt may end differently: not after a person's no, or a broken expression."""
    return not is_fatal(error) and error.metadata.get("final") != "true"


def failed(path: str, error: ServiceError) -> ServiceError:
    """What the run fails with when a step has; the innermost step is named."""
    if is_fatal(error) or error.metadata.get("step"):
        return error
    return FailedPrecondition(
        f'step "{path}" failed: {error.message}',
        reason="STEP_FAILED",
        metadata={**error.metadata, "step": path, "cause": error.reason},
    )


def timed_out(seconds: int) -> ServiceError:
    """An attempt took too long."""
    return FailedPrecondition(
        f"it took longer than its timeoutSeconds, {seconds} s",
        reason="STEP_FAILED",
        metadata={"limit": "timeoutSeconds", "value": str(seconds)},
    )


def unusable(field: str, error: ExpressionError) -> ServiceError:
    """An expression has no value."""
    return FailedPrecondition(
        f"its {field} has no value: {error}",
        reason="STEP_FAILED",
        metadata={"field": field, "problem": str(error), "final": "true"},
    )


def no_way(value: str) -> ServiceError:
    """A router has no choice for what it was given."""
    return FailedPrecondition(
        f'no choice is for "{value[:200]}", and there is no default',
        reason="STEP_FAILED",
        metadata={"value": value[:200], "final": "true"},
    )


def refused(reason: str) -> ServiceError:
    """A person said no."""
    return FailedPrecondition(
        f"it was refused: {reason}" if reason else "it was refused",
        reason="STEP_FAILED",
        metadata={"refused": reason, "final": "true"},
    )


def too_large(what: str, size_bytes: int, most_bytes: int) -> ServiceError:
    """What goes into a step, or comes out, is larger than what may be kept."""
    return FailedPrecondition(
        f"its {what} has {size_bytes} bytes; {most_bytes} is the most",
        reason="STEP_FAILED",
        metadata={"size": str(size_bytes), "limit": str(most_bytes)},
    )


def invalid_answer(problems: tuple[str, ...]) -> ServiceError:
    """An answer does not satisfy the step's schema."""
    return Internal(
        f"the answer does not satisfy the schema: {' '.join(problems)}",
        reason="ANSWER_INVALID",
        metadata={"problems": " ".join(problems)},
    )
