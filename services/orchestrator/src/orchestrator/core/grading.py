"""How well what was found fits what was asked: words, and the similarity where one is known.

The figures are measured (bench/grades.py, docs/evidence.md).
"""

import re
from collections.abc import Iterable, Iterator

from orchestrator.core.model import Chunk, Grade

_LOOKED_AT = 4  # chunks: the best ones decide
_MIN_COVERAGE = (
    0.5  # of the query's words; of searches that find the answer, 1 (by words) to 4 (hybrid) in 100 have less
)
_MIN_SIMILARITY = 0.45  # cosine; nothing beside the point came nearer than 0.41
_STEM = 6  # letters that decide whether two words are the same
_MAX_KEYWORDS = 24
_WORD = re.compile(r"[^\W_]+")
_IDEOGRAPHS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
_COMMON_WORDS = (
    "a an the and or of to in on for with is are was were be been do does did how what which who whom "
    "whose when where why can could should would will may might must shall at by from as it its this "
    "that these those there their they them you your we our us i me my he she his her not no nor if "
    "than then so into over about between after before during has have had having also only just very "
    "more most much many long some any all tell give find show get explain describe please information "
    "details thing things something anything der die das den dem des ein eine einer eines und oder ist "
    "sind war wie wer wo wann warum welche le la les un une des et ou est sont que qui quoi quand "
    "comment el los las uno una y o es son como"
)
_COMMON = frozenset(_COMMON_WORDS.split())


def grade(query: str, chunks: Iterable[Chunk], *, similarity: float | None = None) -> Grade:
    """Whether chunks, best first, fit a query. A query without words of its own cannot be judged: STRONG.

    `similarity` is the least cosine that the best of them is known to have.
    """
    best = list(chunks)[:_LOOKED_AT]
    if not best:
        return ""
    wanted = _stems(query)
    if not wanted or (similarity is not None and similarity >= _MIN_SIMILARITY):
        return "STRONG"
    have = set().union(*(_stems(f"{chunk.title} {chunk.text}") for chunk in best))
    return "STRONG" if len(wanted & have) >= _MIN_COVERAGE * len(wanted) else "WEAK"


def rewritten(query: str, question: str) -> str:
    """Other words for a search that found little: those that mean something, of the query and the question.

    Empty if that is the query itself.
    """
    words = list(dict.fromkeys([*keywords(query), *keywords(question)]))[:_MAX_KEYWORDS]
    text = " ".join(words)
    return "" if text == " ".join(word.casefold() for word in _WORD.findall(query)) else text


def _stems(text: str) -> set[str]:
    return {word.rstrip("s")[:_STEM] or word for word in keywords(text)}


def keywords(text: str) -> Iterator[str]:
    for word in _WORD.findall(text.casefold()):
        if _IDEOGRAPHS.search(word):
            # No blanks between words: pairs of characters instead.
            yield from (word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif len(word) > 1 and word not in _COMMON:
            yield word
