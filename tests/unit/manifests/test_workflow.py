# ruff: noqa: E501  problems are written as users read them
"""What is wrong with a workflow is said when its manifest is read: field, value and fix."""

import json
from pathlib import Path

import pytest

from manifests import AgentTeam, load_text

TEAM = """\
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: t}
spec:
  mode: Workflow
  modelConfigRef: {name: chat}
  members: [{name: ann}, {name: ben}]
  workflow:
    steps:
    - {name: find, member: ann, task: "Find {{ input }}"}
    - name: check
      condition:
        expression: steps.find.evidence.size() > 0
        then:
        - {name: inner, member: ben}
    - name: repeat
      loop:
        until: steps.draft.answer == 'OK'
        maxIterations: 5
        steps:
        - {name: draft, member: ann, task: "{{ iteration }}: {{ steps.draft.answer }}"}
    - name: pick
      router:
        expression: steps.check.answer
        choices:
        - {when: a, steps: [{name: first, member: ann}]}
        - {when: b, steps: [{name: second, member: ann}]}
    - {name: call, workflow: {name: sub}, input: steps.find.output}
    - {name: agree, approval: {message: "Is {{ steps.call.answer }} right?"}}
    - {name: last, member: ben, output: {schema: {type: object}}}
    output: steps.last.output.text
    definitions:
    - {name: sub, steps: [{name: find, member: ann, task: "{{ input }}"}], output: steps.find.answer}
"""
HERE = 'there is no step "fnid" before; there are: '
W = "spec.workflow"

# text to replace, by what, the whole problem without the file's name and line
CASES = [
    (
        "mode: Workflow",
        "mode: Coordinate",
        f"{W}: goes only with mode Workflow, not with Coordinate; remove it, or change mode",
    ),
    # names
    (
        '{name: find, member: ann, task: "Find',
        '{name: Find-it, member: ann, task: "Find',
        f"{W}.steps[0].name: must be letters, digits and '_', at most 40, a lower-case letter first "
        '(got "Find-it")',
    ),
    (
        "{name: inner,",
        "{name: in,",
        f"{W}.steps[1].condition.then[0].name: is a word of the expression language "
        '(got "in"); give it another name',
    ),
    (
        "{name: inner,",
        "{name: find,",
        f'{W}.steps[1].condition.then[0].name: "find" is the name of '
        'spec.workflow.steps[0] already (got "find"); give each its own name',
    ),
    (
        "member: ben}\n    - name: repeat",
        "member: bne}\n    - name: repeat",
        f'{W}.steps[1].condition.then[0].member: there is no member "bne"; there are: ann, ben (got "bne"); '
        'did you mean "ben"?',
    ),
    (
        "workflow: {name: sub}",
        "workflow: {name: sup}",
        f"{W}.steps[4].workflow.name: there is no definition "
        '"sup"; there are: sub (got "sup"); did you mean "sub"?',
    ),
    (
        "{when: b,",
        "{when: a,",
        f'{W}.steps[3].router.choices[1].when: "a" is there already (got "a"); remove one',
    ),
    # one kind a step
    (
        "{name: inner, member: ben}",
        "{name: inner}",
        f'{W}.steps[1].condition.then[0]: the step "inner" does '
        "nothing; give it one of member, parallel, condition, loop, router, workflow, approval",
    ),
    (
        "{name: inner, member: ben}",
        "{name: inner, member: ben, approval: {message: x}}",
        f'{W}.steps[1].condition.then[0]: the step "inner" has member and approval; give it one of member, '
        "parallel, condition, loop, router, workflow, approval",
    ),
    (
        "workflow: {name: sub}, input",
        "workflow: {name: sub}, task: x, input",
        f'{W}.steps[4].task: goes only with member, not with workflow (got "x"); remove it',
    ),
    (
        'right?"}}',
        'right?"}, retries: {maxAttempts: 2}}',
        f"{W}.steps[5].retries: a person is asked once; remove it",
    ),
    (
        "maxIterations: 5",
        "maxIterations: 101",
        f"{W}.steps[2].loop.maxIterations: must be at most 100 (got 101)",
    ),
    (
        "{schema: {type: object}}",
        "{schema: {type: objekt}}",
        f"{W}.steps[6].output.schema: is not a valid JSON "
        "schema: \"objekt\" is not valid under any of the schemas listed in the 'anyOf' keyword at type; "
        "correct it, or leave output out",
    ),
    # expressions
    (
        "steps.find.evidence.size() > 0",
        "steps.fnid.evidence.size() > 0",
        f'{W}.steps[1].condition.expression: {HERE}find (got "steps.fnid.evidence.size() > 0"); did you mean "find"?',
    ),
    (
        "steps.find.evidence.size() > 0",
        "steps.find.evidence.size()",
        f"{W}.steps[1].condition.expression: gives a whole number, and true or false is needed (got "
        '"steps.find.evidence.size()"); compare it, for example with ==',
    ),
    (
        "steps.find.evidence.size() > 0",
        "steps.find.answr == ''",
        f'{W}.steps[1].condition.expression: "steps.find.answr" is not known: a step has output, answer, evidence, '
        'error (got "steps.find.answr == \'\'"); did you mean "steps.find.answer"?',
    ),
    (
        "steps.find.evidence.size() > 0",
        "steps.find == null",
        f'{W}.steps[1].condition.expression: "steps.find" is not known: a step has output, answer, evidence, error '
        '(got "steps.find == null"); add one of output, answer, evidence, error',
    ),
    (
        "steps.find.evidence.size() > 0",
        "steps.pick.answer == ''",
        f'{W}.steps[1].condition.expression: the step "pick" has not surely run before; those that have: find '
        "(got \"steps.pick.answer == ''\"); use the output of the step around it, or move it",
    ),
    (
        "output: steps.last.output.text",
        "output: steps.inner.answer",
        f'{W}.output: the step "inner" has not surely run before; those that have: find, check, repeat, pick, call, '
        'agree, last (got "steps.inner.answer"); use the output of the step around it, or move it',
    ),
    (
        "steps.find.evidence.size() > 0",
        "input > 1",
        f"{W}.steps[1].condition.expression: is not valid CEL: found no matching overload for '_>_' "
        "applied to '(string, int)' (line 1, column 7) (got \"input > 1\"); correct it",
    ),
    (
        "steps.find.evidence.size() > 0",
        "size(input) >",
        f"{W}.steps[1].condition.expression: is not valid CEL: Syntax error: mismatched input '<EOF>' "
        '(line 1, column 14) (got "size(input) >"); correct it',
    ),
    (
        "steps.find.evidence.size() > 0",
        "iteration > 1",
        f'{W}.steps[1].condition.expression: "iteration" is known only within a loop (got "iteration > 1"); '
        "remove it, or move the step",
    ),
    (
        "steps.find.evidence.size() > 0",
        "question == ''",
        f'{W}.steps[1].condition.expression: "question" is not known; there are input, run.name, run.team, '
        "steps.<name>.… (got \"question == ''\"); name one",
    ),
    (
        "steps.draft.answer == 'OK'",
        "iteration + 1",
        f"{W}.steps[2].loop.until: gives a whole number, and true or false is needed "
        '(got "iteration + 1"); compare it, for example with ==',
    ),
    (
        "expression: steps.check.answer",
        "expression: steps.check.evidence",
        f'{W}.steps[3].router.expression: gives a list, and a text is needed (got "steps.check.evidence"); '
        "wrap it in string(…)",
    ),
    (
        "Find {{ input }}",
        "Find {{ inptu }}",
        f'{W}.steps[0].task: {{{{ inptu }}}}: "inptu" is not known; there are '
        'input, run.name, run.team, steps.<name>.… (got "Find {{ inptu }}"); did you mean "input"?',
    ),
    (
        "Find {{ input }}",
        "Find {{ input",
        f"{W}.steps[0].task: has '{{{{' or '}}}}' without the other "
        '(got "Find {{ input"); write {{ expression }}',
    ),
    (
        "input: steps.find.output",
        "input: timestamp('2026-01-01T00:00:00Z')",
        f"{W}.steps[4].input: gives a timestamp, which JSON has not (got "
        "\"timestamp('2026-01-01T00:00:00Z')\"); wrap it in string(…)",
    ),
    (
        "{{ steps.call.answer }}",
        "{{ steps.last.answer }}",
        f'{W}.steps[5].approval.message: {{{{ steps.last.answer }}}}: the step "last" has not surely run before; '
        'those that have: find, check, repeat, pick, call (got "Is {{ steps.last.answer }} right?"); use the output '
        "of the step around it, or move it",
    ),
    (
        "output: steps.last.output.text",
        "output: " + " + ".join(["input"] * 18),
        f"{W}.output: has more than 2 of all, exists, exists_one, map and filter, or more than 16 '+' (got "
        f'"{" + ".join(["input"] * 18)[:78]}…); do a part of it in a step before',
    ),
    (
        "output: steps.last.output.text",
        'output: "[1].map(a, [1].map(b, [1].all(c, c > 0)))"',
        f"{W}.output: has more than 2 of all, exists, exists_one, map and filter, or more than 16 '+' (got "
        '"[1].map(a, [1].map(b, [1].all(c, c > 0)))"); do a part of it in a step before',
    ),
    (
        "output: steps.last.output.text",
        'output: "' + "(" * 60 + "1" + ")" * 60 + '"',
        f'{W}.output: cannot be used: Expression recursion limit exceeded. limit: 32 (got "{"(" * 60}1{")" * 17}…); '
        "make it simpler",
    ),
    # definitions
    (
        'task: "{{ input }}"}]',
        'task: "{{ steps.call.answer }}"}]',
        f'{W}.definitions[0].steps[0].task: {{{{ steps.call.answer }}}}: there is no step "call" before; there are: '
        'none yet (got "{{ steps.call.answer }}"); name one of them',
    ),
    (
        'member: ann, task: "{{ input }}"}]',
        "workflow: {name: sub}}]",
        f"{W}.definitions[0]: calls itself: sub -> sub; break the circle; what shall be repeated is a loop",
    ),
    # depth
    (
        "{name: inner, member: ben}",
        "{name: a, loop: {steps: [{name: b, loop: {steps: [{name: c, member: ann}]}}]}}",
        f"{W}.steps[1].condition.then[0].loop.steps[0].loop: steps nest three levels deep, and this would be the "
        "fourth; move it into spec.workflow.definitions and call it with workflow: {name: …}",
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), CASES, ids=[c[2][:70] for c in CASES])
def test_a_broken_workflow_is_refused_with_field_value_and_fix(old: str, new: str, expected: str) -> None:
    assert old in TEAM
    content = load_text(TEAM.replace(old, new, 1), Path("t.yaml"))
    problems = [str(p).split(": ", 1)[1] for p in content.problems]
    assert problems == [expected]


def test_a_sound_workflow_is_accepted() -> None:
    assert load_text(TEAM, Path("t.yaml")).problems == []


def test_definitions_may_not_call_one_another_in_a_circle() -> None:
    circle = "\n".join(
        f"    - {{name: {name}, steps: [{{name: s, workflow: {{name: {called}}}}}]}}"
        for name, called in (("one", "two"), ("two", "three"), ("three", "one"), ("four", "one"))
    )
    content = load_text(f"{TEAM}{circle}\n", Path("t.yaml"))
    assert [p.message for p in content.problems] == [
        "calls itself: one -> two -> three -> one",
        "calls itself: two -> three -> one -> two",
        "calls itself: three -> one -> two -> three",
    ]


def test_a_workflow_has_two_hundred_steps_at_most() -> None:
    def text(blocks: int) -> str:
        steps = ", ".join(f"{{name: s{n}, member: ann}}" for n in range(19))
        loops = "\n".join(f"    - {{name: b{n}, loop: {{steps: [{steps}]}}}}" for n in range(blocks))
        return TEAM.partition("    steps:")[0] + f"    steps:\n{loops}\n"

    assert load_text(text(10), Path("t.yaml")).problems == []
    (problem,) = load_text(text(11), Path("t.yaml")).problems
    assert problem.message == "has 220 steps; 200 is the most"


def test_mode_workflow_needs_one() -> None:
    head, _, _ = TEAM.partition("  workflow:")
    (problem,) = load_text(head, Path("t.yaml")).problems
    assert str(problem).endswith("spec.workflow: is required with mode Workflow; add it, or change mode")


def test_the_schema_has_a_size_that_a_cluster_takes() -> None:
    """A structural schema has no references: with a fourth level it would have more than 2 MB."""
    schema = AgentTeam.model_json_schema(by_alias=True)

    def inlined(node: object) -> object:
        if isinstance(node, dict):
            if "$ref" in node:
                return inlined(schema["$defs"][str(node["$ref"]).rsplit("/", 1)[-1]])
            return {key: inlined(value) for key, value in node.items() if key != "$defs"}
        return [inlined(item) for item in node] if isinstance(node, list) else node

    assert len(json.dumps(inlined(schema))) < 700_000
