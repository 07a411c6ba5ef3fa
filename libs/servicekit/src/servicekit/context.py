"""Who is asking, and until when: what travels with every call.

The server's interceptor sets both for the handler's task; `RpcClient` passes
both on. Work that outlives its call (a run) begins in a `scope` of its own.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta

from servicekit.errors import Unauthenticated


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a call is made, as its verified token says.

    Attributes:
        tenant: The namespace whose rows the call may see.
        user: The owner of sessions and runs.
        service: The service that calls on nobody's behalf; else empty.
    """

    tenant: str
    user: str
    service: str = ""


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)  # time.monotonic()


def current_caller() -> Caller:
    """The caller of the call that is being served.

    Raises:
        Unauthenticated: Outside of a call and of a `scope`.
    """
    caller = _caller.get()
    if caller is None:
        raise Unauthenticated("no caller: the call carries no token", reason="UNAUTHENTICATED")
    return caller


def remaining() -> timedelta | None:
    """Time left until the current deadline, never below zero; None without one."""
    deadline = _deadline.get()
    return None if deadline is None else timedelta(seconds=max(0.0, deadline - time.monotonic()))


def remaining_s() -> float | None:
    """As `remaining`, in seconds and below zero when it is over (the hot path)."""
    deadline = _deadline.get()
    return None if deadline is None else deadline - time.monotonic()


def set_call(caller: Caller | None, timeout_s: float | None) -> None:
    """Sets both for the current task; for the server's interceptor."""
    _caller.set(caller)
    _deadline.set(None if timeout_s is None else time.monotonic() + timeout_s)


@contextmanager
def scope(*, caller: Caller | None = None, timeout: timedelta | None = None) -> Iterator[None]:
    """Makes the block's calls as `caller` (default: nobody) and within `timeout` (default: none)."""
    before = _caller.get(), _deadline.get()
    set_call(caller, None if timeout is None else timeout.total_seconds())
    try:
        yield
    finally:
        _caller.set(before[0])
        _deadline.set(before[1])
