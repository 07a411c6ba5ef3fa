"""Text that speaks to the model instead of the reader.

Each kind of sign has a weight; a text is suspicious when the weights of the
different kinds in it reach 1. A kind counts once, however often it is there.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.core.guardrails.findings import Finding, apart

THRESHOLD = 1.0

OVERRIDE, MARKUP, PERSONA, ADDRESS, EXFILTRATE, SECRECY, TOOL, HIDDEN = (
    "INSTRUCTION_OVERRIDE",
    "CHAT_MARKUP",
    "NEW_ROLE",
    "ADDRESSES_MODEL",
    "EXFILTRATION",
    "SECRECY",
    "TOOL_DIRECTIVE",
    "HIDDEN_TEXT",
)


@dataclass(frozen=True, slots=True)
class _Sign:
    kind: str
    weight: float
    words: tuple[str, ...]  # one of them is in every match: looking for words is cheap, patterns are not
    pattern: re.Pattern[str]


def _sign(kind: str, weight: float, words: str, *parts: str) -> _Sign:
    return _Sign(kind, weight, tuple(words.split("|")), re.compile("".join(parts), re.MULTILINE))


# All patterns meet lower-case text, without accents on Latin letters, in compatibility forms and
# without invisible characters. Gaps are bounded, so that no text can make them slow.
_GAP = r"[^.!?\n]{0,40}?"
_TOLD = r"(?:instruction|prompt|rule|direction|guideline|command|directive|constraint|message)s?"
_BEFORE = (
    r"(?:previous|prior|above|earlier|preceding|foregoing|original|initial|system|safety|existing|other)"
)
_READER = r"(?:ai|a\.i\.|llm|language model|chatbot|assistant|ai assistant|ai agent)s?"
_AGENTS = "ai |ais |a.i.|llm|language model|chatbot|assistant|agents reading|agent reading"

_SIGNS = (
    _sign(
        OVERRIDE,
        1.0,
        "ignor|disregard|forget|overrid|bypass|neglect|overrul",
        rf"\b(?:ignore|disregard|forget|override|bypass|neglect|overrule)\b{_GAP}",
        rf"\b(?:{_BEFORE}|all|any|your|the|these|those|everything)\b{_GAP}",
        rf"\b(?:{_TOLD}\b(?! manual)|(?:said|told|written) (?:above|before))",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "follow|obey",
        r"\b(?:do not|don't|stop) (?:follow|obey|following|obeying)\b",
        rf"{_GAP}\b(?:{_BEFORE}|your)\b{_GAP}\b{_TOLD}\b",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "void|revoked|canceled|cancelled|superseded|replaced|overridden|outdated",
        rf"\byour (?:{_BEFORE} )?{_TOLD} (?:are|is|has been|have been) (?:now )?",
        r"(?:void|revoked|cancelled|canceled|superseded|replaced|overridden|outdated)",
    ),
    # German, French, Spanish, Portuguese, Italian, Dutch, Polish, Russian, Chinese, Japanese, Korean.
    _sign(
        OVERRIDE,
        1.0,
        "ignorier|vergiss|missacht|nicht beacht",
        r"\b(?:ignorier\w*|vergiss|missachte\w*|nicht beacht\w*)\b.{0,40}?",
        r"\b(?:anweisung|instruktion|vorgabe|regel|befehl|prompt)\w*",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "ignor|oubli|ne ten",
        r"\b(?:ignore[zr]?|oublie[zr]?|ne ten(?:ez|ir) pas compte)\b.{0,40}?",
        r"\b(?:instruction|consigne|directive|regle)s? "
        r"(?:precedente|ci-dessus|anterieure|du systeme|donnee)s?",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "ignor|olvid|descart|esquec|desconsider|dimentic|trascur",
        r"\b(?:ignor[aei]|olvid[ae]|descart[ae]|esquec?a|desconsidere|dimentica|trascura)\w{0,4}\b.{0,40}?",
        r"\b(?:instruccion(?:es)?|indicaciones|reglas|ordenes|instruc(?:oes|ao)|regras|ordens|istruzion[ei]|",
        r"regole|direttive)\b",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "negeer|vergeet",
        r"\b(?:negeer|vergeet)\b.{0,40}?\b(?:instructies|aanwijzingen|regels|opdrachten)\b",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "ignoruj|zapomnij",
        r"\b(?:zignoruj|ignoruj|zapomnij)\w*\b.{0,40}?\b(?:instrukcj|polece|zasad)\w*",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "игнорируи|забудь|не обращаи",  # й without its accent
        r"(?:игнорируи|забудь|не обращаи\w* внимания).{0,40}?(?:инструкци|указани|правил|команд)\w*",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "忽略|无视|無視|忘记|忘記|不要理会",
        r"(?:忽略|无视|無視|忘记|忘記|不要理会)[^。！？\n]{0,16}?(?:指令|指示|说明|說明|规则|規則|提示)",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "無視|忘れ",
        r"(?:指示|命令|プロンプト|ルール)[^。！？\n]{0,8}?(?:無視|忘れ)",
    ),
    _sign(
        OVERRIDE,
        1.0,
        "무시|잊어",
        r"(?:지시|명령|프롬프트|규칙)[^.!?\n]{0,12}?(?:무시|잊어)",
    ),
    _sign(
        MARKUP,
        1.0,
        "<|[",
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|start_header_id|eot_id|begin_of_text)\|?>?",
        r"|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>",
        r"|</?\s*(?:evidence|system_prompt|untrusted)\s*>",
    ),
    _sign(
        MARKUP,
        1.0,
        "system |developer ",
        r"\b(?:begin|end|start) (?:of )?(?:the )?(?:system|developer) (?:prompt|message|instructions?)\b",
    ),
    _sign(
        MARKUP,
        0.5,
        "system|assistant|developer",
        r"^[\s>*#-]{0,8}(?:system|assistant|developer)\s*(?:prompt|message|note)?\s*:(?=\s*\S)",
    ),
    _sign(
        PERSONA,
        0.6,
        "you are now",
        r"\byou are now\b(?! (?:able|ready|in|at|on|done|connected|logged|signed))",
    ),
    _sign(
        PERSONA,
        0.6,
        "from now on",
        r"\bfrom now on,? (?:you|always|only|respond|answer|reply|act)\b",
    ),
    _sign(
        PERSONA,
        0.6,
        "pretend|unrestricted|jailbr|dan |mode ",
        r"\bpretend (?:to be|that you are|you are)\b",
        r"|\b(?:act|behave|respond|answer) as (?:if you were |though you were )?(?:an? )?",
        r"(?:unrestricted|jailbroken|dan\b|evil|different ai)",
        r"|\b(?:developer|debug|god|jailbreak|dan) mode (?:is )?(?:now )?(?:enabled|activated|on)\b",
    ),
    _sign(
        PERSONA,
        0.6,
        "your new |your real |your true |your actual |your only ",
        r"\byour (?:new|real|true|actual|only) ",
        r"(?:task|goal|instructions?|objective|purpose|role|job|identity) (?:is|are)\b",
    ),
    _sign(
        PERSONA,
        0.6,
        "instruction|prompt|directive",
        r"\b(?:new|updated|important|additional|urgent) (?:system )?(?:instructions?|prompt|directives?) ?",
        r"(?::|for (?:the )?(?:ai|assistant|model|agent|bot|llm))",
    ),
    _sign(
        PERSONA,
        0.6,
        "du bist |tu es |ahora eres|ora sei|теперь ты|你现在是|从现在开始",
        r"\bdu bist (?:jetzt|nun|ab sofort)\b|\btu es (?:maintenant|desormais)\b|\bahora eres\b|\bora sei\b",
        r"|теперь ты|你现在是|从现在开始",
    ),
    _sign(
        ADDRESS,
        0.5,
        _AGENTS,
        r"\b(?:attention|note|message|instructions?|dear|hey|hello),? (?:to |for |all )?(?:the |any |all )?",
        rf"(?:{_READER}|agents? reading)\b",
        r"|\b(?:ai|llm|language model|chatbot|assistant|ai agent)s? ",
        r"(?:reading|processing|summari[sz]ing|that reads?|must|should|shall)\b",
        rf"|\bif you are (?:an? )?{_READER}\b",
        r"|\bas an? (?:ai|large language|language) (?:model|assistant|agent)\b,? (?:you|your)\b",
    ),
    _sign(
        ADDRESS,
        0.5,
        "when answer|when respond|when summari|when repl|when you ",
        rf"\bwhen (?:you )?(?:answer|respond|summari[sz]|repl)\w*\b{_GAP}",
        r"\b(?:always|only|must|say|include|state|tell|add|write|recommend)\b",
    ),
    _sign(
        ADDRESS,
        0.5,
        " only| exactly| just| nothing but",
        r"\b(?:respond|answer|reply|output|say|print|write) (?:only|exactly|just|nothing but)",
        r"(?: with| the)?\b.{0,4}[\"'`“:]",
    ),
    _sign(
        ADDRESS,
        0.5,
        "in your |in every |in all |in each ",
        r"\b(?:include|insert|append|add) (?:the following|this) (?:text|link|sentence|string|url|image) ",
        r"in (?:your|every|all|each) (?:answer|response|repl|output)",
    ),
    _sign(
        EXFILTRATE,
        0.7,
        "prompt|above|api key|password|credential|secret|token|history|conversation|private",
        r"\b(?:reveal|print|repeat|output|leak|show|disclose|display|dump|expose|share|tell me|send)\b",
        rf"{_GAP}\b(?:your|the|all|any|its) (?:\w+ ){{0,2}}?",
        r"(?:system prompt|hidden prompt|initial prompt|instructions above|api keys?|passwords?|credentials|",
        r"secrets|access tokens?|conversation(?: history)?|chat history|private data)\b",
    ),
    _sign(
        EXFILTRATE,
        0.7,
        "http|@",
        rf"\b(?:send|post|forward|upload|exfiltrate|transmit|e-?mail)\b{_GAP}",
        rf"\b(?:conversation|chat|history|answer|data|context|password|secret|key|token)s?\b{_GAP}",
        r"\bto\b.{0,16}?(?:https?://|[\w.+-]{1,40}@\w)",
        r"|!\[[^\]\n]{0,80}\]\(https?://[^)\s]{1,200}[?&=][^)\s]{0,80}(?:\{|\[|%7b|<)",
    ),
    _sign(
        SECRECY,
        0.5,
        "do not|don't|never|without|from the user",
        r"\b(?:do not|don't|never) (?:tell|mention|reveal|show|disclose|inform|say|report)\b",
        rf"{_GAP}\b(?:user|human|anyone|anybody|operator|this (?:instruction|message|note|prompt))\b",
        rf"|\bwithout (?:telling|informing|mentioning|asking)\b{_GAP}\b(?:user|human|anyone)\b",
        r"|\bkeep (?:this|these) (?:\w+ )?(?:secret|hidden|confidential) from the user\b",
    ),
    _sign(
        TOOL,
        0.5,
        "tool|function|plugin|delegate_task|search_knowledge",
        r"\b(?:call|invoke|use|execute|run|trigger)\b (?:the |your )?(?:\w+ )?(?:tool|function|plugin)s?\b",
        rf"{_GAP}\b(?:with|to|and|now|immediately)\b",
        r"|\b(?:delegate_task|search_knowledge)\b",
    ),
    _sign(
        TOOL,
        0.5,
        "you must|immediately|now ",
        r"\b(?:you must|immediately|now) (?:call|invoke|execute|transfer|delete|purchase|buy|send)\b",
    ),
)
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_ACCENTED = "\u0500"  # Latin, Greek and Cyrillic come before it; elsewhere marks are no mere accents
_HIDDEN = re.compile("[\U000e0000-\U000e007f\U000e0100-\U000e01ef\u200b-\u200d\u2060\ufeff\u202a-\u202e]")
_TAG = re.compile("[\U000e0000-\U000e007f]")
_FLAG = re.compile("\U0001f3f4[\U000e0020-\U000e007f]{2,7}")
_SUPPLEMENT = re.compile("[\U000e0100-\U000e01ef]")
_BIDI = re.compile("[\u202a\u202b\u202d\u202e]")  # not the isolates, which right-to-left texts use
# Scripts that join letters use them between letters of their own.
_BETWEEN_LETTERS = re.compile("(?<=[A-Za-z])[\u200b-\u200d\u2060\ufeff]")
_MANY = 4
_SENTENCE_END = re.compile(r"[.!?]\s+|\n+|。")


def find(text: str) -> list[Finding]:
    """What makes a text suspicious, in order; nothing if it is not suspicious enough."""
    plain, places = _plain(text)
    found: list[tuple[Finding, float]] = []
    for sign in _SIGNS:
        if not any(word in plain for word in sign.words):
            continue
        for match in sign.pattern.finditer(plain):
            if match.end() > match.start():
                start, end = places[match.start()], places[match.end() - 1] + 1
                found.append((Finding(start, end, sign.kind), sign.weight))
    found += _hidden(text)
    weights: dict[str, float] = {}
    for finding, weight in found:
        weights[finding.kind] = max(weights.get(finding.kind, 0.0), weight)
    if sum(weights.values()) < THRESHOLD:
        return []
    return apart(finding for finding, _ in found)


def sentence_around(text: str, finding: Finding) -> Finding:
    """The finding, widened to the sentences that it stands in."""
    start = max((end.end() for end in _SENTENCE_END.finditer(text, 0, finding.start)), default=0)
    rest = _SENTENCE_END.search(text, finding.end)
    end = len(text) if rest is None else rest.start() + (rest[0][0] in ".!?。")
    return Finding(start, max(end, finding.end), finding.kind)


def _plain(text: str) -> tuple[str, range | list[int]]:
    """The form that patterns are for; and where each of its characters comes from."""
    if text.isascii():
        return text.lower(), range(len(text))
    out: list[str] = []
    places: list[int] = []
    at = 0
    for others in _NOT_ASCII.finditer(text):
        out.append(text[at : others.start()].lower())
        places.extend(range(at, others.start()))
        for at in range(others.start(), others.end()):
            plain = _plain_character(text[at])
            out.append(plain)
            places.extend([at] * len(plain))
        at = others.end()
    places.extend(range(at, len(text)))
    return "".join(out) + text[at:].lower(), places


def _plain_character(character: str) -> str:
    if unicodedata.category(character) == "Cf":
        return ""
    taken_apart = unicodedata.normalize("NFKD", character)
    if taken_apart[0] < _ACCENTED and unicodedata.category(taken_apart[-1]) == "Mn":
        return taken_apart[0].lower()
    return unicodedata.normalize("NFKC", character).lower()


def _hidden(text: str) -> Iterator[tuple[Finding, float]]:
    """Characters that no reader sees and a model reads."""
    if text.isascii() or _HIDDEN.search(text) is None:
        return
    # The flags of England, Scotland and Wales are made of such characters.
    shown = _FLAG.sub(lambda flag: "x" * len(flag[0]), text)
    smuggled = [match.start() for match in _SUPPLEMENT.finditer(shown)]
    between = [match.start() for match in _BETWEEN_LETTERS.finditer(shown)]
    for places, weight, least in (
        ([match.start() for match in _TAG.finditer(shown)], 1.0, 1),
        (smuggled, 1.0, _MANY),
        (between, 0.6, _MANY),
        ([match.start() for match in _BIDI.finditer(shown)], 0.6, 1),
    ):
        if len(places) >= least:
            yield from ((Finding(place, place + 1, HIDDEN), weight) for place in places)
