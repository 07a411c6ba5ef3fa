"""Whose rows a call is about, by what its verified token says."""

from servicekit.context import current_caller
from servicekit.errors import PermissionDenied
from session import checks
from session.core.model import Owner


def current_owner() -> Owner:
    """The caller.

    Raises:
        PermissionDenied: The caller is a service that acts on nobody's behalf.
    """
    caller = current_caller()
    if not caller.tenant or not caller.user:
        raise PermissionDenied(
            "this call needs a tenant and a user: make it on a user's behalf", reason="PERMISSION_DENIED"
        )
    return Owner(tenant=caller.tenant, user=caller.user)


def owner_named(user: str) -> Owner:
    """The user of the field `user`: the caller, or anybody of its tenant for a service.

    Raises:
        PermissionDenied: Somebody else's name, and the caller is no service.
    """
    caller = current_caller()
    if not user or user == caller.user:
        return current_owner()
    checks.text("user", user)
    if not caller.service:
        raise PermissionDenied(
            f"only a service may ask for another user's data (user {user}); leave the field empty",
            reason="PERMISSION_DENIED",
            metadata={"user": user},
        )
    if not caller.tenant:
        raise PermissionDenied("this call needs a tenant", reason="PERMISSION_DENIED")
    return Owner(tenant=caller.tenant, user=user)
