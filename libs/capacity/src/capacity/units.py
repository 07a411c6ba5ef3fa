"""Numbers as people write them: 10M, 1e7, 16Gi, 95%."""

import math
import re

_NUMBER = re.compile(r"\s*([0-9][0-9_,]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]{1,3})?|\.[0-9]+)\s*([A-Za-z%]*)\s*")
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_BYTES = {
    "": 1,
    **{unit: 1000**n for n, unit in enumerate(("k", "m", "g", "t"), 1)},
    **{f"{unit}i": 1024**n for n, unit in enumerate(("k", "m", "g", "t"), 1)},
}
_LARGEST = 10**15


class BadInput(ValueError):
    """A value that makes no sense.

    Attributes:
        field: Which one.
        value: What was given.
        fix: What would be right.
    """

    def __init__(self, field: str, value: object, fix: str) -> None:
        super().__init__(f"{field} {value}: {fix}")
        self.field = field
        self.value = value
        self.fix = fix


def parse_count(field: str, text: str, *, smallest: int = 1, largest: int = _LARGEST) -> int:
    """10M, 1e7, 10_000_000 and 10,000,000 are the same."""
    return _whole(
        field, text, _COUNTS, example="a number such as 250000, 10M or 1e7", bounds=(smallest, largest)
    )


def parse_bytes(field: str, text: str, *, smallest: int = 0, largest: int = _LARGEST) -> int:
    """1500, 1.5k, 16Gi; a B at the end changes nothing."""
    plain = text.strip()
    if len(plain) > 1 and plain[-1] in "bB":
        plain = plain[:-1]
    return _whole(field, plain, _BYTES, example="a size such as 1500, 4k or 16Gi", bounds=(smallest, largest))


def parse_share(field: str, text: str, *, smallest: float, largest: float) -> float:
    """0.95, .95 and 95% are the same."""
    bounds = f"must be {smallest:g} to {largest:g}, or in percent such as 95%"
    found = _NUMBER.fullmatch(text)
    if found is None or found[2] not in ("", "%"):
        raise BadInput(field, text, bounds)
    value = float(found[1].replace(",", "").replace("_", ""))
    if found[2] == "%":
        value /= 100
    if not smallest <= value <= largest:
        raise BadInput(field, text, bounds)
    return value


def show_bytes(value: float) -> str:
    """Three digits and a unit: 45.2 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.0f} TiB" if value >= 100 else f"{value:.3g} TiB"


def show_count(value: int) -> str:
    """With commas; millions from ten of them on."""
    if value >= 10_000_000 and value % 100_000 == 0:
        return f"{value / 1e6:,g} million"
    return f"{value:,}"


def _whole(field: str, text: str, units: dict[str, int], *, example: str, bounds: tuple[int, int]) -> int:
    found = _NUMBER.fullmatch(text)
    unit = units.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise BadInput(field, text, f"must be {example}")
    value = float(found[1].replace(",", "").replace("_", "")) * unit
    if not math.isfinite(value) or value != round(value):
        raise BadInput(field, text, f"must be a whole number, such as {example.partition('such as ')[2]}")
    smallest, largest = bounds
    if not smallest <= value <= largest:
        raise BadInput(field, text, f"must be {smallest:,} to {largest:,}")
    return round(value)
