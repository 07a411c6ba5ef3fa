"""Errors in the shape that OpenAI's clients know."""

from collections.abc import Mapping

from gateway.core.model import Run
from servicekit.errors import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    ServiceError,
    Unauthenticated,
    Unavailable,
)

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"
# What a client waits when the server that is busy or away named no time.
_DEFAULT_RETRY_S = 1.0

_STATUS: dict[type[ServiceError], int] = {
    InvalidArgument: 400,
    PermissionDenied: 403,
    NotFound: 404,
    FailedPrecondition: 409,
    Conflict: 409,
    ResourceExhausted: 429,
    Internal: 500,
    Unauthenticated: 500,  # the orchestrator does not take *our* token: the keys differ
    Unavailable: 503,
    DeadlineExceeded: 504,
}
_STATUS_BY_REASON = {"TEAM_NOT_READY": 503, "SESSION_BUSY": 409, "TOO_MANY_RUNS": 429}
_CODE_BY_REASON = {
    "TEAM_NOT_FOUND": "model_not_found",
    "INVALID_FIELD": "invalid_value",
    "DEADLINE_TOO_SHORT": "deadline_exceeded",
}
_PARAM_BY_REASON = {
    "TEAM_NOT_FOUND": "model",
    "TEAM_NOT_READY": "model",
    "SESSION_NOT_FOUND": "metadata.session",
    "REQUEST_ID_REUSED": "Idempotency-Key",
}
_TYPE_BY_STATUS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# The orchestrator's fields as the caller wrote them.
_PARAM_BY_FIELD = {
    "team": "model",
    "session": "metadata.session",
    "request_id": "Idempotency-Key",
    "answer_schema": "response_format",
}
# The model or its endpoint is to blame, not this installation.
_UPSTREAM = {
    "MODEL_UNAVAILABLE",
    "MODEL_BAD_RESPONSE",
    "MODEL_RATE_LIMITED",
    "MODEL_REJECTED",
    "ANSWER_INVALID",
}


class ApiError(Exception):
    """What a caller is told.

    Args:
        status: HTTP status.
        message: For people; names the value and the fix.
        code: For programs, snake_case.
        param: The parameter or header that is wrong.
        retry_after_s: When to try again; None says nothing about it.
        retry: Whether a client should repeat the request by itself; None leaves it to the status.
        run: The run that it is about.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after_s: float | None = None,
        retry: bool | None = None,
        run: Run | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after_s = retry_after_s
        self.retry = retry
        self.run = run

    @property
    def type(self) -> str:
        """OpenAI's class of error."""
        return _TYPE_BY_STATUS.get(self.status, INVALID_REQUEST if self.status < 500 else SERVER_ERROR)

    def body(self) -> dict[str, object]:
        """The JSON that carries it."""
        error: dict[str, object] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        if self.run is not None:
            error |= {"run": self.run.name, "session": self.run.session}
        return {"error": error}

    def headers(self) -> Mapping[str, str]:
        """The headers that go with it."""
        headers = {}
        if self.retry_after_s is not None:
            headers["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.retry is not None:
            headers["x-should-retry"] = "true" if self.retry else "false"
        return headers


def invalid(param: str, message: str, *, code: str = "invalid_value") -> ApiError:
    """A 400 that names the parameter."""
    return ApiError(400, message, code=code, param=param)


def model_not_found(model: str) -> ApiError:
    """A 404 for a team that is not there."""
    return ApiError(
        404,
        f"The model {model[:80]!r} does not exist: no team of that name. GET /v1/models lists them.",
        code="model_not_found",
        param="model",
    )


def refused(error: ServiceError, *, run: Run | None = None, retry: bool | None = None) -> ApiError:
    """Why the orchestrator did not take a call, or (with a run) cannot be heard any more."""
    status = _STATUS_BY_REASON.get(error.reason) or _STATUS.get(type(error), 500)
    retry_after_s = None if error.retry_after is None else error.retry_after.total_seconds()
    if retry_after_s is None and (status in (429, 503) or error.reason == "SESSION_BUSY"):
        retry_after_s = _DEFAULT_RETRY_S
    message = error.message
    if isinstance(error, Unavailable) and error.reason == "DEPENDENCY_UNAVAILABLE" and run is None:
        message = f"The service that answers is not available right now; try again. ({error.message})"
    elif isinstance(error, DeadlineExceeded):
        message = f"The service that answers did not do so in time; try again. ({error.message})"
    elif isinstance(error, Unauthenticated):
        message = "The services of this installation do not trust one another: their identity keys differ."
    return ApiError(
        status,
        message,
        code=_CODE_BY_REASON.get(error.reason, error.reason.lower()),
        param=_param(error),
        retry_after_s=retry_after_s,
        retry=retry,
        run=run,
    )


def run_failed(error: ServiceError, *, run: Run) -> ApiError:
    """Why a run has no answer. Clients do not repeat it by themselves: that would be another run."""
    if error.reason in _UPSTREAM:
        status = 502
    elif error.reason == "GUARDRAIL_BLOCKED":
        status = 400  # the caller can ask something else; the same again ends the same
    elif isinstance(error, DeadlineExceeded):
        status = 504
    else:
        status = 500
    return ApiError(
        status,
        f"{error.message} ({run.name})",
        code=error.reason.lower(),
        retry_after_s=None if error.retry_after is None else error.retry_after.total_seconds(),
        retry=False,
        run=run,
    )


def _param(error: ServiceError) -> str | None:
    if error.violations:
        field = error.violations[0].field
        head, bracket, tail = field.partition("[")
        if head == "input":
            return f"messages{bracket}{tail}"
        return _PARAM_BY_FIELD.get(field, field)
    return _PARAM_BY_REASON.get(error.reason)
