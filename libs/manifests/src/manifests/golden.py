"""Golden sets as people write them: YAML or JSON of our own form, or BEIR's in one JSON object.

queries:
- query: How do I start everything?
  relevant: [install.md]                      # paths in the knowledge base
- {id: q2, query: "...", relevant: {a.md: 2, b.md: 1}}   # with grades, 1 to 10

{"queries": {"id": "text"}, "qrels": {"id": {"path": grade}}}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from manifests.golden_text import GoldenSetInvalid, read_yaml

__all__ = ["GoldenQuery", "GoldenSetInvalid", "parse_golden_set"]

Grade = Annotated[int, Field(ge=1, le=10)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenQuery:
    """A query with what it should find: paths with their grades."""

    id: str
    query: str
    relevant: Mapping[str, int]


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str = ""
    query: str = Field(min_length=1)
    relevant: dict[str, Grade] = Field(min_length=1)

    @field_validator("relevant", mode="before")
    @classmethod
    def _paths(cls, value: object) -> object:
        """A list of paths is of grade 1."""
        if isinstance(value, list) and all(isinstance(path, str) for path in value):
            return dict.fromkeys(value, 1)
        return value


class _Own(BaseModel):
    model_config = ConfigDict(extra="forbid")
    queries: list[_Query] = Field(min_length=1)


class _Beir(BaseModel):
    queries: dict[str, str] = Field(min_length=1)
    qrels: dict[str, dict[str, int]] = Field(min_length=1)


def parse_golden_set(text: str, *, name: str) -> list[GoldenQuery]:
    """The queries.

    Args:
        name: Of the file: `.json` at its end is JSON, everything else YAML.

    Raises:
        GoldenSetInvalid: It is of neither form.
    """
    try:
        # JSON is YAML, but a megabyte of it takes YAML's reader a minute.
        found: Any = json.loads(text) if name.endswith(".json") else read_yaml(text)
    except json.JSONDecodeError as exc:
        raise GoldenSetInvalid(f"cannot be read: {exc}") from exc
    except RecursionError as exc:
        raise GoldenSetInvalid("cannot be read: it is nested too deeply") from exc
    is_beir = isinstance(found, dict) and "qrels" in found
    try:
        return _of_beir(_Beir.model_validate(found)) if is_beir else _of_own(_Own.model_validate(found))
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GoldenSetInvalid(f"{where + ': ' if where else ''}{first['msg']}") from exc


def _of_own(found: _Own) -> list[GoldenQuery]:
    return [
        GoldenQuery(id=query.id or f"q{number}", query=query.query, relevant=query.relevant)
        for number, query in enumerate(found.queries, 1)
    ]


def _of_beir(found: _Beir) -> list[GoldenQuery]:
    """Queries without judgments say nothing, and grade 0 means not relevant."""
    queries = []
    for id_, text in found.queries.items():
        grades = {path: grade for path, grade in found.qrels.get(id_, {}).items() if grade > 0}
        if grades:
            queries.append(GoldenQuery(id=id_, query=text, relevant=grades))
    return queries
