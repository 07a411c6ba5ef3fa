"""A text that is shown while it is written, and never more of it than is checked."""

import re

from manifests import Guardrail
from orchestrator.core.guardrails.findings import Finding, apart, masked
from orchestrator.core.guardrails.screen import WITHHELD, Screen, mark, to_mask
from orchestrator.core.model import GuardrailTriggered

# The end of a sentence is known when the next one has begun: what comes in which pieces must not matter.
_SENTENCE_END = re.compile(r"(?:[.!?…][\"')\]]*\s+|[。！？]\s*|\s*\n\s*)(?=\S)")
_WINDOW = 1000  # characters of a text without sentences that are let out at a time
_BEFORE = 64  # characters that were let out already and are looked at again: they can say what a number is


class Outlet:
    """Lets out whole sentences, masked; with Block nothing before the end.

    Attributes:
        text: All that was let out.
        blocked: The text is refused.
    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._held = ""
        self._before = ""
        self._found: list[tuple[Guardrail, list[Finding]]] = []
        self.text = ""
        self.blocked = False

    def feed(self, piece: str) -> str:
        """Takes a piece; returns what may be shown now."""
        self._held += piece
        if self._screen.blocks:
            return ""
        out = ""
        while end := self._sentence_end():
            out += self._let_out(end)
        return out

    def end(self) -> str:
        """The text is whole; returns the rest that may be shown."""
        out = self._let_out(len(self._held))
        self.blocked = any(findings and entry.action == "Block" for entry, findings in self._found)
        if self.blocked:
            out = self.text = WITHHELD
        return out

    @property
    def triggered(self) -> tuple[GuardrailTriggered, ...]:
        """What was found in all of it."""
        return self._screen.triggered(self._found)

    def _sentence_end(self) -> int:
        """How much of what is held may be checked alone; 0: not yet."""
        if not self._screen.holds_back:
            return 0
        match = _SENTENCE_END.search(self._held)
        if match is not None:
            return match.end()
        if len(self._held) < 2 * _WINDOW:
            return 0
        # Between words where there are any, and in no finding.
        found = apart(finding for _, findings in self._screen.find(self._held) for finding in findings)
        cut = self._held.rfind(" ", 0, _WINDOW) + 1
        if not cut or _inside(cut, found):
            cut = _inside(_WINDOW, found) or _WINDOW
        return cut

    def _let_out(self, end: int) -> str:
        segment, self._held = self._held[:end], self._held[end:]
        looked_at = self._before + segment
        offset = len(self._before)
        found = [
            (entry, [_moved(f, offset) for f in findings if f.end > offset])
            for entry, findings in self._screen.find(looked_at)
        ]
        self._found += found
        self._before = looked_at[-_BEFORE:]
        out = masked(segment, to_mask(segment, found), mark)
        self.text += out
        return out


def _inside(cut: int, findings: list[Finding]) -> int:
    """The end of the finding that a cut would go through; 0: it goes through none."""
    return next((finding.end for finding in findings if finding.start < cut < finding.end), 0)


def _moved(finding: Finding, offset: int) -> Finding:
    return Finding(max(0, finding.start - offset), finding.end - offset, finding.kind)
