"""JSON out of what a model wrote, checked against a schema."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import msgspec

Schema = Mapping[str, object]
ANY_OBJECT: Schema = {"type": "object"}

_MAX_PROBLEMS = 10
_MAX_PROBLEM_CHARS = 300
_FENCED = re.compile(r"```[a-zA-Z]*\s*\n(.*?)\n?\s*```", re.DOTALL)
_BRACKETS = {"{": "}", "[": "]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What a text came to.

    Attributes:
        value: The JSON in it; None also if there is none.
        text: The JSON alone, as it was written.
        problems: Why it does not satisfy the schema, in words for a model; empty: it does.
    """

    value: object
    text: str
    problems: tuple[str, ...]


def validate(text: str, schema: Schema) -> Checked:
    """Finds the JSON in a text and checks it.

    A code fence or words around it do not count. `schema` is one that
    `manifests.schema_problem` accepts.
    """
    from jsonschema_rs import RegexOptions, validator_for  # noqa: PLC0415  10 MB

    validator = validator_for(dict(schema), offline=True, pattern_options=RegexOptions())
    unread = ""
    for candidate in _candidates(text.strip()):
        try:
            value = msgspec.json.decode(candidate)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
            unread = unread or f"It is not valid JSON ({error})."
            continue
        errors = islice(validator.iter_errors(value), _MAX_PROBLEMS)
        return Checked(
            value=value,
            text=candidate,
            problems=tuple(problem(error.instance_path, error.message) for error in errors),
        )
    return Checked(value=None, text=text, problems=(unread,))


def strings(value: object) -> Iterator[str]:
    """All texts in a JSON value, in order."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


def _candidates(text: str) -> Iterator[str]:
    """The text itself, what is in its code fences, and what begins and ends with brackets."""
    yield text
    yield from (fenced.strip() for fenced in islice(_FENCED.findall(text), _MAX_PROBLEMS))
    starts = [at for at in (text.find(bracket) for bracket in _BRACKETS) if at >= 0]
    if starts:
        start = min(starts)
        end = text.rfind(_BRACKETS[text[start]])
        if end > start and (start > 0 or end < len(text) - 1):
            yield text[start : end + 1]


def problem(path: list[str | int], message: str) -> str:
    """Where a value does not satisfy its schema and why, in words for a model."""
    at = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    words = " ".join(message.split())
    if len(words) > _MAX_PROBLEM_CHARS:
        words = words[: _MAX_PROBLEM_CHARS - 1] + "…"
    return f"${at}: {words}"
