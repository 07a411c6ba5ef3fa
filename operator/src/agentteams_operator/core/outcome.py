"""What is to be done about an object."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from agentteams_operator.core.objects import Key


@dataclass(frozen=True, slots=True)
class Event:
    """For `kubectl describe`: something came about."""

    reason: str
    message: str
    type: Literal["Normal", "Warning"] = "Normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What decide wants.

    Attributes:
        status: The whole status; None: leave it alone.
        objects: What shall exist, in the order of making.
        gone: What shall not exist.
        finalizers: Ours: as they shall be; None: leave them alone.
        events: What to tell.
        again_s: When to look again at the latest.
    """

    status: Mapping[str, Any] | None = None
    objects: tuple[Mapping[str, Any], ...] = ()
    gone: tuple[Key, ...] = ()
    finalizers: tuple[str, ...] | None = None
    events: tuple[Event, ...] = field(default=())
    again_s: float = 600.0


def transitions(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Event, ...]:
    """An event for each turn of Accepted and Ready."""
    old = {c["type"]: c for c in before.get("conditions", ())}
    new = {c["type"]: c for c in after.get("conditions", ())}
    told = []
    for kind, good, bad in (("Accepted", "", "Invalid"), ("Ready", "Ready", "NotReady")):
        was, now = old.get(kind, {}), new.get(kind, {})
        if not now or (was.get("status"), was.get("reason")) == (now["status"], now["reason"]):
            continue
        if now["status"] == "True":
            if good:
                told.append(Event(good, now["message"] or "It serves."))
        else:
            told.append(Event(bad, f"{now['reason']}: {now['message']}", "Warning"))
    return tuple(told)
