"""Which evidence an answer rests on."""

import re
from collections.abc import Sequence

from orchestrator.core.model import Citation, Evidence

_MARK = re.compile(r"\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]")
_WORD = re.compile(r"[^\W_]{3,}")
_MIN_SHARED_WORDS = 3
_MIN_SHARE = 0.3  # of the answer's words; below it a chunk is rather beside the point
_MAX_ATTRIBUTED = 3


def cite(answer: str, evidence: Sequence[Evidence]) -> tuple[tuple[Citation, ...], list[int]]:
    """Links an answer to its evidence.

    Returns:
        The citations in the order of the answer's marks, and the numbers that
        no chunk has. Without any mark that is right, the chunks that share most
        words with the answer, marked as attributed rather than cited.
    """
    by_number = {e.number: e for e in evidence}
    numbers = list(
        dict.fromkeys(int(n) for marks in _MARK.findall(answer) for n in re.findall(r"\d+", marks))
    )
    cited = [n for n in numbers if n in by_number]
    unknown = [n for n in numbers if n not in by_number]
    if cited:
        return tuple(Citation(number=n, chunk=by_number[n].chunk, by_model=True) for n in cited), unknown
    return tuple(
        Citation(number=e.number, chunk=e.chunk, by_model=False) for e in _closest(answer, evidence)
    ), unknown


def _closest(answer: str, evidence: Sequence[Evidence]) -> list[Evidence]:
    words = set(_WORD.findall(answer.casefold()))
    scored = []
    for item in evidence:
        shared = len(words & set(_WORD.findall(item.chunk.text.casefold())))
        if shared >= _MIN_SHARED_WORDS and shared >= _MIN_SHARE * len(words):
            scored.append((-shared, item.number, item))
    return [item for _, _, item in sorted(scored, key=lambda row: row[:2])[:_MAX_ATTRIBUTED]]
