"""What a dashboard shows, as data: grafana.py makes Grafana's JSON of it, bench/dashboards.py pictures."""

from dataclasses import dataclass
from enum import StrEnum

# What Grafana puts in where it asks Prometheus: a window that no scrape is missing from.
INTERVAL = "$__rate_interval"


class Kind(StrEnum):
    """How a panel draws its series."""

    LINES = "lines"
    STACKED = "stacked"
    STAT = "stat"
    BARS = "bars"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A PromQL expression and what its series are called: `{{label}}` is a label's value."""

    expr: str
    legend: str = ""
    exemplars: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture with its question in the title and the reading of it in the description."""

    title: str
    description: str
    unit: str  # Grafana's unit ids: s, reqps, percentunit, short, bytes, currencyUSD ...
    queries: tuple[Query, ...]
    kind: Kind = Kind.LINES
    width: int = 8  # of 24
    red_above: float | None = None
    red_below: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One dashboard. With `by_team` its user chooses teams, `$team` in expressions."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]
    by_team: bool = False

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All of them, in reading order."""
        return tuple(panel for row in self.rows for panel in row.panels)


def rate(metric: str, *, by: str = "", where: str = "") -> str:
    """Per second, summed over the processes."""
    return f"sum{_by(by)}(rate({metric}{_where(where)}[{INTERVAL}]))"


def ratio(part: str, whole: str) -> str:
    """Part of a whole; nothing while there is no whole, since 0 of 0 is neither good nor bad."""
    return f"{part} / ({whole} > 0)"


def quantile(q: float, metric: str, *, by: str = "", where: str = "") -> str:
    """A quantile of a histogram over all processes; `metric` without `_bucket`."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels})(rate({metric}_bucket{_where(where)}[{INTERVAL}])))"


def quantiles(metric: str, *, where: str = "", exemplars: bool = False) -> tuple[Query, ...]:
    """p50, p95 and p99 of a histogram."""
    return tuple(
        Query(expr=quantile(q, metric, where=where), legend=f"p{q * 100:g}", exemplars=exemplars)
        for q in (0.5, 0.95, 0.99)
    )


def mean(metric: str, *, by: str = "", where: str = "") -> str:
    """Mean of a histogram's observations."""
    return ratio(rate(f"{metric}_sum", by=by, where=where), rate(f"{metric}_count", by=by, where=where))


def _by(labels: str) -> str:
    return f" by ({labels}) " if labels else " "


def _where(matchers: str) -> str:
    return f"{{{matchers}}}" if matchers else ""
