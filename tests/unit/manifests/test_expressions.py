"""Expressions: values as JSON has them, and bounds."""

import time

import pytest

from manifests.expressions import (
    ExpressionError,
    Scope,
    canonical,
    evaluate,
    expression_fault,
    render,
    template_faults,
)

SCOPE = Scope(steps=("a", "b"), loop=True)
VALUES: dict[str, object] = {
    "input": "Why?",
    "run.name": "runs/r1",
    "run.team": "t",
    "iteration": 2,
    "steps.a.output": {"n": 3, "list": [1, 2.5, None], "text": "é"},
    "steps.a.answer": "an answer",
    "steps.a.evidence": [{"number": 1, "title": "x.md", "document": "d", "text": "t", "score": 0.5}],
    "steps.a.error": "",
    "steps.b.output": None,
    "steps.b.answer": "",
    "steps.b.evidence": [],
    "steps.b.error": "it broke",
}


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("steps.a.output.n + 1", 4),
        ("steps.a.output.n == 3.0", True),
        ("double(steps.a.output.n) + 1.5", 4.5),
        ("2.0 * 2.0", 4),
        ("{'b': 1, 'a': [steps.a.output]}", {"a": [{"list": [1, 2.5, None], "n": 3, "text": "é"}], "b": 1}),
        ("has(steps.a.output.m) ? 1 : 0", 0),
        ("steps.b.output == null && steps.b.error != ''", True),
        ("steps.a.evidence.filter(e, e.score > 0.4).map(e, e.title)", ["x.md"]),
        ("input.matches('(?i)WHY')", True),
        ("string(iteration) + run.name + run . team", "2runs/r1t"),
        ("'steps.c.answer // not code' + \"'\"", "steps.c.answer // not code'"),
        ("r'\\d' + '''a\"b'''", '\\da"b'),
    ],
)
def test_values(expression: str, value: object) -> None:
    assert expression_fault(expression, SCOPE, wanted="any") is None
    found = evaluate(expression, SCOPE, VALUES)
    assert found == value
    assert repr(found) == repr(value)  # 4 is not 4.0, and keys have their order


@pytest.mark.parametrize(
    ("value", "same"),
    [(3.0, 3), (2.5, 2.5), (2**53 + 2, float(2**53 + 2)), (-0.0, 0), ({"b": 1, "a": 2}, {"a": 2, "b": 1})],
)
def test_a_value_is_as_it_comes_back_from_the_log(value: object, same: object) -> None:
    assert repr(canonical(value)) == repr(same)
    assert repr(canonical(canonical(value))) == repr(same)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, {1: 2}, b"x", {"a": [float("inf")]}])
def test_what_json_has_not_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"JSON has not|too large"):
        canonical(value)


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert canonical("a\ud800b") == "a?b"


@pytest.mark.parametrize(
    ("expression", "wanted", "message"),
    [
        ("steps.a.output.missing", "any", 'Key not found in map : "missing"'),
        ("steps.a.output.n", "bool", "gives '3', and true or false is needed"),
        ("steps.a.output", "text", "and a text is needed"),
        ("steps.b.output.n", "any", "Applying SELECT to non-message type"),
        ("dyn(b'x')", "any", "gives a bytearray, which JSON has not"),
    ],
)
def test_an_expression_without_a_value_says_why(expression: str, wanted: str, message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        evaluate(expression, SCOPE, VALUES, wanted=wanted)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_template_is_filled_with_texts_and_json() -> None:
    template = "{{steps.a.answer}} of {{ steps.a.output }}, {{ 1 < 2 }} {not this} {{ '}' }}"
    assert list(template_faults(template, SCOPE, elsewhere=frozenset())) == []
    filled = 'an answer of {"list": [1, 2.5, null], "n": 3, "text": "é"}, true {not this} }'
    assert render(template, SCOPE, VALUES) == filled


def test_what_could_run_for_ever_or_fill_the_memory_ends_or_is_refused() -> None:
    hundred = "[" + ",".join("1" * 100) + "]"
    many = f"{hundred}.all(a, {hundred}.all(b, a == b || true))"
    assert expression_fault(many, Scope(), wanted="bool") is None
    began = time.process_time()
    with pytest.raises(ExpressionError, match="Iteration budget exceeded"):
        evaluate(many + " && " + many, Scope(), VALUES, wanted="bool")
    slow = {**VALUES, "steps.a.answer": "a" * 60_000 + "!"}
    assert evaluate("steps.a.answer.matches('(a+)+$')", SCOPE, slow) is False
    assert time.process_time() - began < 5
    grows = "[input]" + ".map(x, x + x)" * 3
    assert "more than 2 of all" in str(expression_fault(grows, Scope(), wanted="any"))
    hidden = "[input]" + '.map(x, x + x + "\\".map(")' * 3
    assert "more than 2 of all" in str(expression_fault(hidden, Scope(), wanted="any"))
    commented = "[input] // '\n.map(x, x + x).map(x, x + x).map(x, x + x) // '"
    assert "more than 2 of all" in str(expression_fault(commented, Scope(), wanted="any"))
