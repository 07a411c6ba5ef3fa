"""The marks `[n]` of an answer, checked against the passages that they name.

A small model answers from the evidence, but it often forgets to say which
passage it used, or names the wrong one. What it wrote is compared with the
passages by the words they share, the rare ones counting most: a mark is
replaced where another passage fits at least twice as well, and an answer
without any gets one at its end. An answer that shares too little with all
passages gets none, because it did not come from there.
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
# How much better another passage must fit before the model's own mark is overruled.
OVERRULE = 2.0

_MARK = re.compile(r"\[(\d+)\]")
_UNFINISHED = re.compile(r"\[\d{0,4}$")
_MARKED_TEXT = re.compile(r"(.*?)((?:\s*\[\d+\])+)", re.DOTALL)


class Marks:
    """Checks the marks of one answer while it streams by; holds back at most an unfinished mark."""

    def __init__(self, messages: Sequence[Message]) -> None:
        self._sources = [(mark, set(stems(text))) for mark, text in _sources(messages)]
        self._frequency = Counter(stem for _, bag in self._sources for stem in bag)
        self._held = ""
        self._last = ""
        self._segment = ""
        self._whole = ""
        self._written: list[str] = []

    @property
    def needed(self) -> bool:
        """Says whether there are passages to compare with."""
        return bool(self._sources)

    def feed(self, piece: str) -> str:
        """Takes the next piece of the answer and returns what may be shown."""
        text, shown = self._held + piece, ""
        while match := _MARK.search(text):
            shown += self._take(text[: match.start()])
            # An index such as `rows[1]` is code, not a mark.
            is_mark = not (self._last.isalnum() or self._last in ")_`")
            shown += self._checked(match.group()) if is_mark else self._take(match.group())
            self._last = "]"
            text = text[match.end() :]
        unfinished = _UNFINISHED.search(text)
        cut = unfinished.start() if unfinished else len(text)
        self._held = text[cut:]
        return shown + self._take(text[:cut])

    def finish(self) -> str:
        """Returns what is left to show, with a mark for an answer that has none."""
        rest = self._take(self._held)
        if self._written or (best := self._best(self._whole)) is None:
            return rest
        return f"{rest} {best}"

    def _take(self, text: str) -> str:
        self._segment += text
        self._whole += text
        self._last = text[-1:] or self._last
        return text

    def _checked(self, mark: str) -> str:
        text = self._segment if stems(self._segment) else self._whole
        best = self._best(text)
        own = set(stems(text))
        claimed = max((self._weight(bag & own) for name, bag in self._sources if mark in name), default=0.0)
        if best is not None and claimed * OVERRULE <= max(
            self._weight(bag & own) for _, bag in self._sources
        ):
            mark = best
        repeated = not stems(self._segment) and mark in self._written[-1:]
        self._segment = ""
        if repeated:
            return ""
        self._written.append(mark)
        return mark

    def _best(self, text: str) -> str | None:
        own = set(stems(text))
        if not self._sources or not own:
            return None
        mark, bag = max(self._sources, key=lambda source: self._weight(source[1] & own))
        return mark if len(bag & own) >= MIN_SHARE * len(own) else None

    def _weight(self, shared: set[str]) -> float:
        return sum(math.log(1 + len(self._sources) / self._frequency[stem]) for stem in shared)


def _sources(messages: Sequence[Message]) -> list[tuple[str, str]]:
    """Marks with the text that stands for each: evidence, and what earlier answers said before a mark."""
    sources = [(f"[{chunk.number}]", chunk.text) for chunk in conversation.evidence(messages) or ()]
    for result in conversation.results(messages):
        if "<evidence>" not in result.text:
            for said, marks in _MARKED_TEXT.findall(result.text):
                sources.append(("".join(f"[{number}]" for number in _MARK.findall(marks)), said))
    return sources
