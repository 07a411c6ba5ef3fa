"""Errors of the HTTP API, in OpenAI's shape."""

from datetime import timedelta


class ApiError(Exception):
    """An answer that is not 200.

    Attributes:
        status: The HTTP status.
        message: What is wrong and what to do.
        code: A stable word for programs.
        param: The field of the request, where one is to blame.
        retry_after: When to try again, where that helps.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, dict[str, str | None]]:
        """Returns the JSON body."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Returns Retry-After where it is known."""
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, round(self.retry_after.total_seconds())))}


def invalid(message: str, *, param: str, code: str = "invalid_value") -> ApiError:
    """Returns a 400 that names the field."""
    return ApiError(400, message, code=code, param=param)


def runtime_unavailable(message: str, *, retry_after: timedelta = timedelta(seconds=2)) -> ApiError:
    """Returns a 503: the model runtime is starting, restarting or gone."""
    return ApiError(503, message, code="model_unavailable", retry_after=retry_after)
