"""Runs and their events as text and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentteams.orchestrator.v1.orchestrator_service_pb2 import TextDelta
from agentteams.retrieval.v1 import retrieval_service_pb2 as retrieval_pb
from agentteams.session.v1 import run_pb2, session_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agentteams_cli.console import Output

EXCERPT_CHARACTERS = 160


def to_dict(message: Message) -> dict[str, Any]:
    """A message as JSON, with the field names of the contract."""
    return MessageToDict(message, preserving_proto_field_name=True)


def excerpt(text: str, length: int = EXCERPT_CHARACTERS) -> str:
    """The beginning of a text on one line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def milliseconds(duration: Duration) -> float:
    return duration.seconds * 1000 + duration.nanos / 1e6


def time_text(ms: float) -> str:
    return f"{ms / 1000:.2f} s" if ms >= 1000 else f"{ms:.1f} ms"


def when(time: Timestamp) -> str:
    """A time in UTC, to the second."""
    return time.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")


def full_name(collection: str, name: str) -> str:
    """`runs/x` of `x` or `runs/x`: people copy either."""
    return name if name.startswith(f"{collection}/") else f"{collection}/{name}"


def money(micros: int, currency: str) -> str:
    """An amount with as many digits as it needs."""
    return f"{micros / 1e6:.{2 if micros >= 1_000_000 else 6}f} {currency}"


def state_name(state: "run_pb2.RunState | int") -> str:
    return run_pb2.RunState.Name(int(state)).removeprefix("RUN_STATE_").lower()  # type: ignore[arg-type]


class TextFollower:
    """Puts the pieces of texts together, also when a stream is taken up again or a text is begun anew."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def feed(self, delta: TextDelta) -> tuple[str, bool]:
        """What to print for a piece, and whether the text was begun anew, so that what is there is void."""
        known = self._texts.get(delta.message, "")
        if delta.offset == 0 and known:
            # A late follower gets the text so far as one piece; a retried call begins with another text.
            if delta.text.startswith(known):
                self._texts[delta.message] = delta.text
                return delta.text[len(known) :], False
            if known.startswith(delta.text) and len(delta.text) > 1:
                return "", False
            self._texts[delta.message] = delta.text
            return delta.text, True
        new = delta.text[max(0, len(known) - delta.offset) :]
        self._texts[delta.message] = known + new
        return new, False


def citation_dict(citation: session_pb2.Citation) -> dict[str, Any]:
    """A citation in the form of the gateway's `agentteams` field."""
    return {
        "number": citation.number,
        "document": citation.document,
        "document_title": citation.document_title,
        "chunk": citation.chunk,
        "text": citation.text,
        "origin": session_pb2.Citation.Origin.Name(citation.origin).removeprefix("ORIGIN_").lower(),
    }


def summary_dict(summary: run_pb2.RunSummary) -> dict[str, Any]:
    """Usage and stages in the form of the gateway's `agentteams` field."""
    usage = summary.usage
    return {
        "usage": {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "model_calls": usage.model_calls,
            "tool_calls": usage.tool_calls,
            "searches": usage.searches,
            "searches_saved": usage.searches_saved,
            "cost_micros": usage.cost_micros,
            "currency": usage.currency,
        },
        "duration_ms": milliseconds(summary.duration),
        "stages": [
            {"stage": s.stage, "duration_ms": milliseconds(s.duration), "count": s.count}
            for s in summary.stages
        ],
    }


def print_citations(output: Output, citations: Sequence[Mapping[str, Any]]) -> None:
    """Which chunk of which document each number is."""
    if not citations:
        output.line("No citations: the answer rests on no document.", style="yellow")
        return
    output.line("Citations", style="bold")
    for citation in citations:
        note = "" if citation.get("origin") == "model" else " (linked afterwards by its words)"
        output.line(
            f"  [{citation['number']}] {citation['document_title']}, chunk {citation['chunk']}{note}: "
            f"{excerpt(str(citation['text']), 110)}"
        )


def print_usage(output: Output, usage: Mapping[str, Any]) -> None:
    """Searches, and those that the ledger saved; calls and tokens."""
    searches, saved = int(usage.get("searches", 0)), int(usage.get("searches_saved", 0))
    output.line(
        f"{searches} {'search' if searches == 1 else 'searches'} made, {saved} saved by the evidence ledger; "
        f"{usage.get('model_calls', 0)} model calls, {usage.get('input_tokens', 0)} tokens in, "
        f"{usage.get('output_tokens', 0)} out"
        + (f", {money(usage['cost_micros'], usage['currency'])}" if usage.get("currency") else "")
    )


def print_stages(output: Output, stages: Sequence[Mapping[str, Any]]) -> None:
    """Where the time of a turn went."""
    if not stages:
        return
    total = sum(float(s["duration_ms"]) for s in stages) or 1.0
    output.table(
        ["stage", "time", "count", "share"],
        [
            [
                str(s["stage"]),
                time_text(float(s["duration_ms"])),
                str(s["count"]),
                f"{float(s['duration_ms']) / total:.1%}",
            ]
            for s in stages
        ],
        right=["time", "count", "share"],
    )


def outcome_name(response: retrieval_pb.SearchResponse) -> str:
    return retrieval_pb.SearchOutcome.Name(response.outcome).removeprefix("SEARCH_OUTCOME_").lower()
