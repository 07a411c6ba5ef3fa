"""Typed errors and their way over the wire and back.

    ServiceError
      InvalidArgument    the request is wrong; do not retry unchanged
      NotFound           it is not there, or not the caller's
      AlreadyExists      it is there already
      FailedPrecondition the state does not allow it; change the state first
      Conflict           somebody else was first; read again, then retry
      ResourceExhausted  a limit; retry after `retry_after`
      PermissionDenied   the caller may not
      Unauthenticated    nobody knows who the caller is
      Unavailable        a dependency does not answer; retry with back-off
      DeadlineExceeded   the time ran out
      Internal           a bug; the server's log has the trace

Core code raises and catches these; adapters make them of driver errors; one
interceptor turns them into a gRPC status, and `RpcClient` turns that back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Self

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "agentteams.dev"
DETAILS_KEY = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field: its path in the request, and what to do about it."""

    field: str
    description: str


class ServiceError(Exception):
    """Base of all errors that a caller is meant to understand.

    Args:
        message: For people; names the value and the fix.
        reason: A name of `agentteams.errors.v1.ErrorReason`, without prefix.
        metadata: Every value that the message names.
        retry_after: When it makes sense to try again.
        violations: The wrong fields, for InvalidArgument.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        metadata: Mapping[str, str] | None = None,
        retry_after: timedelta | None = None,
        violations: Sequence[FieldViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_after = retry_after
        self.violations = tuple(violations)


class InvalidArgument(ServiceError):
    """The request is wrong; do not retry it unchanged."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    @classmethod
    def field(cls, field: str, description: str, value: object = None) -> Self:
        """One wrong field. `description` says what is wrong and what is right."""
        shown = "" if value is None else f" (got {_shorten(value)})"
        return cls(
            f"{field}: {description}{shown}",
            reason="INVALID_FIELD",
            metadata={"field": field} | ({} if value is None else {"value": _shorten(value)}),
            violations=[FieldViolation(field, description + shown)],
        )


class NotFound(ServiceError):
    """It is not there, or not the caller's."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """It is there already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """The state does not allow it; change the state first."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Conflict(ServiceError):
    """Somebody else was first; read again, then retry."""

    code = grpc.StatusCode.ABORTED


class ResourceExhausted(ServiceError):
    """A limit was reached; retry after `retry_after`."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class PermissionDenied(ServiceError):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(ServiceError):
    """Nobody knows who the caller is."""

    code = grpc.StatusCode.UNAUTHENTICATED


class Unavailable(ServiceError):
    """A dependency does not answer; retry with back-off."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    """The time ran out."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Internal(ServiceError):
    """A bug; the server's log has the trace."""

    code = grpc.StatusCode.INTERNAL


_BY_CODE: dict[int, type[ServiceError]] = {
    cls.code.value[0]: cls
    for cls in (
        InvalidArgument,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Conflict,
        ResourceExhausted,
        PermissionDenied,
        Unauthenticated,
        Unavailable,
        DeadlineExceeded,
        Internal,
    )
}
_DEFAULT_REASON = {
    grpc.StatusCode.UNAVAILABLE.value[0]: "DEPENDENCY_UNAVAILABLE",
    grpc.StatusCode.DEADLINE_EXCEEDED.value[0]: "DEADLINE_TOO_SHORT",
    grpc.StatusCode.UNAUTHENTICATED.value[0]: "UNAUTHENTICATED",
    grpc.StatusCode.PERMISSION_DENIED.value[0]: "PERMISSION_DENIED",
}


def status_from_error(error: BaseException) -> status_pb2.Status:
    """The wire form. Anything but a ServiceError becomes INTERNAL "internal error"."""
    if not isinstance(error, ServiceError):
        error = Internal("internal error", reason="INTERNAL")
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    _add(
        status,
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata),
    )
    if error.violations:
        _add(
            status,
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in error.violations
                ]
            ),
        )
    if error.retry_after is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromTimedelta(error.retry_after)
        _add(status, info)
    return status


def error_from_status(status: status_pb2.Status) -> ServiceError:
    """The typed form of a wire status; details of other domains are left out."""
    cls = _BY_CODE.get(status.code, Internal)
    reason = _DEFAULT_REASON.get(status.code, "INTERNAL")
    metadata: dict[str, str] = {}
    retry_after: timedelta | None = None
    violations: list[FieldViolation] = []
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToTimedelta()
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations = [FieldViolation(v.field, v.description) for v in bad.field_violations]
    return cls(
        status.message, reason=reason, metadata=metadata, retry_after=retry_after, violations=violations
    )


def error_from_rpc(error: grpc.aio.AioRpcError) -> ServiceError:
    """The typed form of what a call raised."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return error_from_status(status_pb2.Status.FromString(value))
    code = error.code().value[0]
    return error_from_status(status_pb2.Status(code=code, message=error.details() or error.code().name))


def _add(status: status_pb2.Status, detail: object) -> None:
    packed = AnyMessage()
    packed.Pack(detail)  # type: ignore[arg-type]  # every detail here is a message
    status.details.append(packed)


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
