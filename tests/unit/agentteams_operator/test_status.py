"""What a status says, without a server."""

from datetime import UTC, datetime
from typing import Any

from agentteams_operator.core.decide.knowledge import ObservedKnowledge, decide_knowledge
from agentteams_operator.core.objects import Key, Stored
from agentteams_operator.core.ports import KnowledgeState
from agentteams_operator.core.reading import Reader
from tests.unit.agentteams_operator.test_decide_team import decided

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_rotated_secret_changes_the_hash_of_a_team_and_is_told() -> None:
    def with_value(digest: str) -> dict[str, Any]:
        key = Key("Secret", "n", "s")
        return {"s": Stored(key=key, uid="u", version="1", hashes={"k": digest})}

    first = decided(secrets=with_value("1"), keys=[("s", "k")])
    again = decided(status=first.status, secrets=with_value("1"), keys=[("s", "k")])
    other = decided(status=first.status, secrets=with_value("2"), keys=[("s", "k")])
    assert first.status is not None
    assert again.status is not None
    assert other.status is not None
    assert first.status["secretHash"] == again.status["secretHash"] != other.status["secretHash"]
    assert [e.reason for e in again.events] == []
    assert [e.reason for e in other.events] == ["SecretRotated"]


def test_a_knowledge_base_says_what_it_is_made_of_and_why_it_is_ready() -> None:
    spec = {"embedding": {"modelConfigRef": {"name": "e"}}}
    key = Key("KnowledgeBase", "n", "docs")
    one = Stored(key=key, uid="u", version="1", generation=7, content={"spec": spec})
    state = KnowledgeState(
        model="e", dimensions=8, fingerprint="f00d", deployment="Lite", documents=12, chunks=40, pending=0,
        failed=0,
    )  # fmt: skip
    read = Reader(lambda key: None).read(one)
    status = decide_knowledge(ObservedKnowledge(one=one, read=read, state=state), NOW).status
    assert status is not None
    assert status["embedding"] == {"model": "e", "dimensions": 8, "fingerprint": "f00d"}
    assert status["observedGeneration"] == 7
    ready = next(c for c in status["conditions"] if c["type"] == "Ready")
    assert (ready["message"], ready["observedGeneration"]) == ("12 documents can be found", 7)
