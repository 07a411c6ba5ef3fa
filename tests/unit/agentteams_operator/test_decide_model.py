"""What is decided about a ModelConfig, without a server."""

from datetime import UTC, datetime
from typing import Any

import pytest

from agentteams_operator.core.conditions import Verdict, conditions, no, yes
from agentteams_operator.core.decide.model_config import (
    PROBE_FAILED_S,
    PROBE_S,
    ObservedModel,
    decide_model,
)
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.outcome import Outcome
from agentteams_operator.core.ports import Probe
from agentteams_operator.core.reading import Reader
from tests.support.wrong_manifests import GOOD, WRONG

T0 = datetime(2026, 1, 1, tzinfo=UTC)
T1 = datetime(2026, 1, 2, tzinfo=UTC)
KEY = Key("ModelConfig", "n", "m")


def stored(spec: Any = None, status: Any = None, generation: int = 1, kind: str = "ModelConfig") -> Stored:
    content = {"spec": dict(GOOD[kind]) if spec is None else spec, "status": status or {}}
    key = Key(kind, "n", "m")
    return Stored(key=key, uid="u", version="1", generation=generation, content=content)


def decided(one: Stored, now: datetime = T0, **seen: Any) -> Outcome:
    read = Reader(lambda key: None).read(one)
    return decide_model(ObservedModel(one=one, read=read, **({"secrets": {}, "keys": ()} | seen)), now)


def reasons(outcome: Outcome) -> dict[str, str]:
    assert outcome.status is not None
    return {c["type"]: c["reason"] for c in outcome.status["conditions"]}


ANSWERED = Probe(reason="Answered", message="it answers")


def test_all_is_well() -> None:
    outcome = decided(stored(), probe=ANSWERED)
    assert reasons(outcome) == {
        "Accepted": "Valid", "ResolvedRefs": "AllFound", "Reachable": "Answered", "Ready": "Ready",
    }  # fmt: skip
    assert outcome.again_s == PROBE_S
    assert [e.reason for e in outcome.events] == ["Ready"]


def test_the_same_again_is_no_news_whatever_the_time() -> None:
    first = decided(stored(), probe=ANSWERED)
    again = decided(stored(status=first.status), T1, probe=ANSWERED)
    assert again.status == first.status
    assert again.events == ()


def test_the_time_moves_when_the_status_flips_and_only_then() -> None:
    first = conditions([no("Ready", "A", "a")], [], generation=1, now=T0)
    other_reason = conditions([no("Ready", "B", "b")], first, generation=2, now=T1)
    assert other_reason[0]["lastTransitionTime"] == "2026-01-01T00:00:00Z"
    assert other_reason[0]["observedGeneration"] == 2
    flipped = conditions([yes("Ready", "C")], other_reason, generation=2, now=T1)
    assert flipped[0]["lastTransitionTime"] == "2026-01-02T00:00:00Z"


@pytest.mark.parametrize("reason", ["Refused", "NoAnswer", "ModelNotServed", "BadAnswer"])
def test_a_failed_probe_is_made_again_soon(reason: Any) -> None:
    outcome = decided(stored(), probe=Probe(reason=reason, message="why"))
    assert reasons(outcome)["Ready"] == reason
    assert outcome.again_s == PROBE_FAILED_S
    assert [(e.type, e.reason, e.message) for e in outcome.events] == [
        ("Warning", "NotReady", f"{reason}: why")
    ]


def test_ready_gives_the_first_reason_and_its_message() -> None:
    outcome = decided(stored(), keys=[("s", "k")], broken=[("Circle", "round and round")])
    assert reasons(outcome) == {
        "Accepted": "Valid", "ResolvedRefs": "SecretNotFound", "Reachable": "NotProbed",
        "Ready": "SecretNotFound",
    }  # fmt: skip
    outcome = decided(stored(), broken=[("Circle", "round"), ("WrongType", "square")])
    assert outcome.status is not None
    assert outcome.status["conditions"][-1]["message"] == "round (and 1 more)"


@pytest.mark.parametrize("wrong", [w for w in WRONG if w.kind == "ModelConfig"], ids=lambda w: w.field)
def test_what_slipped_past_the_api_server_is_told_in_the_loaders_words(wrong: Any) -> None:
    """A CRD of an earlier version may have let it in."""
    outcome = decided(stored(wrong.spec()))
    assert reasons(outcome)["Ready"] == "Invalid"
    assert outcome.status is not None
    assert outcome.status["conditions"][0]["message"].startswith(f"spec.{wrong.field}: ")


def test_a_very_long_message_is_cut() -> None:
    (only,) = conditions([Verdict("Ready", "False", "A", "x" * 10_000)], [], generation=1, now=T0)
    assert len(only["message"]) == 4096
