"""Golden sets in files: YAML or JSON of our own form, or BEIR's in one JSON object.

queries:
- query: How do I start everything?
  relevant: [install.md]                      # paths in the knowledge base
- {id: q2, query: "...", relevant: {a.md: 2, b.md: 1}}   # with grades, 1 to 10

{"queries": {"id": "text"}, "qrels": {"id": {"path": grade}}}
"""

import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from agentteams.retrieval.v1 import evaluation_pb2 as pb
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentteams_cli.errors import CliError

Grade = Annotated[int, Field(ge=1, le=10)]


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


def read_golden_set(file: Path) -> pb.GoldenSet:
    """The queries of a file.

    Raises:
        CliError: It cannot be read, or is of neither form.
    """
    try:
        # JSON is YAML, but a megabyte of it takes YAML's reader a minute.
        text = file.read_text(encoding="utf-8")
        found: Any = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as exc:
        raise CliError(f"{file} cannot be read: {' '.join(str(exc).split())}") from exc
    is_beir = isinstance(found, dict) and "qrels" in found
    try:
        return _of_beir(_Beir.model_validate(found)) if is_beir else _of_own(_Own.model_validate(found))
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CliError(
            f"{file}: {where + ': ' if where else ''}{first['msg']}",
            fix="a golden set is `queries: [{query: ..., relevant: [PATH, ...]}, ...]`",
        ) from exc


def _of_own(found: _Own) -> pb.GoldenSet:
    queries = []
    for number, query in enumerate(found.queries, 1):
        queries.append(_query(query.id or f"q{number}", query.query, query.relevant))
    return pb.GoldenSet(queries=queries)


def _of_beir(found: _Beir) -> pb.GoldenSet:
    """Queries without judgments say nothing, and grade 0 means not relevant."""
    queries = []
    for id_, text in found.queries.items():
        grades = {path: grade for path, grade in found.qrels.get(id_, {}).items() if grade > 0}
        if grades:
            queries.append(_query(id_, text, grades))
    return pb.GoldenSet(queries=queries)


def _query(id_: str, text: str, grades: dict[str, int]) -> pb.GoldenQuery:
    relevant = [pb.Judgment(path=path, grade=grade) for path, grade in grades.items()]
    return pb.GoldenQuery(id=id_, query=text, relevant=relevant)
