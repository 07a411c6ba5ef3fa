"""What a follower of a run gets over gRPC, put together."""

from collections.abc import Sequence

from agentteams.orchestrator.v1 import orchestrator_service_pb2 as pb
from agentteams.session.v1 import run_pb2


def texts(items: Sequence[pb.RunItem]) -> dict[str, str]:
    """The texts, by name; a piece goes on where the one before ended, or begins anew."""
    out: dict[str, str] = {}
    for item in items:
        if item.HasField("text_delta"):
            delta = item.text_delta
            assert delta.offset in (0, len(out.get(delta.message, "")))
            out[delta.message] = out.get(delta.message, "")[: delta.offset] + delta.text
    return out


def events(items: Sequence[pb.RunItem]) -> list[run_pb2.RunEvent]:
    """What is in the log."""
    return [item.event for item in items if item.HasField("event")]
