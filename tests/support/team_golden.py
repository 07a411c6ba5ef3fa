"""What the operator's golden sets of teams need: ConfigMaps, and a session service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentteams_operator.core.objects import CONFIG_MAP, Key, Stored
from agentteams_operator.core.objects import stored as as_stored
from agentteams_operator.core.ports import GoldenState, KnowledgeRefused, ScoresUnavailable
from manifests.golden_questions import GoldenQuestion


@dataclass
class FakeConfigMaps:
    """As the cache and the API server have them."""

    known: dict[str, Mapping[str, str]] = field(default_factory=dict)
    reads: int = 0

    def find(self, key: Key) -> Stored | None:
        """Only hashes, as of the cache."""
        if key.kind != CONFIG_MAP or key.name not in self.known:
            return None
        metadata = {"name": key.name, "namespace": key.namespace, "uid": "c", "resourceVersion": "1"}
        return as_stored({"kind": "ConfigMap", "metadata": metadata, "data": dict(self.known[key.name])})

    async def config_map(self, namespace: str, name: str) -> Mapping[str, str]:
        """See ConfigMaps."""
        self.reads += 1
        return self.known[name]


@dataclass
class FakeGoldenSets:
    """See TeamGoldenSets."""

    state: GoldenState | None = None
    puts: list[tuple[str, str, str, list[str]]] = field(default_factory=list)
    silent: str = ""
    refused: str = ""

    async def get(self, namespace: str, team: str) -> GoldenState | None:
        """See TeamGoldenSets."""
        if self.silent:
            raise ScoresUnavailable(self.silent)
        return self.state

    async def put(
        self, namespace: str, team: str, *, name: str, questions: Sequence[GoldenQuestion]
    ) -> GoldenState:
        """See TeamGoldenSets."""
        if self.refused:
            raise KnowledgeRefused(self.refused)
        self.puts.append((namespace, team, name, [one.question for one in questions]))
        self.state = GoldenState(name=name, sha256=f"sha {len(self.puts)}", questions=len(questions))
        return self.state
