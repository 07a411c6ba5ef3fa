"""Counters that alerts and dashboards look at have their series, at 0, before the first failure."""

from pathlib import Path

import pytest
import yaml
from prometheus_client import REGISTRY, Counter

import evaluation.metrics as of_evaluation
import orchestrator.core.metrics as of_teams
import retrieval.metrics as of_retrieval
from charts.dashboards.boards import BOARDS
from embedding import metrics as of_embedding
from orchestrator.core import inputs, model_metrics, resume, search, summary, toolbox, tracing
from orchestrator.core.context import assembly
from orchestrator.core.gate import Gates
from orchestrator.core.guardrails import turns
from orchestrator.core.workflow import engine
from retrieval.core.tuning import worker
from servicekit import spans
from session.adapters import quota_rows
from tests.support.promql import names
from tests.support.telemetry_schema import load_schema

RULES = Path(__file__).parents[3] / "charts/agentteams/files/rules/agentteams.yaml"
NAME = "from-zero/first"

# Each with how many series it has.
OF_PROCESS = (
    (spans.LOST, 3),
    (tracing.TRACES, 6),
    (toolbox.TOOL_CALLS, 4),
    (search.CORRECTIONS, 3),
    (inputs.INPUTS, 4),
    (summary.SUMMARIES, 2),
    (resume.TAKE_OVERS, 2),
    (engine.STEPS, 14),
    (turns.TRIGGERED, 24),
    (assembly.TRIMMED, 6),
    (of_retrieval.SEARCHES, 4),
    (of_retrieval.SEARCH_REASONS, 7),
    (of_retrieval.INGESTED, 2),
    (of_retrieval.RECONCILED, 2),
    (of_retrieval.EVALUATIONS, 2),
    (worker.TUNINGS, 8),
    (of_embedding.REMEMBERED, 6),
    (of_evaluation.GOLDEN_SETS, 2),
)
OF_NAME = (
    (of_teams.RUNS, "team", 3),
    (of_teams.GRADES, "team", 3),
    (of_teams.TOKENS, "team", 2),
    (model_metrics.CALLS, "model_config", 7),
    (model_metrics.FALLBACKS, "model_config", 1),
    (model_metrics.TOKENS, "model_config", 2),
    (of_evaluation.RUNS, "team", 4),
    (of_evaluation.BELOW, "team", 4),
    (of_evaluation.SENTENCES, "team", 4),
    (of_evaluation.CALLS, "model_config", 2),
    (of_evaluation.TOKENS, "model_config", 2),
    (of_embedding.TEXTS, "provider", 2),
    (of_embedding.TOKENS, "provider", 2),
    (of_embedding.TRUNCATED, "provider", 2),
    (quota_rows.REFUSED, "tenant", 1),
)
ELSEWHERE = {
    # tests/unit/agentteams_operator
    "agentteams_operator_reconciles_total",
    "agentteams_operator_watches_begun_total",
}
NOT_WORTH_IT = {
    # More than fifty reasons for each of 100 teams, and alerts look at agentteams_runs_total.
    "agentteams_run_failures_total",
    # Grow with every run and are no failures: what one run more is does not show.
    "agentteams_ledger_searches_total",
    "agentteams_team_stage_seconds_total",
    # The currency is known with the first price.
    "agentteams_team_cost_micros_total",
    "agentteams_model_cost_micros_total",
    "agentteams_evaluation_judge_cost_micros_total",
}


def counted(counter: Counter, **labels: str) -> list[float]:
    (family,) = counter.collect()
    return [
        sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
    ]


def test_each_counter_of_an_alert_or_a_panel_is_thought_of() -> None:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    expressions = [rule["expr"] for group in groups for rule in group["rules"]]
    expressions += [query.expr for board in BOARDS for panel in board.panels for query in panel.queries]
    used = {selector.metric for text in expressions for selector in names(text).selectors}
    wanted = {m.name for m in load_schema().metrics.values() if m.type == "counter" and m.labels} & used
    from_zero = [next(iter(one.describe())).name + "_total" for one, *_ in (*OF_PROCESS, *OF_NAME)]
    assert len(from_zero) == len(set(from_zero))
    assert wanted == {*from_zero, *ELSEWHERE, *NOT_WORTH_IT}


@pytest.mark.parametrize(("counter", "series"), OF_PROCESS, ids=lambda one: getattr(one, "_name", one))
def test_what_has_fixed_labels_begins_with_the_process(counter: Counter, series: int) -> None:
    assert len(counted(counter)) >= series


@pytest.mark.parametrize(("counter", "label", "series"), OF_NAME, ids=lambda one: getattr(one, "_name", one))
def test_what_users_name_begins_when_it_is_known(counter: Counter, label: str, series: int) -> None:
    of_teams.TEAMS.expect([NAME])
    of_evaluation.TEAMS.expect([NAME])
    of_evaluation.JUDGES.expect([NAME])
    Gates().labels.expect([NAME])
    of_embedding.provider_known(NAME)
    quota_rows.TENANTS.expect([NAME])
    assert counted(counter, **{label: NAME}) == [0.0] * series


def test_a_known_team_has_few_series() -> None:
    of_teams.TEAMS.expect([NAME])
    of_evaluation.TEAMS.expect([NAME])
    found = [
        sample
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("team") == NAME and sample.name.endswith("_total")
    ]
    assert len(found) == 8 + 12, "100 teams are in each process that serves them"
