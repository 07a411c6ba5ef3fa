"""The blocks that mark data within a prompt: how they are written, found again and shortened.

A text that is put into a block can neither end it nor look like a part of it,
so that what is found between the marks is what was put there.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_MARKS = re.compile(r"<(?=/?(?:evidence|report|tool_result|summary|memories|conversation)\b)", re.IGNORECASE)
_CHUNK_HEAD = re.compile(r"^\[(?=\d+\] \()", re.MULTILINE)
_EVIDENCE = re.compile(r"<evidence>\n(.*?)\n</evidence>", re.DOTALL)
_REPORT = re.compile(r"<report by=\"[^\"\n]*\">\n(.*?)\n</report>", re.DOTALL)


def neutral(text: str) -> str:
    """The text, unable to end or to begin a block, or to look like a chunk of evidence."""
    return _CHUNK_HEAD.sub("[ ", _MARKS.sub("< ", text))


def report_block(member: str, report: str) -> str:
    """What a member reported, marked as data."""
    return f'<report by="{member}">\n{neutral(report)}\n</report>'


def summary_block(summary: str) -> str:
    """What was said before, marked as data."""
    return f"<summary>\n{neutral(summary)}\n</summary>"


def memories_block(memories: Iterable[str]) -> str:
    """What is remembered of a user, numbered and marked as data."""
    lines = "\n".join(f"{number}. {neutral(text)}" for number, text in enumerate(memories, start=1))
    return f"<memories>\n{lines}\n</memories>"


def conversation_block(messages: Iterable[tuple[str, str]]) -> str:
    """What was said, and by whom, marked as data."""
    lines = "\n".join(f"{role}: {neutral(text)}" for role, text in messages)
    return f"<conversation>\n{lines}\n</conversation>"


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceBlock:
    """A block of evidence within a text: from `start` to `end`, the best chunk last."""

    start: int
    end: int
    chunks: tuple[str, ...]


def evidence_blocks(text: str) -> list[EvidenceBlock]:
    """The blocks of evidence that a text holds."""
    return [
        EvidenceBlock(start=found.start(), end=found.end(), chunks=tuple(_chunks(found.group(1))))
        for found in _EVIDENCE.finditer(text)
    ]


def evidence_without(block: EvidenceBlock, left_out: int) -> str:
    """The block without its first, weakest chunks; it says so."""
    note = f"(chunks left out for lack of room: {left_out})"
    return "\n".join(["<evidence>", note, "\n\n".join(block.chunks[left_out:]), "</evidence>"])


def reports(text: str) -> list[tuple[int, int]]:
    """Where the members' reports are that a text holds: what is between their marks."""
    return [found.span(1) for found in _REPORT.finditer(text)]


def cut(text: str, characters: int) -> str:
    """The text's beginning, with a mark where it ends; a block that it cuts through is closed."""
    if characters >= len(text):
        return text
    kept = text[: max(0, characters)]
    note = f"\n[cut for lack of room: {len(text) - len(kept)} of {len(text)} characters]"
    opened = kept.count("<evidence>") - kept.count("</evidence>")
    return kept + note + ("\n</evidence>" if opened > 0 else "")


def _chunks(inside: str) -> Iterator[str]:
    starts = [found.start() for found in _CHUNK_HEAD.finditer(inside)]
    for start, end in zip(starts, [*starts[1:], len(inside)], strict=True):
        yield inside[start:end].rstrip("\n")
