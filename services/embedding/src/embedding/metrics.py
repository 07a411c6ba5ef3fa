"""What the service counts; `agentteams_rpc_duration_seconds` comes from servicekit."""

from prometheus_client import Counter, Gauge, Histogram

from embedding.core.ports import TextKind
from servicekit.counters import from_zero

_KINDS = [kind.value for kind in TextKind]
_LABELS = ("provider", "kind")  # onnx or openai; query or passage
# A query in the local model 0.002 s, 256 long passages in it 20 s.
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

TEXTS = Counter("agentteams_embedding_texts_total", "Texts embedded", _LABELS)
TOKENS = Counter("agentteams_embedding_tokens_total", "Tokens read", _LABELS)
TRUNCATED = Counter(
    "agentteams_embedding_truncated_texts_total", "Texts longer than the model reads", _LABELS
)
SECONDS = Histogram(
    "agentteams_embedding_seconds", "Wall time of one Embed, waiting included", _LABELS, buckets=_BUCKETS
)
RERANK_SECONDS = Histogram(
    "agentteams_embedding_rerank_seconds", "Wall time of one Rerank, waiting included", buckets=_BUCKETS
)
BATCH_TEXTS = Histogram(
    "agentteams_embedding_batch_texts",
    "Texts of small calls that went to the model together",
    ["provider"],
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
QUEUED = Gauge("agentteams_embedding_queued_texts", "Texts waiting or being embedded", ["provider"])
REMEMBERED = Counter(
    "agentteams_embedding_cache_texts_total",
    "Texts by how they were come by: hit (remembered), shared (in flight already), miss (embedded)",
    ("kind", "outcome"),
)
from_zero(REMEMBERED, kind=_KINDS, outcome=("hit", "shared", "miss"))
CACHE_BYTES = Gauge("agentteams_embedding_cache_bytes", "Bytes of the vectors that are remembered")


def provider_known(provider: str) -> None:
    """A model of that provider is open."""
    for counter in (TEXTS, TOKENS, TRUNCATED):
        from_zero(counter, provider=[provider], kind=_KINDS)
