"""Golden sets of teams: what their questions must be, and a hash of them that the services agree on."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Protocol

from servicekit.errors import InvalidArgument

MAX_QUESTIONS = 500
_MAX_EXPECTED = 50
_MAX_ID, _MAX_QUESTION, _MAX_TEXT = 128, 8_192, 1_024


class GoldenQuestion(Protocol):
    """A question as messages have it."""

    @property
    def id(self) -> str:
        """Unique in its set."""
        ...

    @property
    def question(self) -> str:
        """What the team is asked."""
        ...

    @property
    def sources(self) -> Sequence[str]:
        """Documents that should be found."""
        ...

    @property
    def facts(self) -> Sequence[str]:
        """What the answer should say."""
        ...


def check_questions(questions: Sequence[GoldenQuestion]) -> None:
    """The field `questions` of a request.

    Raises:
        InvalidArgument: There are none or too many; or one of them is empty, too long, or of another's id.
    """
    if not 1 <= len(questions) <= MAX_QUESTIONS:
        raise InvalidArgument.field("questions", f"must be 1 to {MAX_QUESTIONS}", len(questions))
    seen: set[str] = set()
    for index, one in enumerate(questions):
        field = f"questions[{index}]"
        _check_text(f"{field}.id", one.id, _MAX_ID)
        _check_text(f"{field}.question", one.question, _MAX_QUESTION)
        for name, values in (("sources", one.sources), ("facts", one.facts)):
            if len(values) > _MAX_EXPECTED:
                raise InvalidArgument.field(f"{field}.{name}", f"at most {_MAX_EXPECTED}", len(values))
            for position, value in enumerate(values):
                _check_text(f"{field}.{name}[{position}]", value, _MAX_TEXT)
        if one.id in seen:
            raise InvalidArgument.field(
                f"{field}.id", "is another question's already; choose another", one.id
            )
        seen.add(one.id)


def _check_text(field: str, value: str, maximum: int) -> None:
    if not value.strip():
        raise InvalidArgument.field(field, "is required")
    if len(value) > maximum:
        raise InvalidArgument.field(field, f"has {len(value)} characters, at most {maximum} are allowed")
    if "\0" in value:  # Postgres cannot hold it
        raise InvalidArgument.field(field, "has a NUL character; remove it")


def fingerprint(questions: Iterable[tuple[str, str, Sequence[str], Sequence[str]]]) -> str:
    """The same for the same questions in any order.

    Args:
        questions: Id, text, sources and facts of each.
    """
    rows = sorted([id_, text, sorted(sources), sorted(facts)] for id_, text, sources, facts in questions)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
