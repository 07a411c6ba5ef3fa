"""What keyword search compares: the words of a text, alike in stored chunks and in queries.

Done here and not by the store's analyzer, so that the same words are found on every store: Milvus Lite
has no stemming, and servers cut words in other places. On SciFact stemming gives BM25 .03 of nDCG@10.
"""

import re
import threading
from collections.abc import Iterator

import Stemmer

# Letters and digits of any script: `_`, `/` and `.` part words, so that a part of a name finds the whole.
_WORD = re.compile(r"[^\W_]+")
# Scripts that do not part words by spaces: two characters at a time, as is common for them.
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
_MAX_WORD_CHARACTERS = 64  # longer ones are not words, and nobody asks for them

# Lucene's list: each is in nearly every text, so it tells nothing and costs most.
_COMMON = frozenset(
    [
        *("a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it"),
        *("no", "not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they"),
        *("this", "to", "was", "will", "with"),
    ]
)

_local = threading.local()


def words(text: str) -> list[str]:
    """In the order of the text, each as often as it stands there.

    Every word is in small letters and without its English ending; words of other languages keep theirs,
    mostly. Chinese and Japanese give pairs of characters.
    """
    return _stemmed(_found(text))


def query_words(text: str) -> list[str]:
    """Those of a query: without the commonest, unless it has no others."""
    found = _found(text)
    return _stemmed([word for word in found if word not in _COMMON] or found)


def _found(text: str) -> list[str]:
    found = _WORD.findall(text.lower())
    if _UNSPACED.search(text):
        found = [part for word in found for part in _parted(word)]
    return [word[:_MAX_WORD_CHARACTERS] for word in found]


def _parted(word: str) -> Iterator[str]:
    end = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > end:
            yield word[end : run.start()]
        yield from _pairs(run[0])
        end = run.end()
    if end < len(word):
        yield word[end:]


def _pairs(run: str) -> Iterator[str]:
    if len(run) == 1:
        yield run
    for start in range(len(run) - 1):
        yield run[start : start + 2]


def _stemmed(found: list[str]) -> list[str]:
    # One a thread: a stemmer keeps a cache that is not to be shared.
    if not hasattr(_local, "stemmer"):
        _local.stemmer = Stemmer.Stemmer("english")
    stems: list[str] = _local.stemmer.stemWords(found)
    return stems
