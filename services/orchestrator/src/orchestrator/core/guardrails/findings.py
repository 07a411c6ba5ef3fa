"""What guardrails find."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A place in a text, and what kind of thing stands there; never the thing itself."""

    start: int
    end: int
    kind: str


def apart(findings: Iterable[Finding]) -> list[Finding]:
    """In order, and none inside of another or over its edge: the one that begins first and is longest."""
    out: list[Finding] = []
    for finding in sorted(findings, key=lambda f: (f.start, -f.end)):
        if not out or finding.start >= out[-1].end:
            out.append(finding)
        elif finding.end > out[-1].end:
            out[-1] = Finding(out[-1].start, finding.end, out[-1].kind)
    return out


def masked(text: str, findings: Iterable[Finding], mark: Callable[[Finding], str]) -> str:
    """The text with a mark in the place of each finding; they must be apart."""
    parts, at = [], 0
    for finding in findings:
        parts += [text[at : finding.start], mark(finding)]
        at = finding.end
    return "".join(parts) + text[at:]
