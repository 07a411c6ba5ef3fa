"""What the operator says about itself. docs/telemetry.md has the list."""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from agentteams_operator.core.objects import OURS, Key, Stored

RECONCILES = Counter(
    "agentteams_operator_reconciles_total", "Looks at objects, by how they ended", ["kind", "outcome"]
)
OUTCOMES = ("done", "gone", "conflict", "refused", "unavailable", "failed")
RECONCILE_SECONDS = Histogram(
    "agentteams_operator_reconcile_seconds",
    "Wall time of a look at an object: observe, decide, apply",
    ["kind"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
QUEUE_WAIT_SECONDS = Histogram(
    "agentteams_operator_queue_wait_seconds",
    "From the change of an object until it is looked at",
    buckets=(0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
LEADER = Gauge("agentteams_operator_leader", "1 while this process holds the lease and works")
WATCHES_BEGUN = Counter(
    "agentteams_operator_watches_begun_total", "Watches of the API server, begun or begun anew", ["resource"]
)

_MOST_TYPES = 20
"""Types of conditions of one kind. Ours are fewer; others may write conditions too."""
_STATUSES = ("True", "False", "Unknown")


class State(Collector):
    """Counts at each scrape what waits and what there is, in the thread that serves it.

    Args:
        objects: Ours, a new list at each call.
        waiting: How many keys wait for their turn.
        retrying: The keys that are tried again.
    """

    def __init__(
        self,
        *,
        objects: Callable[[], Iterable[Stored]],
        waiting: Callable[[], int],
        retrying: Callable[[], Mapping[Key, int]],
    ) -> None:
        self._objects = objects
        self._waiting = waiting
        self._retrying = retrying

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """As Prometheus asks."""
        waiting = GaugeMetricFamily("agentteams_operator_queue_keys", "Objects that wait for their turn")
        waiting.add_metric([], self._waiting())
        retrying = GaugeMetricFamily(
            "agentteams_operator_retrying_objects", "Objects whose last look failed", labels=["kind"]
        )
        _add_kinds(retrying, Tally(key.kind for key in list(self._retrying())))
        kinds, conditions = Tally[str](), Tally[tuple[str, str, str]]()
        for one in self._objects():
            kinds[one.key.kind] += 1
            for condition in one.status.get("conditions", ()):
                status = condition.get("status")
                known = status if status in _STATUSES else "Unknown"
                conditions[one.key.kind, str(condition.get("type")), known] += 1
        objects = GaugeMetricFamily("agentteams_operator_objects", "Objects that there are", labels=["kind"])
        _add_kinds(objects, kinds)
        yield from (waiting, retrying, objects, _conditions(conditions))


def _add_kinds(family: GaugeMetricFamily, counts: Mapping[str, int]) -> None:
    """Zeroes too: an alert must tell "none" from "not scraped"."""
    for kind in dict.fromkeys((*OURS, *counts)):
        family.add_metric([kind], counts.get(kind, 0))


def _conditions(counts: Mapping[tuple[str, str, str], int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "agentteams_operator_conditions",
        "Objects by what their conditions say",
        labels=["kind", "condition", "status"],
    )
    types: dict[str, set[str]] = {}
    for kind, condition, status in sorted(counts, key=lambda label: (-counts[label], label)):
        seen = types.setdefault(kind, set())
        if condition in seen or len(seen) < _MOST_TYPES:
            seen.add(condition)
            family.add_metric([kind, condition, status], counts[kind, condition, status])
    return family
