"""What a PromQL expression names: metrics with the labels that it selects by, and labels that it groups by.

A tokenizer and a little grammar, no evaluation: `promtool` says whether an
expression is one. Grafana's variables (`$team`, `${team:regex}`, `$__range`)
and its `label_values(metric, label)` are understood.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)
      | (?P<variable>\$\{[^}]*\}|\$[A-Za-z_]\w*)
      | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+(?:ms|[smhdwy]))+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
      | (?P<operator>=~|!~|!=|==|>=|<=|[-+*/%^=<>(){}\[\],@:])
    """,
    re.VERBOSE,
)
_GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
_WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"}
# They make labels: the position of the name of the one that they make.
_MAKES_LABEL = {"label_replace": 1, "label_join": 1, "count_values": 0}


class BadExpression(ValueError):
    """It cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One metric and the labels that it is selected by."""

    metric: str
    labels: tuple[str, ...]


@dataclass(slots=True)
class Names:
    """What an expression names.

    Attributes:
        selectors: Each metric with the labels in its braces.
        grouped_by: Labels of by, without, on, ignoring, group_left and group_right.
        made: Labels that the expression makes itself.
    """

    selectors: list[Selector] = field(default_factory=list)
    grouped_by: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)


def names(expression: str) -> Names:
    """What it names. Raises BadExpression."""
    return _Reader(list(_tokens(expression))).read()


def _tokens(expression: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(expression):
        found = _TOKEN.match(expression, position)
        if found is None:
            raise BadExpression(f"cannot read {expression[position : position + 20]!r} in {expression!r}")
        position = found.end()
        if found.lastgroup != "space":
            yield str(found.lastgroup), found.group()


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0
        self._found = Names()

    def read(self) -> Names:
        while self._at < len(self._tokens):
            kind, text = self._next()
            if text == "[":  # a range, or a subquery with its step
                while self._next()[1] != "]":
                    pass
            elif text == "{":
                self._selector("")
            elif kind == "name":
                self._name(text)
        return self._found

    def _name(self, text: str) -> None:
        if text in _GROUPING:
            if self._peek() == "(":
                self._found.grouped_by.update(self._list())
        elif text.lower() in _WORDS:
            pass
        elif self._peek() == "(":
            if text in _MAKES_LABEL:
                self._makes(_MAKES_LABEL[text])
            elif text == "label_values":
                self._label_values()
        elif self._peek() not in _GROUPING:  # `sum by (x) (...)` is a function, too
            if self._peek() == "{":
                self._next()
                self._selector(text)
            else:
                self._found.selectors.append(Selector(metric=text, labels=()))

    def _selector(self, metric: str) -> None:
        labels = []
        while (token := self._next())[1] != "}":
            kind, text = token
            if text == ",":
                continue
            if kind not in ("name", "string"):
                raise BadExpression(f"{text!r} is no label")
            operator = self._next()[1]
            if operator not in ("=", "!=", "=~", "!~"):
                raise BadExpression(f"{operator!r} after label {text!r}")
            value = self._next()
            if text == "__name__":
                metric = value[1][1:-1]
            else:
                labels.append(text.strip("\"'"))
        self._found.selectors.append(Selector(metric=metric, labels=tuple(labels)))

    def _list(self) -> list[str]:
        self._next()
        listed = []
        while (token := self._next())[1] != ")":
            if token[0] == "name":
                listed.append(token[1])
        return listed

    def _makes(self, position: int) -> None:
        """Notes the name of the label among the function's arguments, and leaves them to be read."""
        depth, argument = 0, 0
        for kind, text in self._tokens[self._at :]:
            depth += text in ("(", "{", "[")
            depth -= text in (")", "}", "]")
            if depth == 0:
                break
            if depth == 1 and text == ",":
                argument += 1
            elif depth == 1 and argument == position and kind == "string":
                self._found.made.add(text[1:-1])

    def _label_values(self) -> None:
        end = self._at
        while self._tokens[end][1] != ")":
            end += 1
        kind, label = self._tokens[end - 1]
        if kind == "name":
            self._found.grouped_by.add(label)
        inner = self._tokens[self._at + 1 : end - 2]  # without the comma and the label
        if inner:
            self._found.selectors.extend(_Reader(inner).read().selectors)
        self._at = end + 1

    def _next(self) -> tuple[str, str]:
        if self._at >= len(self._tokens):
            raise BadExpression("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""
