"""Whom an object lets in of other namespaces, as its status tells the services."""

from collections.abc import Sequence
from typing import Any

from agentteams_operator.core.conditions import Verdict, no
from agentteams_operator.core.reading import Read

MAX_ALLOWED = 1000


def accepted(read: Read, allowed: Sequence[str]) -> Verdict:
    """The condition Accepted."""
    if not read.accepted.holds or len(allowed) <= MAX_ALLOWED:
        return read.accepted
    words = (
        f"spec.allowedNamespaces.selector lets {len(allowed)} namespaces in, and at most {MAX_ALLOWED} may, "
        "so that it lets in none; use a label that fewer have, or from: All"
    )
    return no("Accepted", "TooManyNamespaces", words)


def allowed_status(allowed: Sequence[str]) -> dict[str, Any]:
    """What of it the status has."""
    return {"allowedTenants": list(allowed)} if allowed and len(allowed) <= MAX_ALLOWED else {}
