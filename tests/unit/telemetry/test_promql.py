"""What an expression names, and what of it nobody has."""

import pytest

from tests.support.promql import BadExpression, Selector, names
from tests.support.telemetry_schema import load_schema

RUNS = "agentteams_runs_total"
STAGES = "agentteams_stage_duration_seconds_bucket"


def test_metrics_labels_and_groupings_are_told_apart() -> None:
    found = names(
        f"sum by (le, stage) (rate({STAGES}{{stage=~\"tool|rerank\", job='x'}}[$__rate_interval])) "
        "/ ignoring(code) group_left(team) max without (pod) (up offset 5m) > bool 0.5e3"
    )
    assert found.selectors == [
        Selector(metric=STAGES, labels=("stage", "job")),
        Selector(metric="up", labels=()),
    ]
    assert found.grouped_by == {"le", "stage", "code", "team", "pod"}


@pytest.mark.parametrize(
    ("expression", "metrics"),
    [
        (f"histogram_quantile(0.99, sum(rate({STAGES}[5m])) by (le))", [STAGES]),
        (f"max_over_time(rate({RUNS}[5m])[1h:1m])", [RUNS]),
        (f'{{__name__="{RUNS}", state="FAILED"}}', [RUNS]),
        (f'label_values({RUNS}{{namespace=~"$namespace"}}, team)', [RUNS]),
        ("a:b:rate5m unless on (team) c @ end()", ["a:b:rate5m", "c"]),
        ("time() - 1h30m", []),
        ("# a comment\nup", ["up"]),
    ],
)
def test_metrics_are_found_in(expression: str, metrics: list[str]) -> None:
    assert [selector.metric for selector in names(expression).selectors] == metrics


@pytest.mark.parametrize("expression", ["sum(up", 'up{a~"b"}', "up{", "up ? 1"])
def test_what_is_no_expression_is_refused_or_has_no_names(expression: str) -> None:
    try:
        names(expression)
    except BadExpression:
        return
    assert expression == "sum(up"  # brackets are promtool's to count


@pytest.mark.parametrize(
    "expression",
    [
        f'sum by (team) (rate({RUNS}{{state="FAILED", namespace="a"}}[5m]))',
        f"histogram_quantile(0.5, sum by (le, stage) (rate({STAGES}[5m])))",
        "sum(agentteams_stage_duration_seconds_sum) / sum(agentteams_stage_duration_seconds_count)",
        f'label_replace({RUNS}, "tenant", "$1", "team", "(.*)/.*") + on (tenant) {RUNS}',
        'sum by (mode) (process_cpu_seconds_total{x="y"})',
        f"label_values({RUNS}, team)",
    ],
)
def test_what_the_file_has_is_no_problem(expression: str) -> None:
    assert load_schema().problems(expression) == []


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("rate(agentteams_run_total[5m])", "no metric 'agentteams_run_total'"),
        ("agentteams_stage_duration_seconds", "no metric 'agentteams_stage_duration_seconds'"),
        (f'{RUNS}{{stage="tool"}}', f"{RUNS} has no label 'stage'"),
        (f"sum by (member) ({RUNS})", "no metric of it has the label 'member'"),
        (f'{RUNS}{{le="1"}}', f"{RUNS} has no label 'le'"),
        (f"label_values({RUNS}, member)", "the label 'member'"),
    ],
)
def test_what_nobody_has_is_named(expression: str, problem: str) -> None:
    assert any(problem in said for said in load_schema().problems(expression))


def test_recorded_names_are_known_with_their_labels() -> None:
    recorded = {"agentteams:runs:rate5m": {"team"}}
    schema = load_schema()
    assert schema.problems("sum by (team) (agentteams:runs:rate5m)", recorded=recorded) == []
    assert schema.problems("sum by (state) (agentteams:runs:rate5m)", recorded=recorded)
    assert schema.problems("agentteams:runs:rate5m")
