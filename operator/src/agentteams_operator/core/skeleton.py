"""What a spec refers to, without the rest: of old revisions nothing else is needed, and texts are long."""

from collections.abc import Mapping, Sequence
from typing import Any


def skeleton(value: Any) -> Any:
    """The branches that end in a reference (a field called ...Ref or ...Refs); None: there is none."""
    if isinstance(value, Mapping):
        kept = {
            name: below if name.lower().endswith(("ref", "refs")) else skeleton(below)
            for name, below in value.items()
        }
        return {name: below for name, below in kept.items() if below is not None} or None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [below for one in value if (below := skeleton(one)) is not None] or None
    return None
