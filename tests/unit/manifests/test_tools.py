"""spec.tools, members[].tools and spec.approvals: what is accepted, and what is said about the rest."""

from pathlib import Path

import pytest

from manifests import AgentTeam, load_text

GOOD = """\
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata: {name: t}
spec:
  modelConfigRef: {name: chat}
  members:
  - {name: clerk, tools: [orders, ask]}
  tools:
  - name: orders
    mcp:
      url: https://tools.example.com/mcp
      headersFrom:
      - {name: Authorization, valueFrom: {secretKeyRef: {name: orders, key: token}}}
      allowedTools: [find, cancel]
      requireApproval: [cancel]
  - {name: ask, builtin: AskUser}
  - {name: sums, python: {module: shop.sums}}
  - {name: inside, mcp: {serviceRef: {name: tools, port: 8080}, allowedTools: [x]}}
  approvals: {allowedUsers: [boss], expireAfterHours: 24}
"""


def test_a_team_with_every_kind_of_tool() -> None:
    content = load_text(GOOD, Path("t.yaml"))
    assert content.problems == []
    team = content.objects[0].resource
    assert isinstance(team, AgentTeam)
    orders, ask, sums, inside = team.spec.tools
    assert orders.mcp is not None
    assert (orders.mcp.transport, orders.mcp.timeout_seconds) == ("StreamableHTTP", 30)
    assert orders.mcp.headers_from[0].value_from.secret_key_ref.key == "token"
    assert (ask.builtin, sums.python and sums.python.module) == ("AskUser", "shop.sums")
    assert inside.mcp is not None
    assert inside.mcp.service_ref is not None
    assert inside.mcp.service_ref.path == "/mcp"
    assert team.spec.approvals.expire_after_hours == 24
    assert team.spec.members[0].tools == ("orders", "ask")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "tools: [orders, ask]",
            "tools: [order]",
            '7: spec.members[0].tools[0]: "order" is not in spec.tools, which has orders, ask, sums, inside '
            '(got "order"); add it there, or name one that is there',
        ),
        (
            "tools: [orders, ask]",
            "tools: [ask, ask]",
            '7: spec.members[0].tools[1]: "ask" is listed twice (got "ask"); remove one',
        ),
        (
            "- {name: ask, builtin: AskUser}",
            "- {name: orders, builtin: AskUser}\n  - {name: ask, python: {module: a}}",
            '16: spec.tools[1].name: "orders" is the name of tools[0] already (got "orders"); '
            "give each its own name",
        ),
        (
            "requireApproval: [cancel]",
            "requireApproval: [refund]",
            '15: spec.tools[0].mcp.requireApproval[0]: "refund" is not in allowedTools, which has find, '
            'cancel (got "refund"); add it there, or remove it here',
        ),
        (
            "builtin: AskUser",
            "builtin: AskUser, python: {module: a}",
            "16: spec.tools[1]: exactly one of mcp, python and builtin is required, and there is python and "
            "builtin; keep one",
        ),
        (
            "serviceRef: {name: tools, port: 8080}, ",
            "",
            "18: spec.tools[3].mcp.url: exactly one of url and serviceRef is required; set one and remove "
            "the other",
        ),
        (
            "https://tools.example.com/mcp",
            "https://me:hunter2@tools.example.com/mcp",
            "11: spec.tools[0].mcp.url: must not hold a user, a password, a query or a fragment; put keys "
            "into headersFrom",
        ),
        (
            "https://tools.example.com/mcp",
            "tools.example.com",
            "11: spec.tools[0].mcp.url: must be a URL such as https://tools.example.com/mcp "
            '(got "tools.example.com")',
        ),
        (
            "      allowedTools: [find, cancel]\n      requireApproval: [cancel]\n",
            "      allowedTools: []\n",
            "14: spec.tools[0].mcp.allowedTools: must have at least 1 item (got []); add one",
        ),
        (
            "shop.sums",
            "../sums",
            "17: spec.tools[2].python.module: must be the name of a Python module, such as shop_tools "
            '(got "../sums")',
        ),
    ],
)
def test_a_problem_has_line_field_value_and_fix(old: str, new: str, expected: str) -> None:
    assert old in GOOD
    content = load_text(GOOD.replace(old, new, 1), Path("t.yaml"))
    assert [str(problem) for problem in content.problems] == [f"t.yaml:{expected}"]
