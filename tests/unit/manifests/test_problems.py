"""Every mistake names its line, field, value and fix."""

from pathlib import Path

import pytest

from manifests import AgentTeamSpec, load_text

TEAM_FIELDS = ", ".join(str(field.alias) for field in AgentTeamSpec.model_fields.values())

TEAM = """\
apiVersion: agentteams.dev/v1alpha1
kind: AgentTeam
metadata:
  name: docs-team
spec:
  modelConfigRef: {name: chat}
  members:
  - name: analyst
    knowledge: [docs]
  knowledge:
  - name: docs
    knowledgeBaseRef: {name: docs}
    topK: 4
"""
KNOWLEDGE = """\
apiVersion: agentteams.dev/v1alpha1
kind: KnowledgeBase
metadata:
  name: docs
spec:
  embedding: {modelConfigRef: {name: embed}}
  chunking:
    maxTokens: 100
    overlapTokens: 10
"""
MODEL = """\
apiVersion: agentteams.dev/v1alpha1
kind: ModelConfig
metadata:
  name: chat
spec:
  type: Chat
  provider: OpenAICompatible
  model: qwen3
  endpoint:
    url: https://models.example.com/v1
  credentialsSecretKeyRef: {name: llm, key: apiKey}
  parameters: {temperature: "0.2"}
"""

# base, text to replace, by what, the whole problem without the file's name
CASES = [
    (TEAM, "topK:", "toppK:", '13: spec.knowledge[0].toppK: unknown field; did you mean "topK"?'),
    (
        TEAM,
        "  members:",
        "  colour: {}\n  members:",
        f"7: spec.colour: unknown field; known here: {TEAM_FIELDS}",
    ),
    (TEAM, "topK: 4", "topK: 0", "13: spec.knowledge[0].topK: must be at least 1 (got 0)"),
    (TEAM, "topK: 4", "topK: 101", "13: spec.knowledge[0].topK: must be at most 100 (got 101)"),
    (
        TEAM,
        "topK: 4",
        'topK: "4"',
        '13: spec.knowledge[0].topK: must be a whole number (got "4"); remove the quotes',
    ),
    (
        TEAM,
        "topK: 4",
        "minScore: 0.5",
        '13: spec.knowledge[0].minScore: must be text (got 0.5); put it in quotes: "0.5"',
    ),
    (
        TEAM,
        "topK: 4",
        'minScore: "half"',
        '13: spec.knowledge[0].minScore: must be a decimal in quotes, such as "0.92" (got "half")',
    ),
    (
        TEAM,
        "topK: 4",
        'minScore: "1.5"',
        '13: spec.knowledge[0].minScore: must be between -1 and 1 (got "1.5")',
    ),
    (
        TEAM,
        "topK: 4",
        "searchMode: dense",
        "13: spec.knowledge[0].searchMode: must be one of Dense, Sparse, Hybrid "
        '(got "dense"); did you mean "Dense"?',
    ),
    (
        TEAM,
        "topK: 4",
        "search: on",
        "13: spec.knowledge[0].search: must be one of Always, OnDemand (got true)",
    ),
    (
        TEAM,
        "  members:",
        "  mode: Roam\n  members:",
        '7: spec.mode: must be one of Coordinate, Route, Broadcast, Tasks, Workflow (got "Roam")',
    ),
    (
        TEAM,
        "  modelConfigRef: {name: chat}\n",
        "",
        '5: spec.modelConfigRef: is required; add "modelConfigRef:"',
    ),
    (
        TEAM,
        "modelConfigRef: {name: chat}",
        "modelConfigRef: chat",
        '6: spec.modelConfigRef: must be an object with fields (got "chat"); '
        "write its fields below it, indented",
    ),
    (
        TEAM,
        "knowledge: [docs]",
        "knowledge: docs",
        "9: spec.members[0].knowledge: must be a list (got \"docs\"); begin each item with '- '",
    ),
    (
        TEAM,
        "knowledge: [docs]",
        "knowledge: [doc]",
        '9: spec.members[0].knowledge[0]: "doc" is not in spec.knowledge, which has docs (got "doc"); '
        "add it there, or name one that is there",
    ),
    (
        TEAM,
        "knowledge: [docs]",
        "knowledge: [docs, docs]",
        '9: spec.members[0].knowledge[1]: "docs" is listed twice (got "docs"); remove one',
    ),
    (
        TEAM,
        "  knowledge:\n  - name: docs\n",
        "  - name: analyst\n  knowledge:\n  - name: docs\n",
        '10: spec.members[1].name: "analyst" is the name of members[0] already (got "analyst"); '
        "give each its own name",
    ),
    (
        TEAM,
        "name: docs-team",
        "name: Docs_Team",
        "4: metadata.name: must be lower-case letters, digits and '-', at most 63, not beginning or "
        "ending with '-' (got \"Docs_Team\")",
    ),
    (TEAM, "name: docs-team", "name: 12", '4: metadata.name: must be text (got 12); put it in quotes: "12"'),
    (
        TEAM,
        "name: docs-team",
        "name: no",
        "4: metadata.name: must be text (got false); "
        "put it in quotes (YAML reads yes, no, on and off as true and false)",
    ),
    (
        TEAM,
        "kind: AgentTeam",
        "kind: AgentTeams",
        "2: kind: must be one of ModelConfig, KnowledgeBase, AgentTeam "
        '(got "AgentTeams"); did you mean "AgentTeam"?',
    ),
    (TEAM, "kind: AgentTeam", "Kind: AgentTeam", '2: Kind: "kind" is required; "Kind" should be "kind"'),
    (
        TEAM,
        "v1alpha1",
        "v1",
        '1: apiVersion: must be agentteams.dev/v1alpha1 (got "agentteams.dev/v1"); '
        'did you mean "agentteams.dev/v1alpha1"?',
    ),
    (
        TEAM,
        "  members:",
        "  sharing: {memberInteractions: }\n  members:",
        "7: spec.sharing.memberInteractions: must be one of None, Answers, AnswersAndEvidence (got null); "
        'write "None" with a capital and quotes',
    ),
    (TEAM, "topK: 4", "topK: 4\n    topK: 5", '14: the key "topK" is there twice; remove one'),
    (TEAM, "topK: 4", "<<: {topK: 4}", "13: YAML merge keys (<<) are not supported; write the fields out"),
    (
        TEAM,
        "topK: 4",
        "topK: !!python/object/apply:os.getcwd []",
        "13: the YAML tag tag:yaml.org,2002:python/object/apply:os.getcwd is not supported; remove the tag",
    ),
    (
        KNOWLEDGE,
        "overlapTokens: 10",
        "overlapTokens: 100",
        "9: spec.chunking.overlapTokens: overlapTokens (100) must be less than maxTokens (100) (got 100); "
        "lower overlapTokens or raise maxTokens",
    ),
    (
        KNOWLEDGE,
        "maxTokens: 100\n    overlapTokens: 10",
        "maxTokens: 20",
        "8: spec.chunking.maxTokens: overlapTokens (30) must be less than maxTokens (20) (got 20); "
        "lower overlapTokens or raise maxTokens",
    ),
    (
        MODEL,
        """provider: OpenAICompatible
  model: qwen3
  endpoint:
    url: https://models.example.com/v1
  credentialsSecretKeyRef: {name: llm, key: apiKey}
""",
        "provider: BuiltIn\n  model: qwen3\n",
        "8: spec.model: must not be set with provider BuiltIn, whose model the installation provides "
        '(got "qwen3"); remove it, or set provider: OpenAICompatible',
    ),
    (
        MODEL,
        "  endpoint:\n    url: https://models.example.com/v1\n",
        "",
        "5: spec.endpoint: is required with provider OpenAICompatible; add endpoint: {url: https://…/v1}",
    ),
    (
        MODEL,
        "  model: qwen3\n",
        "",
        "5: spec.model: is required with provider OpenAICompatible; name the model",
    ),
    (
        MODEL,
        "https://models",
        "ftp://models",
        "10: spec.endpoint.url: must be a URL such as https://models.example.com/v1 "
        '(got "ftp://models.example.com/v1")',
    ),
    (
        MODEL,
        "https://models",
        "https://me:hunter2@models",
        "10: spec.endpoint.url: must not hold a user or a password; put the key into credentialsSecretKeyRef",
    ),
    (
        MODEL,
        "key: apiKey",
        "key: ../../etc/passwd",
        "11: spec.credentialsSecretKeyRef.key: must be a key of a secret: letters, digits, '-', '_', '.', "
        "and no '.' first (got \"../../etc/passwd\")",
    ),
    (
        MODEL,
        "type: Chat",
        "type: Embedding",
        "12: spec.parameters: only a model of type Chat has parameters; remove it",
    ),
    (
        MODEL,
        'temperature: "0.2"',
        'temperature: "2.5"',
        '12: spec.parameters.temperature: must be between 0 and 2 (got "2.5")',
    ),
]


@pytest.mark.parametrize(("base", "old", "new", "expected"), CASES, ids=[c[3][:60] for c in CASES])
def test_problem_has_line_field_value_and_fix(base: str, old: str, new: str, expected: str) -> None:
    assert old in base
    assert load_text(base, Path("m.yaml")).problems == []
    content = load_text(base.replace(old, new, 1), Path("m.yaml"))
    assert [str(p) for p in content.problems] == [f"m.yaml:{expected}"]
    assert content.objects == []


def test_openai_needs_credentials_and_has_no_endpoint() -> None:
    content = load_text(
        MODEL.replace("OpenAICompatible", "OpenAI").replace(
            "  credentialsSecretKeyRef: {name: llm, key: apiKey}\n", ""
        ),
        Path("m.yaml"),
    )
    assert [(p.line, p.field) for p in content.problems] == [
        (9, "spec.endpoint"),
        (5, "spec.credentialsSecretKeyRef"),
    ]


def test_every_problem_of_a_document_is_reported_with_its_object() -> None:
    text = TEAM.replace("topK: 4", "topK: -1").replace("- name: analyst", "- nam: analyst")
    content = load_text(text, Path("m.yaml"))
    assert [(p.line, p.field, p.object) for p in content.problems] == [
        (8, "spec.members[0].name", "AgentTeam default/docs-team"),
        (8, "spec.members[0].nam", "AgentTeam default/docs-team"),
        (13, "spec.knowledge[0].topK", "AgentTeam default/docs-team"),
    ]


@pytest.mark.parametrize(
    ("bad", "line", "part"),
    [
        ("kind: [unclosed\n", 16, "not valid YAML"),
        ("kind: a\n\tb: c\n", 16, "not valid YAML"),
        ("a: b: c\n", 15, "mapping values are not allowed"),
        ("- just\n- a list\n", 15, "must be an object"),
        ("text\n", 15, "must be an object"),
        ("a: \x07\n", 15, "not valid YAML"),
        ("? {a: b}\n: c\n", 15, "a key must be text"),
        ("a: !!timestamp 2020-01-01\n", 15, "tag"),
        ("a: &x [*x]\n", 15, "deep"),
        ("[" * 500 + "]" * 500 + "\n", 15, "deep"),
    ],
)
def test_a_bad_document_does_not_stop_the_others(bad: str, line: int, part: str) -> None:
    content = load_text(f"{TEAM}---\n{bad}---\n{KNOWLEDGE}", Path("m.yaml"))
    assert [o.key[0] for o in content.objects] == ["AgentTeam", "KnowledgeBase"]
    assert len(content.problems) == 1, content.problems
    assert part in content.problems[0].message
    assert content.problems[0].line == line
    assert content.unidentified


def test_aliases_cannot_grow_without_bound() -> None:
    levels = "\n".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 9))
    content = load_text(f"l0: &l0 [x]\n{levels}\n", Path("m.yaml"))
    assert "more than 20000 values" in content.problems[0].message


def test_lines_count_from_the_start_of_the_file() -> None:
    text = f"# comment\n\n---\n{MODEL}---\n# only a comment\n---\n{TEAM.replace('topK: 4', 'topK: 0')}"
    content = load_text(text, Path("m.yaml"))
    assert [o.key for o in content.objects] == [("ModelConfig", "default", "chat")]
    expected = text[: text.index("topK: 0")].count("\n") + 1
    assert [p.line for p in content.problems] == [expected]


def test_two_documents_of_one_name_the_first_counts() -> None:
    content = load_text(f"{TEAM}---\n{TEAM.replace('topK: 4', 'topK: 9')}", Path("m.yaml"))
    assert len(content.objects) == 1
    assert str(content.problems[0]) == (
        "m.yaml:18: metadata.name: AgentTeam default/docs-team is in m.yaml:1 already, which is the one that "
        "counts; rename or remove one of them"
    )


def test_long_values_are_cut() -> None:
    content = load_text(TEAM.replace("name: docs-team", f"name: {'X' * 500}"), Path("m.yaml"))
    value = content.problems[0].value
    assert value is not None
    assert len(value) == 80
