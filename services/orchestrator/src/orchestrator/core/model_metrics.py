"""What calls of models count."""

from prometheus_client import Counter

from servicekit.counters import from_zero
from servicekit.errors import ServiceError

CALLS = Counter(
    "agentteams_model_calls_total",
    "Requests to models, and calls that were refused before one was made",
    ["model_config", "outcome"],
)
FALLBACKS = Counter(
    "agentteams_model_fallbacks_total", "Model calls that were put to the next model", ["model_config"]
)
TOKENS = Counter("agentteams_model_tokens_total", "Tokens read and written", ["model_config", "kind"])
COST = Counter(
    "agentteams_model_cost_micros_total",
    "What models cost, in millionths of the currency",
    ["model_config", "currency"],
)

_FAILED = {
    "MODEL_UNAVAILABLE": "unavailable",
    "MODEL_RATE_LIMITED": "rate_limited",
    "MODEL_REJECTED": "rejected",
    "MODEL_BAD_RESPONSE": "bad_response",
}
_OTHERWISE = "other"


def outcome_of(error: ServiceError) -> str:
    """What a request that failed counts as."""
    return _FAILED.get(error.reason, _OTHERWISE)


def begin_at_zero(model_config: str) -> None:
    """A ModelConfig that calls are to be expected of."""
    outcomes = ("ok", "refused", *_FAILED.values(), _OTHERWISE)
    from_zero(CALLS, model_config=[model_config], outcome=outcomes)
    from_zero(FALLBACKS, model_config=[model_config])
    from_zero(TOKENS, model_config=[model_config], kind=("input", "output"))
