"""Whether a collection is too large for the Milvus that holds it."""

from dataclasses import dataclass
from datetime import timedelta

from capacity.memory import Memory
from capacity.plan import LITE_ROWS, LITE_US_A_ROW, LOAD_LIMIT, USABLE, Deployment
from capacity.units import show_bytes

_SOON = 0.5  # of a bound: time to think about it
_SLOW = timedelta(milliseconds=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do about it.

    Attributes:
        at_risk: It is too large, or will be if it doubles.
        text: What to do and why; empty: nothing.
    """

    at_risk: bool
    text: str


def advise(
    *,
    deployment: Deployment,
    rows: int,
    memory: Memory,
    node_bytes: int | None = None,
    used_bytes: int | None = None,
    p50: timedelta | None = None,
) -> Advice:
    """The advice.

    Args:
        node_bytes: Memory of all query nodes together; None: not known.
        used_bytes: Of it, by all collections; None: not known.
        p50: Median of a measured search.
    """
    if deployment == Deployment.LITE:
        return _lite(rows, p50)
    full = None if node_bytes is None else _full(memory.total, used_bytes, node_bytes)
    if full is not None:
        return full
    if p50 is not None and p50 > _SLOW:
        return Advice(
            at_risk=False,
            text=f"half of the searches take over {_ms(p50)} ms: add replicas, or lower the target recall",
        )
    return Advice(at_risk=False, text="")


def _full(needed: int, used: int | None, node_bytes: int) -> Advice | None:
    """Whichever is more: what the rows will take, or what is taken now, by other collections too."""
    bound = USABLE * node_bytes
    if needed > bound:
        what = f"these rows take about {show_bytes(needed)}"
    elif used is not None and used > bound:
        what = f"all collections together take {show_bytes(used)}"
    else:
        return None
    return Advice(
        at_risk=True,
        text=f"{what} of the {show_bytes(node_bytes)} that Milvus has: above {LOAD_LIMIT:.0%} it loads "
        "nothing more. Add query nodes or memory; `agentteams plan` says how much",
    )


def _lite(rows: int, p50: timedelta | None) -> Advice:
    floor_ms = rows * LITE_US_A_ROW / 1000
    why = (
        f"Milvus Lite goes through all {rows:,} rows for every search, about {floor_ms:.0f} ms, one search "
        "after the other and whatever the index"
    )
    if rows > LITE_ROWS:
        return Advice(at_risk=True, text=f"move to Milvus Standalone: {why}")
    if p50 is not None and p50 > _SLOW:
        return Advice(
            at_risk=True,
            text=f"move to Milvus Standalone: half of the searches took over {_ms(p50)} ms. {why}",
        )
    if rows > LITE_ROWS * _SOON:
        return Advice(
            at_risk=True, text=f"plan the move to Milvus Standalone, before {LITE_ROWS:,} rows: {why}"
        )
    return Advice(at_risk=False, text="")


def _ms(value: timedelta) -> str:
    return f"{value.total_seconds() * 1000:.0f}"
