"""Counters whose series are there, at 0, before anything is counted.

Prometheus tells growth from two values of a series. One that begins with its first count has not grown:
`rate()` and `increase()` miss that count, and it may be the failure that an alert waits for.
"""

from collections.abc import Iterable
from itertools import product

from prometheus_client import Counter


def from_zero(counter: Counter, **values: Iterable[str]) -> Counter:
    """The counter, with a series for each combination of these values of all its labels.

    For labels with few values that are all known: each series costs memory here and in Prometheus. Where
    users make the values of one label, `BoundedLabels` says when there is a new one.
    """
    for row in product(*values.values()):
        counter.labels(**dict(zip(values, row, strict=True)))
    return counter
