"""One text against the guardrails of its place."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from manifests import Guardrail, Guardrails
from orchestrator.core.guardrails import injection, pii
from orchestrator.core.guardrails.findings import Finding, apart, masked
from orchestrator.core.model import GuardrailPlace, GuardrailTriggered

WITHHELD = "[withheld by a guardrail]"
_FIND: dict[str, Callable[[str], list[Finding]]] = {"PII": pii.find, "PromptInjection": injection.find}
_ENTRIES: dict[GuardrailPlace, Callable[[Guardrails], Sequence[Guardrail]]] = {
    "INPUT": lambda all_: all_.input,
    "OUTPUT": lambda all_: all_.output,
    "EVIDENCE": lambda all_: all_.evidence,
    "TOOL_RESULT": lambda all_: all_.tool_results,
}
_STRICT = ("Warn", "Mask", "Block")
_ACTIONS = {"Warn": "WARN", "Mask": "MASK", "Block": "BLOCK"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Screened:
    """What became of a text. `text` is what may be used; `blocked`: it may not be."""

    text: str
    blocked: bool
    triggered: tuple[GuardrailTriggered, ...]


class Screen:
    """The guardrails of one place: of a team, and of the teams around it; the strictest of each type.

    Attributes:
        holds_back: A text may not be shown before it is checked.
        blocks: Not even its beginning.
    """

    def __init__(self, teams: Iterable[Guardrails], place: GuardrailPlace) -> None:
        self._place = place
        entries: dict[str, Guardrail] = {}
        for guardrails in teams:
            for entry in _ENTRIES[place](guardrails):
                other = entries.get(entry.type)
                if other is None or _STRICT.index(entry.action) > _STRICT.index(other.action):
                    entries[entry.type] = entry
        self._entries = tuple(entries.values())
        self.holds_back = any(entry.action != "Warn" for entry in self._entries)
        self.blocks = any(entry.action == "Block" for entry in self._entries)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def check(self, text: str, *, subject: str = "") -> Screened:
        """Looks for everything in a text."""
        found = self.find(text)
        blocked = any(findings and entry.action == "Block" for entry, findings in found)
        return Screened(
            text=WITHHELD if blocked else masked(text, to_mask(text, found), mark),
            blocked=blocked,
            triggered=self.triggered(found, subject=subject),
        )

    def find(self, text: str) -> list[tuple[Guardrail, list[Finding]]]:
        """What each guardrail finds in a text."""
        return [(entry, _FIND[entry.type](text)) for entry in self._entries]

    def triggered(
        self, found: Iterable[tuple[Guardrail, Sequence[Finding]]], *, subject: str = ""
    ) -> tuple[GuardrailTriggered, ...]:
        """What is told of it: kinds and counts, never what was found."""
        counts: dict[Guardrail, Counter[str]] = {}
        for entry, findings in found:
            counts.setdefault(entry, Counter()).update(finding.kind for finding in findings)
        return tuple(
            GuardrailTriggered(
                guardrail=entry.type,
                place=self._place,
                action=_ACTIONS[entry.action],  # type: ignore[arg-type]
                count=kinds.total(),
                kinds=tuple(sorted(kinds)),
                subject=subject,
            )
            for entry, kinds in counts.items()
            if kinds
        )


def to_mask(text: str, found: Iterable[tuple[Guardrail, Sequence[Finding]]]) -> list[Finding]:
    """What is to be masked; of an order to the model the whole sentence."""
    places: list[Finding] = []
    for entry, findings in found:
        if entry.action == "Mask" and entry.type == "PII":
            places += findings
        elif entry.action == "Mask":
            places += [injection.sentence_around(text, finding) for finding in findings]
    return apart(places)


def mark(finding: Finding) -> str:
    """What stands in the place of a finding."""
    return f"[{finding.kind}]"
