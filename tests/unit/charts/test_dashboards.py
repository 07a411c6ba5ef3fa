"""Dashboards name only metrics and labels that there are, and are what is committed."""

import json
import re

import pytest
import yaml

from charts.dashboards.__main__ import FOLDER
from charts.dashboards.boards import BOARDS
from charts.dashboards.grafana import as_json
from charts.dashboards.panels import INTERVAL, Board
from tests.support.promql import names
from tests.support.telemetry_schema import load_schema

OTHERS = re.compile(r"process_|up\b")


def expression(text: str) -> str:
    """As Grafana sends it, with everything chosen."""
    return text.replace(INTERVAL, "5m").replace("$team", ".*")


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_queries_name_only_what_there_is(board: Board) -> None:
    for panel in board.panels:
        for query in panel.queries:
            problems = load_schema().problems(expression(query.expr))
            assert problems == [], f"{panel.title}: {query.expr}"
            used = set(re.findall(r"\{\{(\w+)\}\}", query.legend))
            assert used <= names(expression(query.expr)).grouped_by, f"{panel.title}: legend {query.legend}"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_what_is_committed_is_what_is_built(board: Board) -> None:
    assert (FOLDER / f"{board.uid}.json").read_text() == as_json(board), "run make dashboards"


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_a_dashboard_reads_well(board: Board) -> None:
    grafana = json.loads(as_json(board))
    assert grafana["uid"] == board.uid
    panels = [panel for panel in grafana["panels"] if panel["type"] != "row"]
    assert [panel["title"] for panel in panels] == [panel.title for panel in board.panels]
    assert len({panel["id"] for panel in grafana["panels"]}) == len(grafana["panels"])
    for panel in panels:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert all(target["expr"] for target in panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]


def test_a_turns_stages_lead_to_traces() -> None:
    (turn,) = [board for board in BOARDS if board.uid == "agentteams-turn"]
    by_stage = [panel for panel in turn.panels if "agentteams_stage_duration" in panel.queries[0].expr]
    assert len(by_stage) == 9
    assert all(query.exemplars for panel in by_stage for query in panel.queries)


def test_every_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    """What nobody looks at is not worth its cost, or somebody forgot it."""
    rules = yaml.safe_load((FOLDER.parent / "rules/agentteams.yaml").read_text())
    expressions = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    expressions += [expression(q.expr) for board in BOARDS for panel in board.panels for q in panel.queries]
    seen = {selector.metric for text in expressions for selector in names(text).selectors}
    unseen = {name for name, metric in load_schema().metrics.items() if not seen & set(metric.series)}
    assert unseen == set()
