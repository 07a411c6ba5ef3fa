"""What the gateway counts."""

from prometheus_client import Counter, Gauge, Histogram

# From a refused request to a long run.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)

REQUEST_SECONDS = Histogram(
    "agentteams_http_request_duration_seconds",
    "Wall time of a request to /v1/chat/completions, to its last byte",
    ["stream", "code"],
    buckets=_BUCKETS,
)
FIRST_TEXT_SECONDS = Histogram(
    "agentteams_http_first_text_seconds",
    "From a streamed request to the first piece of its answer",
    buckets=_BUCKETS,
)
OPEN_TURNS = Gauge("agentteams_http_open_turns", "Questions that are being answered")
DISCONNECTS = Counter("agentteams_http_client_disconnects_total", "Clients gone before their answer")
