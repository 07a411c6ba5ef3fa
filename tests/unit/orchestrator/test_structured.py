"""JSON out of what a model wrote."""

import time

import pytest

from orchestrator.core.structured import strings, validate

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "years": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ada"}',
        ' {"name": "Ada"}\n',
        '```json\n{"name": "Ada"}\n```',
        'Here it is:\n```\n{"name": "Ada"}\n```\nAnything else?',
        'The answer is {"name": "Ada"}. [1]',
    ],
)
def test_json_is_found_and_given_back_alone(text: str) -> None:
    checked = validate(text, SCHEMA)
    assert (checked.value, checked.text, checked.problems) == ({"name": "Ada"}, '{"name": "Ada"}', ())


def test_every_problem_says_where() -> None:
    checked = validate('{"name": "A", "years": "two", "tags": ["a", 1]}', SCHEMA)
    assert checked.value == {"name": "A", "years": "two", "tags": ["a", 1]}
    assert sorted(problem.split(":")[0] for problem in checked.problems) == ["$.name", "$.tags[1]", "$.years"]


@pytest.mark.parametrize("text", ["", "I do not know.", '{"name": ', "{'name': 'Ada'}", '{"name": NaN}'])
def test_what_is_no_json_is_told_so(text: str) -> None:
    checked = validate(text, SCHEMA)
    assert checked.value is None
    assert checked.text == text
    assert "not valid JSON" in checked.problems[0]


def test_problems_are_bounded() -> None:
    schema = {"type": "array", "items": {"type": "string"}}
    checked = validate(f"[{','.join(['1'] * 1000)}]", schema)
    assert len(checked.problems) == 10
    long = validate('{"name": "Ada", "' + "x" * 5000 + '": 1}', SCHEMA)
    assert all(len(problem) <= 310 for problem in long.problems)


def test_a_pattern_cannot_stop_the_process() -> None:
    schema = {"type": "string", "pattern": "^(a+)+$"}
    began = time.perf_counter()
    assert validate('"' + "a" * 20_000 + '!"', schema).problems
    assert time.perf_counter() - began < 1.0


def test_deep_json_is_a_problem_and_no_crash() -> None:
    assert validate("[" * 100_000, {}).problems


def test_texts_of_a_value() -> None:
    assert list(strings({"a": ["x", 1, {"b": "y"}], "c": None})) == ["x", "y"]
