"""An answer, taken apart: its sentences, what they cite, and which of them claim something."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

MAX_SENTENCES = 500  # of one answer; what follows is not looked at

_MARK = re.compile(r"\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]")
_NUMBER = re.compile(r"\d+")
# Marks after the full stop still belong to the sentence before it.
_END = re.compile(r"[.!?…。！？]+[\"'”’)\]]*(?:\s*\[\d{1,4}(?:\s*,\s*\d{1,4})*\])*(?=\s|$)")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:e\.g|i\.e|etc|cf|vs|approx|ca|no|nr|fig|eq|vol|pp?|dr|mr|mrs|ms|prof|st|inc|ltd|al|"
    r"z\.b|d\.h|bzw|usw|[a-z])\.$",
    re.IGNORECASE,
)
_LEAD = re.compile(r"\s*(?:[-*+•]\s+|\d{1,3}[.)]\s+|>\s*)*")
_MARKUP = re.compile(r"\*\*|__|`")
_WORD = re.compile(r"[^\W_]+")
_GREETING = re.compile(
    r"(?:hi|hello|hey|dear|thanks|thank you|sure|certainly|of course|great|ok|okay|yes|no|hallo|danke|gern|"
    r"here (?:is|are)|let me know|i hope|feel free|you(?:'|’)re welcome|best regards)\b",
    re.IGNORECASE,
)
_MAX_GREETING_WORDS = 8
# What an answer says about itself or about the documents as a whole cannot be found in them.
_REFUSAL = re.compile(
    r"(?:sorry|unfortunately|i (?:do not|don['’]t|cannot|can['’]t|could not|couldn['’]t|am not able)|"
    r"(?:the|this) (?:documents?|evidence|context|sources?|texts?) (?:do(?:es)? not|don['’]t|doesn['’]t)|"
    r"there (?:is|was) no (?:information|mention|evidence|document)|no (?:information|documents?) )",
    re.IGNORECASE,
)
_MIN_WORDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentence:
    """One sentence of an answer.

    Attributes:
        start: Where it begins in the answer, in characters.
        end: Where it ends, exclusive.
        claim: What it claims, without marks and markup; empty if it claims nothing.
        cites: The numbers of its marks, in order.
    """

    start: int
    end: int
    claim: str
    cites: tuple[int, ...]


def sentences(answer: str) -> list[Sentence]:
    """The sentences of an answer in order, MAX_SENTENCES at most."""
    found: list[Sentence] = []
    for start, end in _spans(answer):
        text = answer[start:end]
        cites = dict.fromkeys(int(n) for mark in _MARK.findall(text) for n in _NUMBER.findall(mark))
        found.append(Sentence(start=start, end=end, claim=_claim(text), cites=tuple(cites)))
        if len(found) == MAX_SENTENCES:
            break
    return found


def texts(passage: str) -> list[str]:
    """The sentences of a passage of evidence, as text."""
    return [" ".join(passage[start:end].split()) for start, end in _spans(passage)]


def words(text: str) -> list[str]:
    """Its words and numbers, in lower case."""
    return _WORD.findall(text.casefold())


def _spans(text: str) -> Iterator[tuple[int, int]]:
    fenced = False
    at = 0
    for line in text.splitlines(keepends=True):
        begin, at = at, at + len(line)
        stripped = line.strip()
        if stripped.startswith("```"):
            fenced = not fenced
            continue
        if fenced or not stripped:
            continue
        yield from _in_line(text, begin, begin + len(line.rstrip()))


def _in_line(text: str, begin: int, end: int) -> Iterator[tuple[int, int]]:
    lead = _LEAD.match(text, begin, end)
    start = lead.end() if lead else begin
    for stop in _END.finditer(text, start, end):
        first = stop.group()[0]
        if first == "." and _ABBREVIATION.search(text, start, stop.start() + 1):
            continue
        if _has_words(text[start : stop.end()]):
            yield start, stop.end()
            start = stop.end()
            while start < end and text[start].isspace():
                start += 1
    if start < end and _has_words(text[start:end]):
        yield start, end


def _has_words(text: str) -> bool:
    return _WORD.search(_MARK.sub("", text)) is not None


def _claim(text: str) -> str:
    plain = " ".join(_MARKUP.sub("", _MARK.sub("", text)).split())
    plain = re.sub(r"\s+([.,;:!?])", r"\1", plain)
    spoken = words(plain)
    if (
        plain.startswith("#")
        or plain.endswith(("?", ":"))
        or len(spoken) < _MIN_WORDS
        or _REFUSAL.match(plain)
        or (_GREETING.match(plain) and len(spoken) <= _MAX_GREETING_WORDS)
    ):
        return ""
    return plain
