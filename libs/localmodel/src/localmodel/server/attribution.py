"""Marks for an answer that came without any.

A small model often answers from the evidence and forgets to say which passage
it used. The passage that shares the most, and rarest, words with the answer is
then named at its end; an answer that shares too little with all of them gets
no mark, because it did not come from there.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence

from localmodel.server import conversation
from localmodel.server.extractive import stems
from localmodel.server.wire import Message

# Below this share of its own words an answer is not from the passage; paraphrases keep a fifth to a half.
MIN_SHARE = 0.15

_MARK = re.compile(r"\[\d+\]")
_SENTENCE = re.compile(r"(?<=[.!?\]])\s+")


def missing_mark(answer: str, messages: Sequence[Message]) -> str:
    """Returns what to append to the answer: a mark such as ` [2]`, or nothing."""
    if _MARK.search(answer):
        return ""
    sources = _sources(messages)
    own = set(stems(answer))
    if not sources or not own:
        return ""
    bags = [set(stems(text)) for text, _ in sources]
    frequency = Counter(stem for bag in bags for stem in bag)

    def weight(found: set[str]) -> float:
        return sum(math.log(1 + len(bags) / frequency[stem]) for stem in found if stem in frequency)

    best = max(range(len(bags)), key=lambda index: weight(bags[index] & own))
    if len(bags[best] & own) < MIN_SHARE * len(own):
        return ""
    return f" {sources[best][1]}"


def _sources(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Texts with their marks: evidence, and sentences of earlier answers that carry marks."""
    sources = [(chunk.text, f"[{chunk.number}]") for chunk in conversation.evidence(messages) or ()]
    for result in conversation.results(messages):
        if "<evidence>" not in result.text:
            sources += [
                (sentence, "".join(dict.fromkeys(_MARK.findall(sentence))))
                for sentence in _SENTENCE.split(result.text)
                if _MARK.search(sentence)
            ]
    return sources
