"""CEL: checked when a manifest is read, evaluated while a run works (docs/adr/0009-cel.md).

Both are bounded: 1,024 characters, 10,000 turns of a macro and a nesting of 32 (the library's own limits),
two macros and 16 `+` (so that no text can be multiplied), and regular expressions in linear time.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from manifests.problems import closest

Wanted = Literal["bool", "text", "any"]
Values = Mapping[str, object]
"""Variables by their dotted names, such as `steps.find.answer`."""

STEP_FIELDS = ("output", "answer", "evidence", "error")
ALWAYS = ("input", "run.name", "run.team")

MAX_MACROS = 2
MAX_PLUS = 16
_LARGEST = sys.float_info.max
_MAX_INTEGER = 2**53  # beyond it JSON numbers lose digits
_LITERALS = re.compile(
    r"""[bB]?[rR][bB]?(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')"""
    r"""|[bB]?(?:\"{3}(?:\\.|[^\\])*?\"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')"""
    r"""|//[^\n]*""",
    re.DOTALL,
)
_MACROS = re.compile(r"\.\s*(?:all|exists|exists_one|existsOne|map|filter)\s*\(")
_UNKNOWN = re.compile(r"undeclared reference to '([^']*)'")
_AT = re.compile(r"<input>:(\d+):(\d+): ([^\n]*)")
_PARTS = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)


class ExpressionError(Exception):
    """An expression has no value; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What an expression sees.

    Attributes:
        steps: Names of steps.
        loop: Whether there is an `iteration`.
    """

    steps: tuple[str, ...] = ()
    loop: bool = False

    @property
    def variables(self) -> tuple[str, ...]:
        """Dotted names of all variables."""
        steps = tuple(f"steps.{name}.{field}" for name in self.steps for field in STEP_FIELDS)
        return (*ALWAYS, *(("iteration",) if self.loop else ()), *steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with an expression, and what to do about it."""

    message: str
    fix: str


def expressions_in(template: str) -> list[str]:
    """The expressions of a template, in order."""
    return [match.strip() for match in _PARTS.findall(template)]


def template_faults(template: str, scope: Scope, *, elsewhere: frozenset[str]) -> Iterator[Fault]:
    """What is wrong with the expressions of a template."""
    rest = _PARTS.sub("", template)
    if "{{" in rest or "}}" in rest:
        yield Fault(message="has '{{' or '}}' without the other", fix="write {{ expression }}")
        return
    for expression in expressions_in(template):
        fault = expression_fault(expression, scope, wanted="any", elsewhere=elsewhere)
        if fault is not None:
            yield Fault(message=f"{{{{ {expression} }}}}: {fault.message}", fix=fault.fix)


def expression_fault(
    expression: str, scope: Scope, *, wanted: Wanted, elsewhere: frozenset[str] = frozenset()
) -> Fault | None:
    """What is wrong with an expression; None if it can be evaluated in this scope.

    `elsewhere` are steps that exist and cannot be seen from here.
    """
    code = _LITERALS.sub("''", expression)
    if len(_MACROS.findall(code)) > MAX_MACROS or code.count("+") > MAX_PLUS:
        return Fault(
            message=f"has more than {MAX_MACROS} of all, exists, exists_one, map and filter, or more than "
            f"{MAX_PLUS} '+'",
            fix="do a part of it in a step before",
        )
    try:
        compiled = _compiled(expression, scope)
    except RuntimeError as error:
        return _fault(str(error), scope, elsewhere)
    kind = compiled.return_type()
    types = _types()
    if wanted == "bool" and kind not in (types.BOOL, types.DYN):
        return Fault(
            message=f"gives {_words(kind)}, and true or false is needed",
            fix="compare it, for example with ==",
        )
    if wanted == "text" and kind not in (types.STRING, types.DYN):
        return Fault(message=f"gives {_words(kind)}, and a text is needed", fix="wrap it in string(…)")
    if kind in (types.BYTES, types.TIMESTAMP, types.DURATION, types.TYPE):
        return Fault(message=f"gives {_words(kind)}, which JSON has not", fix="wrap it in string(…)")
    return None


def evaluate(expression: str, scope: Scope, values: Values, *, wanted: Wanted = "any") -> object:
    """The value, as JSON has it. Raises ExpressionError."""
    compiled = _compiled(expression, scope)
    # Only what it names: converting a value costs more than the expression.
    data = {name: values[name] for name in scope.variables if _named(name) in expression}
    try:
        result = compiled.eval(data=data)
        plain = result.plain_value()
    except RuntimeError as error:
        raise ExpressionError(_short(str(error))) from error
    if result.type() == _types().ERROR:
        raise ExpressionError(_short(str(plain)))
    try:
        value = canonical(plain)
    except ValueError as error:
        raise ExpressionError(str(error)) from error
    if wanted == "bool" and not isinstance(value, bool):
        raise ExpressionError(f"gives {as_text(value)[:80]!r}, and true or false is needed")
    if wanted == "text" and not isinstance(value, str):
        raise ExpressionError(f"gives {as_text(value)[:80]!r}, and a text is needed")
    return value


def render(template: str, scope: Scope, values: Values) -> str:
    """The template with the values of its expressions. Raises ExpressionError."""
    return _PARTS.sub(lambda part: as_text(evaluate(part[1].strip(), scope, values)), template)


def as_text(value: object) -> str:
    """A value as people and models read it: a text as it is, else JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def canonical(value: object) -> object:
    """A value as it comes back from the log: keys in order, whole numbers as integers. Raises ValueError."""
    match value:
        case None | bool():
            return value
        case str():
            return value.encode(errors="replace").decode()
        case int() | float():
            if not -_LARGEST <= value <= _LARGEST:  # nor is NaN
                raise ValueError(
                    f"gives {value:.3}, which JSON has not"
                    if isinstance(value, float)
                    else "gives a number that is too large"
                )
            whole = abs(value) <= _MAX_INTEGER and value == int(value)
            return int(value) if whole else float(value)
        case list():
            return [canonical(item) for item in value]
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("gives a map whose keys are not texts, which JSON has not")
            return {str(canonical(key)): canonical(value[key]) for key in sorted(value)}
        case _:
            raise ValueError(f"gives a {type(value).__name__}, which JSON has not; wrap it in string(…)")


def _named(variable: str) -> str:
    parts = variable.split(".")
    return parts[1] if parts[0] == "steps" else parts[0]


def _fault(error: str, scope: Scope, elsewhere: frozenset[str]) -> Fault:
    unknown = _UNKNOWN.search(error)
    if unknown is not None:
        return _unknown(unknown[1], scope, elsewhere)
    found = _AT.search(error)
    if found is None:
        return Fault(message=f"cannot be used: {_short(error)}", fix="make it simpler")
    what = _short(found[3].partition(" expecting ")[0])
    return Fault(message=f"is not valid CEL: {what} (line {found[1]}, column {found[2]})", fix="correct it")


def _unknown(name: str, scope: Scope, elsewhere: frozenset[str]) -> Fault:
    parts = name.split(".")
    seen = ", ".join(scope.steps) or "none yet"
    if parts[0] == "steps":
        step = parts[1] if len(parts) > 1 else ""
        if step in scope.steps:
            meant = closest(parts[2], STEP_FIELDS) if len(parts) > 2 else None
            fix = f'did you mean "steps.{step}.{meant}"?' if meant else f"add one of {', '.join(STEP_FIELDS)}"
            return Fault(message=f'"{name}" is not known: a step has {", ".join(STEP_FIELDS)}', fix=fix)
        if step in elsewhere:
            return Fault(
                message=f'the step "{step}" has not surely run before; those that have: {seen}',
                fix="use the output of the step around it, or move it",
            )
        meant = closest(step, scope.steps)
        fix = f'did you mean "{meant}"?' if meant else "name one of them"
        return Fault(message=f'there is no step "{step}" before; there are: {seen}', fix=fix)
    if name == "iteration":
        return Fault(message='"iteration" is known only within a loop', fix="remove it, or move the step")
    known = [*scope.variables, *(f"steps.{s}" for s in scope.steps)]
    meant = closest(name, known)
    have = ", ".join([*scope.variables[: len(ALWAYS) + scope.loop], "steps.<name>.…"])
    return Fault(
        message=f'"{name}" is not known; there are {have}',
        fix=f'did you mean "{meant}"?' if meant else "name one",
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    text = re.sub(r" ?\[[A-Z_]+\]$", "", text)
    text = re.sub(r"^[A-Z_]+: ", "", text)
    return text if len(text) <= 200 else text[:199] + "…"


_NAMES = {"BOOL": "true or false", "STRING": "a text", "INT": "a whole number", "DOUBLE": "a number"}


def _words(kind: Any) -> str:
    name = str(kind.name())
    return _NAMES.get(name, f"a {name.partition('<')[0].lower()}")


def _types() -> Any:
    from cel_expr_python import cel  # noqa: PLC0415  the library is loaded by those who have a workflow

    return cel.Type


@lru_cache(maxsize=32)
def _environment(scope: Scope) -> Any:
    from cel_expr_python import cel  # noqa: PLC0415

    kinds = {
        "output": cel.Type.DYN,
        "answer": cel.Type.STRING,
        "error": cel.Type.STRING,
        "evidence": cel.Type.List(cel.Type.Map(cel.Type.STRING, cel.Type.DYN)),
    }
    variables = {
        name: kinds.get(name.rsplit(".", 1)[-1], cel.Type.STRING)
        if name.startswith("steps.")
        else (cel.Type.INT if name == "iteration" else cel.Type.STRING)
        for name in scope.variables
    }
    return cel.NewEnv(variables=variables)


def _compiled(expression: str, scope: Scope) -> Any:
    # Steps that it does not name would only cost: 50 KB and 1 ms for twenty of them.
    named = Scope(steps=tuple(name for name in scope.steps if name in expression), loop=scope.loop)
    return _compiled_in(expression, named)


@lru_cache(maxsize=128)  # 0.1 MB each
def _compiled_in(expression: str, scope: Scope) -> Any:
    return _environment(scope).compile(expression)
