"""Which evidence an answer rests on."""

import re
from collections.abc import Sequence

from orchestrator.core.model import Citation, Evidence

_MARK = re.compile(r"\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]")
_WORD = re.compile(r"[^\W_]{3,}")
_MIN_SHARED_WORDS = 3
_MIN_SHARE = 0.3  # of the answer's words; below it a chunk is rather beside the point
_MAX_ATTRIBUTED = 3
_OVERRULE = 2  # a small model often names the chunk beside the one that it used


def cite(answer: str, evidence: Sequence[Evidence]) -> tuple[tuple[Citation, ...], list[int]]:
    """Links an answer to its evidence.

    Returns:
        The citations in the order of the answer's marks, and the numbers that
        no chunk has. After them, marked as attributed rather than cited: the
        chunk that the answer shares far more words with than with any that it
        names, or, without any right mark, the chunks that it shares most with.
    """
    by_number = {e.number: e for e in evidence}
    numbers = list(
        dict.fromkeys(int(n) for marks in _MARK.findall(answer) for n in re.findall(r"\d+", marks))
    )
    cited = [n for n in numbers if n in by_number]
    unknown = [n for n in numbers if n not in by_number]
    closest = _closest(answer, evidence)
    if cited:
        most = _OVERRULE * max(_shared(answer, by_number[n]) for n in cited)
        closest = [e for e in closest[:1] if e.number not in cited and _shared(answer, e) >= most]
    citations = [Citation(number=n, chunk=by_number[n].chunk, by_model=True) for n in cited]
    citations += [Citation(number=e.number, chunk=e.chunk, by_model=False) for e in closest]
    return tuple(citations), unknown


def _closest(answer: str, evidence: Sequence[Evidence]) -> list[Evidence]:
    least = max(_MIN_SHARED_WORDS, _MIN_SHARE * len(_words(answer)))
    scored = [(-_shared(answer, item), item.number, item) for item in evidence]
    return [item for shared, _, item in sorted(scored, key=lambda row: row[:2]) if -shared >= least][
        :_MAX_ATTRIBUTED
    ]


def _shared(answer: str, evidence: Evidence) -> int:
    return len(_words(answer) & _words(evidence.chunk.text))


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.casefold()))
