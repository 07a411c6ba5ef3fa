"""spec.session: its fields, and what is refused."""

from pathlib import Path

import pytest

from manifests import AgentTeam, load_text

TEAM = """\
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: helpdesk}
spec:
  modelConfigRef: {name: chat}
  members: [{name: agent}]
  session: SESSION
"""


def test_all_fields() -> None:
    summary = "{enabled: true, triggerTokens: 500}"
    session = f"{{historyRuns: 68, summary: {summary}, retentionDays: 30, userMemory: ReadOnly}}"
    content = load_text(TEAM.replace("SESSION", session), Path("t.yaml"))
    assert content.problems == []
    team = content.objects[0].resource
    assert isinstance(team, AgentTeam)
    policy = team.spec.session
    assert (policy.history_runs, policy.retention_days, policy.user_memory) == (68, 30, "ReadOnly")
    assert (policy.summary.enabled, policy.summary.trigger_tokens) == (True, 500)


def test_nothing_is_remembered_or_summed_up_or_deleted_unless_a_team_says_so() -> None:
    team = load_text(TEAM.replace("SESSION", "{}"), Path("t.yaml")).objects[0].resource
    assert isinstance(team, AgentTeam)
    policy = team.spec.session
    assert (policy.summary.enabled, policy.summary.trigger_tokens) == (False, 8000)
    assert (policy.retention_days, policy.user_memory) == (None, "Off")


@pytest.mark.parametrize(
    ("session", "field", "words"),
    [
        ("{retentionDays: 0}", "spec.session.retentionDays", "1"),
        ("{userMemory: Yes}", "spec.session.userMemory", "ReadWrite"),
        ("{summary: {enabled: true, triggerTokens: 10}}", "spec.session.summary.triggerTokens", "200"),
        ("{summary: {enabled: true}, historyRuns: 69}", "spec.session.historyRuns", "lower it"),
    ],
)
def test_what_is_refused_says_where_and_how_to_mend_it(session: str, field: str, words: str) -> None:
    (problem,) = load_text(TEAM.replace("SESSION", session), Path("t.yaml")).problems
    assert problem.field == field
    assert words in f"{problem.message} {problem.fix}"
