"""Which evidence an answer rests on."""

import re
from collections import Counter
from collections.abc import Sequence

from orchestrator.core.model import Citation, Evidence

_MARK = re.compile(r"\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]")
_WORD = re.compile(r"[^\W_]{3,}|\d+")
_NUMBER = re.compile(r"\d+")
_MIN_SHARED_WORDS = 3
_MIN_SHARE = 0.3  # of the answer's words; below it a chunk is rather beside the point
_MAX_ATTRIBUTED = 3
_OVERRULE = 2  # a small model often names the chunk beside the one that it used


def cite(answer: str, evidence: Sequence[Evidence]) -> tuple[tuple[Citation, ...], list[int]]:
    """Links an answer to its evidence.

    Returns:
        The citations in the order of the answer's marks, and the numbers that
        no chunk has. After them, marked as attributed rather than cited: the
        chunk that fits far better than any that the answer names, or, without
        any right mark, the chunks that it shares most words with.
    """
    by_number = {e.number: e for e in evidence}
    numbers = list(
        dict.fromkeys(int(n) for marks in _MARK.findall(answer) for n in re.findall(r"\d+", marks))
    )
    cited = [n for n in numbers if n in by_number]
    unknown = [n for n in numbers if n not in by_number]
    text = _MARK.sub("", answer)
    named = [by_number[n] for n in cited]
    closest = _better(text, named, evidence) if named else _closest(text, evidence)
    citations = [Citation(number=n, chunk=by_number[n].chunk, by_model=True) for n in cited]
    citations += [Citation(number=e.number, chunk=e.chunk, by_model=False) for e in closest]
    return tuple(citations), unknown


def _better(text: str, cited: Sequence[Evidence], evidence: Sequence[Evidence]) -> list[Evidence]:
    """The chunk that the answer must have been made of, if none of the cited ones can be it.

    Words count the more the fewer chunks have them. A number of the answer that
    no cited chunk has was taken from one that has it.
    """
    words = {e.number: _words(e.chunk.text) for e in evidence}
    said = _words(text)
    chunks_with = Counter(word for own in words.values() for word in said & own)
    fit = {n: sum(1 / chunks_with[word] for word in said & own) for n, own in words.items()}
    others = [e for e in evidence if e not in cited]
    if not others:
        return []
    named: set[str] = set().union(*(words[e.number] for e in cited))
    missing = {word for word in said - named if _NUMBER.fullmatch(word)}

    def rank(item: Evidence) -> tuple[int, float]:
        return len(missing & words[item.number]), fit[item.number]

    best = max(others, key=rank)
    far_better = fit[best.number] >= _OVERRULE * max(fit[e.number] for e in cited)
    has_the_numbers = rank(best)[0] > 0 and len(said & words[best.number]) >= _MIN_SHARED_WORDS
    enough = len(said & words[best.number]) >= max(_MIN_SHARED_WORDS, _MIN_SHARE * len(said))
    return [best] if has_the_numbers or (far_better and enough) else []


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
