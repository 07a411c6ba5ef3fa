"""Metric labels whose values users make: the first so many of a process, then `other`."""

OTHER = "other"


class BoundedLabels:
    """Values that a label may have.

    Args:
        most: How many; what comes after them is called `other`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """The value itself, or `other`."""
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(value)
        return value
