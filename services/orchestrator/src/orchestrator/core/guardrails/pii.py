"""Personal data: formats that we look for, checked by libraries that know the rules behind them.

Phone numbers are phonenumbers', the checksums of cards, IBANs and national
numbers python-stdnum's (docs/adr/0008-guardrails.md). Both are imported when a
team asks for it: 20 MB.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from typing import Protocol, cast

from orchestrator.core.guardrails.findings import Finding, apart

EMAIL, PHONE, CARD, IBAN, IP, NATIONAL_ID = (
    "EMAIL_ADDRESS",
    "PHONE_NUMBER",
    "CREDIT_CARD",
    "IBAN",
    "IP_ADDRESS",
    "NATIONAL_ID",
)

_EMAIL = re.compile(
    r"(?<![\w.+-])[^\W_][\w.+-]{0,63}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w-])"
)
_CARD = re.compile(r"(?<![\w.,-])[2-6](?:[ -]?\d){12,18}(?![\w-]|[.,]\d)")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
_IP4 = re.compile(r"(?<![\w.-])(?<!\bEC )(?<!ersion )\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IP6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:|::)[0-9A-Fa-f:.]{2,44}(?![\w:])")
_MASKABLE_CARDS = re.compile(r"^(?:4|5[1-5]|2[2-7]|3[47]|3[068]|35|6(?:011|4[4-9]|5|2|[37]))")

# National numbers that look like nothing else: the form and the check are enough.
_TELLING: tuple[tuple[str, str], ...] = (
    (r"\d{3}-\d{2}-\d{4}", "us.ssn"),
    (r"\d{8}[A-HJ-NP-TV-Z]", "es.dni"),
    (r"[XYZ]\d{7}[A-Z]", "es.nie"),
    (r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", "it.codicefiscale"),
    (r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", "fi.hetu"),
    (r"(?:\d{2})?\d{6}[-+]\d{4}", "se.personnummer"),
    (r"756\.\d{4}\.\d{4}\.\d{2}", "ch.ssn"),
    (r"\d{3}\.\d{3}\.\d{3}-\d{2}", "br.cpf"),
    (r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", "mx.curp"),
    (r"\d{6}/\d{3,4}", "cz.rc"),
    (r"\d{6}-\d{7}", "kr.rrn"),
    (r"\d{17}[\dX]", "cn.ric"),
    (r"[12] \d{2} \d{2} (?:\d{2}|2[AB]) \d{3} \d{3} \d{2}", "fr.nir"),
)
# Nothing but digits: a word near by must say what they are.
_NAMED: tuple[tuple[str, str, str], ...] = (
    (r"\d{9}|\d{3} \d{2} \d{4}", "us.ssn", r"ssn|social security"),
    (r"9\d\d[- ]?\d\d[- ]?\d{4}", "us.itin", r"itin|taxpayer"),
    (r"\d{3} ?\d{3} ?\d{4}", "gb.nhs", r"nhs"),
    (r"\d{2} ?\d{3} ?\d{3} ?\d{3}", "de.idnr", r"steuer-?\s?id|idnr|identifikationsnummer|tax id"),
    (r"\d{13}|\d \d{2} \d{2} \d{2} \d{3} \d{3} \d{2}|\d{15}", "fr.nir", r"sécurité sociale|\bnir\b|insee"),
    (r"\d{11}", "pl.pesel", r"pesel"),
    (r"\d{9}", "nl.bsn", r"\bbsn\b|burgerservicenummer"),
    (r"\d{11}", "br.cpf", r"\bcpf\b"),
    (r"\d{4} ?\d{4} ?\d{4}", "in_.aadhaar", r"aadhaar|uidai"),
    (r"[A-Z]{5}\d{4}[A-Z]", "in_.pan", r"\bpan\b|permanent account"),
    (r"\d{2}\.?\d{2}\.?\d{2}-?\d{3}\.?\d{2}", "be.nn", r"rijksregister|registre national|national number"),
    (r"\d{13}", "ro.cnp", r"\bcnp\b"),
    (r"\d{11}", "no.fodselsnummer", r"fødselsnummer|fodselsnummer"),
    (r"\d{6}-?\d{4}", "dk.cpr", r"\bcpr\b"),
    (r"\d{3}[- ]?\d{3}[- ]?\d{3}", "ca.sin", r"\bsin\b|social insurance"),
    (r"\d{3} ?\d{3} ?\d{3}", "au.tfn", r"\btfn\b|tax file"),
    (r"\d{9}", "pt.nif", r"\bnif\b|contribuinte"),
    (r"\d{13}", "za.idnr", r"id number|\brsa id\b"),
)
_NEAR = 48  # characters before a number in which its name is looked for
# Whose ways to write a number without a country code are known; international ones always are.
_PHONE_REGIONS = ("US", "GB", "DE", "FR")
_PHONE_AROUND = 16  # characters that are shown to the matcher with a candidate
_GAP = re.compile(r"[ -]")
_PLAIN_NUMBER = re.compile(r"\d*[.,]?\d+")
_PHONE_HINT = re.compile(r"\d(?:[\s().\-/]*\d){6}")


def find(text: str) -> list[Finding]:
    """Personal data in a text, in order."""
    if not any(character.isdigit() for character in text) and "@" not in text and "::" not in text:
        return []
    found = [Finding(*match.span(), EMAIL) for match in _EMAIL.finditer(text)]
    found += _checked(text, _IBAN, IBAN, _is_iban)
    found += _checked(text, _CARD, CARD, _is_card)
    found += _checked(text, _IP4, IP, _is_ip)
    found += _checked(text, _IP6, IP, _is_ip)
    found += _national_ids(text)
    found = apart(found)
    taken = [(finding.start, finding.end) for finding in found]
    phones = [p for p in _phones(text) if all(p.end <= start or p.start >= end for start, end in taken)]
    return apart([*found, *phones])


def _checked(
    text: str, pattern: re.Pattern[str], kind: str, is_one: Callable[[str], bool]
) -> Iterator[Finding]:
    """What has the form and passes the check: all of a match, or its beginning without the last groups.

    Other numbers can stand beside it: "4111 1111 1111 1111 12/27", "DE89 … 00 BIC …".
    """
    at = 0
    while (match := pattern.search(text, at)) is not None:
        ends = [
            match.end(),
            *(match.start() + gap.start() for gap in reversed(list(_GAP.finditer(match[0])))),
        ]
        for end in ends:
            if is_one(text[match.start() : end]):
                yield Finding(match.start(), end, kind)
                at = end
                break
        else:
            at = ends[-1]


def _is_iban(text: str) -> bool:
    return bool(_rules("iban").is_valid(text))


def _is_card(text: str) -> bool:
    digits = re.sub(r"[ -]", "", text)
    return (
        _MASKABLE_CARDS.match(digits) is not None
        and len(set(digits)) > 1
        and bool(_rules("luhn").is_valid(digits))
    )


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text.rstrip(".:") if text.count(":") < 2 else text.rstrip("."))
    except ValueError:
        return False
    return True


def _national_ids(text: str) -> Iterator[Finding]:
    for pattern, module in _telling():
        for match in pattern.finditer(text):
            if _rules(module).is_valid(match[0]):
                yield Finding(*match.span(), NATIONAL_ID)
    for pattern, module, name in _named():
        if name.search(text) is None:
            continue
        for match in pattern.finditer(text):
            before = text[max(0, match.start() - _NEAR) : match.start()]
            if name.search(before) and _rules(module).is_valid(match[0]):
                yield Finding(*match.span(), NATIONAL_ID)


def _phones(text: str) -> Iterator[Finding]:
    # Only where digits are is worth the matcher's time; numbers close to one another are looked at as one.
    windows: list[tuple[int, int]] = []
    for hint in _PHONE_HINT.finditer(text):
        start, end = max(0, hint.start() - _PHONE_AROUND), min(len(text), hint.end() + _PHONE_AROUND)
        if windows and start <= windows[-1][1]:
            start, _ = windows.pop()
        windows.append((start, end))
    for start, end in windows:
        yield from _phones_in(text[start:end], start)


def _phones_in(text: str, offset: int) -> Iterator[Finding]:
    from phonenumbers import Leniency, PhoneNumberMatcher  # noqa: PLC0415  large

    international: list[str | None] = [None] if "+" in text or "＋" in text else []
    for region in (*international, *_PHONE_REGIONS):
        # As the region writes its numbers: anything else would find dates, prices and identifiers.
        leniency = Leniency.VALID if region is None else Leniency.STRICT_GROUPING
        for match in PhoneNumberMatcher(text, region, leniency=leniency):
            if region is None or not _PLAIN_NUMBER.fullmatch(match.raw_string):
                yield Finding(offset + match.start, offset + match.end, PHONE)


@cache
def _rules(module: str) -> "_Rules":
    return cast("_Rules", import_module(f"stdnum.{module}"))


class _Rules(Protocol):
    """What each module of stdnum has."""

    def is_valid(self, number: str) -> bool:
        """Whether form and checksum are right."""
        ...


@cache
def _telling() -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (re.compile(rf"(?<![\w.,/-])(?:{form})(?![\w/-]|[.,]\d)"), module) for form, module in _TELLING
    )


@cache
def _named() -> tuple[tuple[re.Pattern[str], str, re.Pattern[str]], ...]:
    return tuple(
        (re.compile(rf"(?<![\w.,/-])(?:{form})(?![\w/-]|[.,]\d)"), module, re.compile(name, re.IGNORECASE))
        for form, module, name in _NAMED
    )
