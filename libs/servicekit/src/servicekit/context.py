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

FOREIGN_USER = "tenant:"
"""How the name of a user begins who calls from another tenant: `tenant:<home>/<user>`."""
MAX_CALLED_THROUGH = 3
"""Tenants before the one that is called."""


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

    @classmethod
    def of_call(cls, tenant: str, *, home: str, user: str) -> "Caller":
        """A user of another tenant who calls a team of this one."""
        return cls(tenant, f"{FOREIGN_USER}{home}/{user}")

    @property
    def home(self) -> str:
        """The tenant that a user of another one calls from; empty for the tenant's own."""
        return next(iter(_called_from(self.user)), "")

    @property
    def called_through(self) -> tuple[str, ...]:
        """All the tenants that the call has come through, the first one first."""
        return tuple(_called_from(self.user))[::-1]


def _called_from(user: str) -> Iterator[str]:
    while user.startswith(FOREIGN_USER):
        home, _, user = user.removeprefix(FOREIGN_USER).partition("/")
        yield home


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
