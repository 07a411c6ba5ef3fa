"""What a failed run is to a client."""

import pytest

from gateway.core.errors import refused, run_failed
from gateway.core.model import Run
from servicekit.errors import FailedPrecondition, Internal, InvalidArgument, ServiceError

RUN = Run(name="runs/r", session="sessions/s")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FailedPrecondition("refused", reason="GUARDRAIL_BLOCKED"), 400),
        (Internal("no JSON", reason="ANSWER_INVALID"), 502),
        (FailedPrecondition("too much", reason="RUN_LIMIT_REACHED"), 500),
    ],
)
def test_who_is_to_blame(error: ServiceError, status: int) -> None:
    told = run_failed(error, run=RUN)
    assert (told.status, told.code) == (status, error.reason.lower())
    assert told.headers()["x-should-retry"] == "false"


def test_a_schema_that_cannot_be_used_is_named_as_the_caller_wrote_it() -> None:
    told = refused(InvalidArgument.field("answer_schema", "is not a valid JSON schema"))
    assert (told.status, told.param) == (400, "response_format")
