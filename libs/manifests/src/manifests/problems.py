"""Problems of manifests, and the words for what pydantic finds."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from manifests.base import PATTERN_WORDS, Violation, dotted

MAX_VALUE_CHARACTERS = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a manifest, and what to do about it."""

    path: Path
    line: int
    """1-based."""
    field: str
    """Dotted, such as `spec.members[1].name`; empty when it is about the document as a whole."""
    message: str
    """What is wrong, as the rest of a sentence that begins with the field."""
    value: str | None = None
    """What is there, as YAML would write it on a line; None when nothing is or it must not be shown."""
    fix: str = ""
    object: str = ""
    """Such as `AgentTeam default/docs-team`; empty when the document does not say."""

    def __str__(self) -> str:
        """`team.yaml:12: spec.members[1].name: must be … (got "X"); give each its own name`."""
        text = f"{self.path}:{self.line}: " + (f"{self.field}: " if self.field else "") + self.message
        if self.value is not None:
            text += f" (got {self.value})"
        return f"{text}; {self.fix}" if self.fix else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A problem before it has a file and a line."""

    at: tuple[str | int, ...]
    message: str
    fix: str = ""
    value: str | None = None


Place = tuple[str | int, ...]
Complaint = tuple[Place, str, str]
"""A field, what is wrong with it, and the fix."""


def shown(value: object) -> str:
    """A value as a short single line."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "…"


def closest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant."""
    by_lower = {k.lower(): k for k in known}
    found = difflib.get_close_matches(word.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def findings(model: type[BaseModel], details: Sequence[ErrorDetails]) -> Iterator[Finding]:
    """Pydantic's errors in our words, with the fix."""
    for detail in details:
        at = tuple(part for part in detail["loc"] if part != "[key]")  # pydantic's mark of a wrong key
        context: Mapping[str, Any] = detail.get("ctx", {})
        violations: tuple[Violation, ...] = context.get("violations", ())
        for violation in violations:
            value = _value_at(detail["input"], violation.at)
            yield Finding(at=at + violation.at, message=violation.message, fix=violation.fix, value=value)
        if violations or _only_follows(detail):
            continue
        message, fix = _words(model, detail)
        hide = detail["type"] in ("missing", "extra_forbidden", "url_credentials")
        yield Finding(at=at, message=message, fix=fix, value=None if hide else shown(detail["input"]))


def _only_follows(detail: ErrorDetails) -> bool:
    """A list counts as too short when its items are wrong: then those are the problem."""
    value = detail["input"]
    return detail["type"] == "too_short" and isinstance(value, list) and len(value) > 0


def _value_at(value: object, path: tuple[str | int, ...]) -> str | None:
    for part in path:
        is_key = isinstance(value, dict) and part in value
        is_index = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if not (is_key or is_index):
            return None
        value = value[part]  # type: ignore[index]
    return shown(value) if isinstance(value, str | int | float) else None


_LIMITS = {
    "greater_than_equal": ("must be at least {ge}", ""),
    "less_than_equal": ("must be at most {le}", ""),
    "too_short": ("must have at least {min_length} item", "add one"),
    "too_long": ("must have at most {max_length} items", "remove some"),
    "string_too_short": ("must not be empty", ""),
    "string_too_long": ("must have at most {max_length} characters", "shorten it"),
}


def _words(model: type[BaseModel], detail: ErrorDetails) -> tuple[str, str]:
    """Message and fix."""
    kind, at, value = detail["type"], detail["loc"], detail["input"]
    context: Mapping[str, Any] = detail.get("ctx", {})
    words = (detail["msg"][:1].lower() + detail["msg"][1:], "")
    if kind == "extra_forbidden":
        known = fields_at(model, at[:-1])
        meant = closest(str(at[-1]), known)
        words = ("unknown field", f'did you mean "{meant}"?' if meant else f"known here: {', '.join(known)}")
    elif kind == "missing":
        words = ("is required", f'add "{at[-1]}:"')
    elif kind == "literal_error":
        words = _choice(str(context["expected"]), value)
    elif kind in _LIMITS:
        message, fix = _LIMITS[kind]
        words = (message.format(**context), fix)
    elif kind == "string_pattern_mismatch":
        words = (PATTERN_WORDS.get(str(context["pattern"]), words[0]), "")
    elif kind in _TYPES:
        words = _wrong_type(_TYPES[kind], value)
    return words


def _choice(expected: str, value: object) -> tuple[str, str]:
    """`expected` is pydantic's "'A', 'B' or 'C'"."""
    choices = [part.strip().strip("'") for part in expected.replace(" or ", ",").split(",")]
    message = f"must be {choices[0]}" if len(choices) == 1 else f"must be one of {', '.join(choices)}"
    meant = closest(value, choices) if isinstance(value, str) else None
    if value is None and "None" in choices:
        return message, 'write "None" with a capital and quotes'
    return message, f'did you mean "{meant}"?' if meant else ""


_TYPES = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "tuple_type": "a list",
    "model_type": "an object with fields",
    "dict_type": "an object with fields",
}


def _wrong_type(wanted: str, value: object) -> tuple[str, str]:
    fix = ""
    if wanted == "text" and isinstance(value, bool):
        fix = "put it in quotes (YAML reads yes, no, on and off as true and false)"
    elif wanted == "text" and isinstance(value, int | float):
        fix = f'put it in quotes: "{value}"'
    elif wanted == "a whole number" and isinstance(value, str) and value.strip().lstrip("-").isdigit():
        fix = "remove the quotes"
    elif wanted == "a list":
        fix = "begin each item with '- '"
    elif wanted == "an object with fields":
        fix = "write its fields below it, indented"
    return f"must be {wanted}", fix


def fields_at(model: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """The YAML names of the fields that an object at this place can have."""
    here: type[BaseModel] | None = model
    for part in path:
        if here is None:
            return []
        if isinstance(part, int):
            continue  # the annotation of a list already led to its items
        annotation = next(
            (f.annotation for n, f in here.model_fields.items() if (f.alias or n) == part), None
        )
        here = _model_in(annotation)
    return [] if here is None else [f.alias or n for n, f in here.model_fields.items()]


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for part in get_args(annotation):
        found = _model_in(part)
        if found is not None:
            return found
    return None


def place(path: Path, line: int, finding: Finding, object_name: str) -> Problem:
    """A finding at a line of a file."""
    return Problem(
        path=path,
        line=line,
        field=dotted(finding.at),
        message=finding.message,
        value=finding.value,
        fix=finding.fix,
        object=object_name,
    )
