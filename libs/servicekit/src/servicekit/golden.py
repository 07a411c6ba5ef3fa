"""Which questions a golden set of a team has, as a hash that the services agree on."""

import hashlib
import json
from collections.abc import Iterable, Sequence


def fingerprint(questions: Iterable[tuple[str, str, Sequence[str], Sequence[str]]]) -> str:
    """The same for the same questions in any order.

    Args:
        questions: Id, text, sources and facts of each.
    """
    rows = sorted([id_, text, sorted(sources), sorted(facts)] for id_, text, sources, facts in questions)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
