"""Filters as people write them: `year >= 2020 and (lang == "en" or not has draft)`.

    filter     = both { "or" both }
    both       = one { "and" one }
    one        = "not" one | "(" filter ")" | "has" FIELD | FIELD "in" "[" value { "," value } "]"
               | FIELD ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "startswith" ) value
    value      = a string in quotes | a number | true | false

FIELD is a metadata field of the knowledge base, `$path` or `$document`. Whether
the knowledge base has the field, only the retrieval service knows.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_CHARACTERS = 4096
_MAX_DEPTH = 8  # the retrieval service's own bound
_MAX_VALUES = 256

# The form of the filter message in JSON, for ParseDict of protobuf.
JsonFilter = dict[str, object]

_OPERATORS = {
    "==": "OPERATOR_EQUAL",
    "!=": "OPERATOR_NOT_EQUAL",
    "<": "OPERATOR_LESS",
    "<=": "OPERATOR_LESS_OR_EQUAL",
    ">": "OPERATOR_GREATER",
    ">=": "OPERATOR_GREATER_OR_EQUAL",
    "startswith": "OPERATOR_STARTS_WITH",
}
_WORDS = ("and", "or", "not", "has", "in", "startswith", "true", "false")
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*"|'[^']*')
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)
      | (?P<name>[$]?[a-z][a-z0-9_]*)
      | (?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
    )""",
    re.VERBOSE,
)
_WHOLE = re.compile(r"-?\d+")


class FilterError(ValueError):
    """The text is no filter; says where and what would be."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def parse_filter(text: str) -> JsonFilter:
    """The filter that the text means.

    Raises:
        FilterError: It means none.
    """
    if len(text) > MAX_CHARACTERS:
        raise FilterError(f"must have at most {MAX_CHARACTERS} characters, has {len(text)}")
    parser = _Parser(list(_tokens(text)))
    parsed = parser.either(_MAX_DEPTH)
    parser.end()
    return parsed


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise FilterError(f"character {at + 1}: {text[at]!r} is not expected; strings need quotes")
        kind = found.lastgroup
        if kind == "name" and found[kind] in _WORDS:
            kind = "word"
        yield _Token(kind, found[found.lastgroup], found.start(found.lastgroup))
        at = found.end()
    yield _Token("end", "the end", len(text))


class _Parser:
    """By recursive descent."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = tokens
        self._next = 0

    def either(self, levels: int) -> JsonFilter:
        return self._joined("or", "anyOf", levels)

    def end(self) -> None:
        if self._token.kind != "end":
            raise self._wrong("and, or, or the end")

    def _joined(self, word: str, name: str, levels: int) -> JsonFilter:
        parts = []
        while True:
            parts.append(self._joined("and", "allOf", levels) if word == "or" else self._one(levels))
            if not self._take(word):
                return parts[0] if len(parts) == 1 else {name: {"filters": parts}}

    def _one(self, levels: int) -> JsonFilter:
        if not levels:
            raise FilterError(f"character {self._token.at + 1}: must be at most {_MAX_DEPTH} levels deep")
        if self._take("not"):
            return {"noneOf": self._one(levels - 1)}
        if self._take("("):
            inner = self.either(levels - 1)
            self._expect(")")
            return inner
        if self._take("has"):
            return {"has": self._field()}
        field = self._field()
        if self._take("in"):
            return {"oneOf": {"field": field, "values": self._values()}}
        operator = _OPERATORS.get(self._token.text) if self._token.kind in ("sign", "word") else None
        if operator is None:
            raise self._wrong(f"{', '.join(_OPERATORS)} or in")
        self._next += 1
        return {"compare": {"field": field, "operator": operator, "value": self._value()}}

    def _values(self) -> list[JsonFilter]:
        self._expect("[")
        values = [self._value()]
        while self._take(","):
            values.append(self._value())
        if len(values) > _MAX_VALUES:
            raise FilterError(f"must have at most {_MAX_VALUES} values in a list, has {len(values)}")
        self._expect("]")
        return values

    def _field(self) -> str:
        if self._token.kind != "name":
            raise self._wrong("a metadata field, $path, $document, has, not or (")
        self._next += 1
        return self._tokens[self._next - 1].text

    def _value(self) -> JsonFilter:
        token = self._token
        self._next += 1
        match token.kind, token.text:
            case "string", text:
                return {"stringValue": self._string(text, token.at)}
            case "number", text if _WHOLE.fullmatch(text):
                if not -(2**63) <= int(text) < 2**63:
                    raise FilterError(f"character {token.at + 1}: {text} has more than 64 bits")
                return {"intValue": text}
            case "number", text:
                return {"doubleValue": float(text)}
            case "word", ("true" | "false") as text:
                return {"boolValue": text == "true"}
        self._next -= 1
        raise self._wrong("a value: a string in quotes, a number, true or false")

    @staticmethod
    def _string(text: str, at: int) -> str:
        if text.startswith("'"):
            return text[1:-1]
        try:
            return str(json.loads(text))
        except ValueError:
            raise FilterError(
                f"character {at + 1}: {text} is not a string as JSON has it; "
                "write \\\\ for a backslash, or put it in ' '"
            ) from None

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, text: str) -> bool:
        if self._token.kind in ("word", "sign") and self._token.text == text:
            self._next += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._wrong(text)

    def _wrong(self, wanted: str) -> FilterError:
        return FilterError(f"character {self._token.at + 1}: expected {wanted}, found {self._token.text}")
