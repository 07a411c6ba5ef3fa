"""Boards as Grafana's JSON, by its own SDK."""

import itertools
from collections.abc import Callable

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as model

from charts.dashboards.panels import Board, Kind, Panel

_SOURCE = shapes.DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8


def as_json(board: Board) -> str:
    """The dashboard as Grafana imports it."""
    builder = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["agentteams"])
        .refresh("30s")
        .time("now-1h", "now")
        .timezone(shapes.TimeZoneBrowser)
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("AgentTeams")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags(["agentteams"])
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    )
    if board.by_team:
        builder = builder.with_variable(
            dashboard.QueryVariable("team")
            .label("Team")
            .datasource(_SOURCE)
            .query("label_values(agentteams_runs_total, team)")
            .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
        )
    ids = itertools.count(1)
    for row in board.rows:
        builder = builder.with_row(dashboard.Row(row.title).id(next(ids)))
        for panel in row.panels:
            builder = builder.with_panel(_MAKERS[panel.kind](panel).id(next(ids)))
    return JSONEncoder(sort_keys=True, indent=2).encode(builder.build()) + "\n"


_Any = timeseries.Panel | stat.Panel | bargauge.Panel


def _lines(panel: Panel) -> _Any:
    stacked = panel.kind == Kind.STACKED
    return _with_all(
        panel,
        timeseries.Panel()
        .fill_opacity(30 if stacked else 8)
        .line_width(0 if stacked else 2)
        .show_points(shapes.VisibilityMode.NEVER)
        .stacking(
            common.StackingConfig().mode(shapes.StackingMode.NORMAL if stacked else shapes.StackingMode.NONE)
        )
        .legend(
            common.VizLegendOptions()
            .display_mode(shapes.LegendDisplayMode.LIST)
            .placement(shapes.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI)),
    )


def _stat(panel: Panel) -> _Any:
    return _with_all(panel, stat.Panel().reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])))


def _bars(panel: Panel) -> _Any:
    return _with_all(
        panel,
        bargauge.Panel()
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])),
    )


_MAKERS: dict[Kind, Callable[[Panel], _Any]] = {
    Kind.LINES: _lines,
    Kind.STACKED: _lines,
    Kind.STAT: _stat,
    Kind.BARS: _bars,
}


def _with_all(panel: Panel, builder: _Any) -> _Any:
    builder = (
        builder.title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(_SOURCE)
        .span(panel.width)
        .height(_HEIGHT)
        .thresholds(dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(_steps(panel)))
    )
    if panel.unit == "percentunit":
        builder = builder.min(0).max(1)
    for ref, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = prometheus.Dataquery().ref_id(ref).expr(query.expr).legend_format(query.legend or "__auto")
        builder = builder.with_target(target.exemplar(True) if query.exemplars else target)
    return builder


def _steps(panel: Panel) -> list[model.Threshold]:
    """Colours of values: Grafana takes the first step for all below the second."""
    if panel.red_above is not None:
        return [model.Threshold(color="green"), model.Threshold(color="red", value=panel.red_above)]
    if panel.red_below is not None:
        return [model.Threshold(color="red"), model.Threshold(color="green", value=panel.red_below)]
    return [model.Threshold(color="blue")]
