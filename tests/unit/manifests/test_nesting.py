"""Teams as members of teams."""

from pathlib import Path

import pytest

from manifests import Catalogue, load_text

CHAT = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata: {name: chat}
spec: {type: Chat, provider: BuiltIn}
"""


def team(name: str, *nested: str, spec: str = "") -> str:
    """A team with one agent and these teams as members."""
    members = "".join(f"  - {{name: m-{other}, teamRef: {{name: {other}}}}}\n" for other in nested)
    head = f"apiVersion: agentteams.dev/v1alpha1\nkind: AgentTeam\nmetadata: {{name: {name}}}\n"
    return f"{head}spec:\n  modelConfigRef: {{name: chat}}\n{spec}  members:\n  - name: clerk\n{members}"


def catalogue(folder: Path, *documents: str) -> Catalogue:
    (folder / "all.yaml").write_text("---\n".join((CHAT, *documents)))
    out = Catalogue(folder)
    out.load()
    return out


def refusals(text: str) -> list[str]:
    return [str(problem).split(":", 1)[1] for problem in load_text(text, Path("t.yaml")).problems]


@pytest.mark.parametrize("field", ["instructions: x", "modelConfigRef: {name: chat}", "knowledge: []"])
def test_a_member_is_a_team_or_an_agent(field: str) -> None:
    text = team("outer").replace(
        "  - name: clerk", f"  - name: clerk\n  - {{name: desk, role: r, teamRef: {{name: b}}, {field}}}"
    )
    assert refusals(text) == [
        "8: spec.members[1].teamRef: the member is another team, and has "
        f"{field.partition(':')[0]} of its own; "
        "remove one or the other: the other team works as its own manifest says"
    ]


def test_a_team_that_is_only_another_team_is_refused() -> None:
    text = team("outer", "inner").replace("  - name: clerk\n", "")
    assert refusals(text) == [
        '7: spec.members[0].teamRef: team "inner" would be the only member; '
        "ask that team itself, or add a member"
    ]


def test_a_missing_team_makes_the_outer_ones_not_ready(tmp_path: Path) -> None:
    known = catalogue(tmp_path, team("a", "b"), team("b", "c"))
    assert known.team_problems("default", "b") == [
        'spec.members[1].teamRef.name: no AgentTeam "c" in namespace "default"; apply that AgentTeam, '
        "or name one that is there: a, b"
    ]
    (reason,) = known.team_problems("default", "a")
    assert reason.startswith('AgentTeam default/b spec.members[1].teamRef.name: no AgentTeam "c"')


def test_what_a_nested_team_needs_the_outer_one_needs(tmp_path: Path) -> None:
    uses = "  knowledge: [{name: docs, knowledgeBaseRef: {name: docs}}]\n"
    base = (
        "apiVersion: agentteams.dev/v1alpha1\nkind: KnowledgeBase\nmetadata: {name: docs}\n"
        "spec: {embedding: {modelConfigRef: {name: embed}}}\n"
    )
    known = catalogue(tmp_path, team("a", "b"), team("b", spec=uses), base)
    (reason,) = known.team_problems("default", "a")
    assert reason.startswith(
        'KnowledgeBase default/docs spec.embedding.modelConfigRef.name: no ModelConfig "embed"'
    )


def test_teams_in_a_circle_are_refused(tmp_path: Path) -> None:
    known = catalogue(tmp_path, team("a", "b"), team("b", "c"), team("c", "b"), team("d", "d"))
    reasons = known.team_problems("default", "a")
    assert reasons[0] == (
        "spec.members[1].teamRef.name: the teams lie in a circle: a > b > c > b; "
        "remove one of these references"
    )
    assert known.team_problems("default", "d") == [
        "spec.members[1].teamRef.name: the teams lie in a circle: d > d; remove one of these references"
    ]


def test_four_teams_may_lie_one_within_the_other(tmp_path: Path) -> None:
    known = catalogue(
        tmp_path, team("a", "b"), team("b", "x", "c"), team("c", "d"), team("d", "e"), team("e"), team("x")
    )
    assert known.team_problems("default", "b") == []
    assert known.team_problems("default", "a") == [
        "spec.members[1].teamRef.name: at most 4 teams may lie one within the other: a > b > c > d > e; "
        "let one of them do without a team below it"
    ]


def test_a_limit_of_cost_wants_prices_of_nested_teams_too(tmp_path: Path) -> None:
    limited = '  limits: {maxCostPerRun: "1"}\n'
    priced = CHAT.replace("name: chat", "name: dear").replace(
        "BuiltIn}",
        'BuiltIn, pricing: {currency: EUR, inputPerMillionTokens: "1", outputPerMillionTokens: "1"}}',
    )
    outer = team("a", "b", spec=limited).replace("name: chat", "name: dear")
    known = catalogue(tmp_path, priced, outer, team("b"))
    (reason,) = known.team_problems("default", "a")
    assert "none is known of chat" in reason
