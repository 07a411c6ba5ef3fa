"""Golden sets of teams as people write them, in YAML.

questions:
- question: Which port does the gateway listen on?
  sources: [docs/api.md]
  facts: ["8080"]          # `a|b`: one of them
"""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from manifests.golden_text import GoldenSetInvalid, read_yaml

FORM = "a team's golden set is `questions: [{question: ..., sources: [PATH], facts: [TEXT]}, ...]`"


class GoldenQuestion(BaseModel):
    """A question, the documents that should be found, and what the answer should say."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(default="", max_length=128)
    question: str = Field(min_length=1, max_length=8_192)
    sources: list[str] = Field(default_factory=list, max_length=50)
    facts: list[str] = Field(default_factory=list, max_length=50)


class _Questions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    questions: list[GoldenQuestion] = Field(min_length=1, max_length=500)


def parse_questions(text: str) -> list[GoldenQuestion]:
    """The questions, each with an id.

    Raises:
        GoldenSetInvalid: It is of another form.
    """
    found = read_yaml(text)
    try:
        questions = _Questions.model_validate(found).questions
    except ValidationError as exc:
        first = exc.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GoldenSetInvalid(f"{where + ': ' if where else ''}{first['msg']}") from exc
    return [one.model_copy(update={"id": one.id or f"q{n}"}) for n, one in enumerate(questions, 1)]
