"""Draws dashboards as Grafana lays them out, from what a real Prometheus answers to their queries."""

import json
import math
import re
import urllib.parse
import urllib.request
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
import matplotlib.dates as mdates
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from charts.dashboards.panels import INTERVAL, Board, Kind, Panel

mpl.use("Agg")

_PAPER, _PANEL, _TEXT, _DIM = "#111217", "#181b1f", "#ccccdc", "#8e8e9e"
_COLOURS = [
    "#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#96d98d", "#ffb357",
    "#ca95e5", "#37872d", "#e0b400", "#1f60c4", "#fa6400",
]  # fmt: skip
_MOST_SERIES = 14
_LONGEST_NAME = 32
_TIMEOUT_S = 30
_LABEL = re.compile(r"\{\{(\w+)\}\}")
_COLUMNS = 24
_SCALES = {"bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series: seconds since the epoch and values, NaN where there is none."""

    name: str
    times: list[float]
    values: list[float]

    @property
    def last(self) -> float:
        """The newest value that is a number; NaN without one."""
        return next((value for value in reversed(self.values) if not math.isnan(value)), math.nan)


def read(prometheus: str, panel: Panel, *, begin: float, end: float, step_s: float) -> list[Line]:
    """The panel's series. Raises: urllib.error.URLError (the expression is refused, or nobody answers)."""
    lines: list[Line] = []
    count = round((end - begin) / step_s) + 1
    for query in panel.queries:
        expression = query.expr.replace(INTERVAL, "20s").replace("$team", ".*")
        asked = urllib.parse.urlencode({"query": expression, "start": begin, "end": end, "step": step_s})
        with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{asked}", timeout=_TIMEOUT_S) as answer:
            found = json.load(answer)["data"]["result"]
        for series in found:
            labels = series["metric"]
            name = _LABEL.sub(partial(_label, labels), query.legend)
            at = {round((t - begin) / step_s): float(value) for t, value in series["values"]}
            lines.append(
                Line(
                    name=_short(name.strip()) or panel.title,
                    times=[begin + i * step_s for i in range(count)],
                    values=[at.get(i, math.nan) for i in range(count)],
                )
            )
    return sorted(lines, key=lambda line: line.name)[:_MOST_SERIES]


def _label(labels: dict[str, str], match: re.Match[str]) -> str:
    return labels.get(match[1], "")


def _short(name: str) -> str:
    """The end of a long name says most: methods begin with their package."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[-_LONGEST_NAME:]}"


def draw(board: Board, lines: list[list[Line]], file: Path) -> None:
    """Writes the dashboard as a PNG; `lines` are those of each of its panels."""
    drawn = iter(lines)
    rows: list[tuple[str, list[list[Panel]]]] = []
    for row in board.rows:
        shelves: list[list[Panel]] = [[]]
        for panel in row.panels:
            if sum(one.width for one in shelves[-1]) + panel.width > _COLUMNS:
                shelves.append([])
            shelves[-1].append(panel)
        rows.append((row.title, shelves))
    heights = [0.5 if kind == "title" else 2.4 for _, shelves in rows for kind in ("title", *shelves)]
    total = sum(heights) + 0.7
    figure = plt.figure(figsize=(15, total), dpi=64, facecolor=_PAPER)
    figure.text(0.012, 1 - 0.42 / total, board.title, color=_TEXT, fontsize=16, weight="bold")
    top = total - 0.7
    for title, shelves in rows:
        top -= 0.5
        figure.text(0.012, (top + 0.12) / total, f"▾ {title}", color=_TEXT, fontsize=12)
        for shelf in shelves:
            top -= 2.4
            left = 0
            for panel in shelf:
                box = (left / _COLUMNS, top / total, panel.width / _COLUMNS, 2.4 / total)
                _draw_panel(figure, panel, next(drawn), box, total)
                left += panel.width
    figure.savefig(file, facecolor=_PAPER)
    plt.close(figure)


def _draw_panel(
    figure: Figure, panel: Panel, lines: list[Line], box: tuple[float, float, float, float], total: float
) -> None:
    x, y, width, height = box
    pad_x, pad_y = 0.004, 0.06 / total
    back = figure.add_axes((x + pad_x, y + pad_y, width - 2 * pad_x, height - 2 * pad_y), facecolor=_PANEL)
    back.set_xticks([])
    back.set_yticks([])
    for spine in back.spines.values():
        spine.set_color("#2a2d33")
    figure.text(x + 0.010, y + height - 0.30 / total, panel.title, color=_TEXT, fontsize=10)
    if not lines:
        figure.text(
            x + width / 2,
            y + height / 2,
            "nothing to show",
            color=_DIM,
            ha="center",
            va="center",
            fontsize=10,
        )
    elif panel.kind == Kind.STAT:
        shown = [f"{_shown(line.last, panel.unit)}" for line in lines if not math.isnan(line.last)]
        figure.text(
            x + width / 2,
            y + height / 2 - 0.1 / total,
            "\n".join(shown) or "–",
            color=_colour_of(panel, lines[0].last),
            ha="center",
            va="center",
            fontsize=22,
            weight="bold",
        )
    else:
        inner = (x + 0.042, y + 0.62 / total, width - 0.055, height - 1.0 / total)
        _plot(figure.add_axes(inner, facecolor=_PANEL), panel, lines)


def _plot(axes: Axes, panel: Panel, lines: list[Line]) -> None:
    times = [seconds / 86_400 for seconds in lines[0].times]  # matplotlib counts days
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(lines))]
    if panel.kind == Kind.STACKED:
        values = [[0.0 if math.isnan(v) else v for v in line.values] for line in lines]
        axes.stackplot(times, values, colors=colours, alpha=0.75, labels=[line.name for line in lines])
    else:
        for line, colour in zip(lines, colours, strict=True):
            axes.plot(times, line.values, color=colour, linewidth=1.4, label=line.name)
    axes.set_ylim(bottom=0)
    if panel.unit == "percentunit":
        axes.set_ylim(0, 1.02)
    for bound in (panel.red_above, panel.red_below):
        if bound is not None and bound <= axes.get_ylim()[1]:
            axes.axhline(bound, color="#f2495c", linewidth=0.8, linestyle=":")
    axes.yaxis.set_major_formatter(lambda value, _position: _shown(value, panel.unit))
    axes.xaxis.set_major_locator(mdates.AutoDateLocator(maxticks=5))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]
    axes.tick_params(colors=_DIM, labelsize=7, length=0)
    axes.grid(color="#2a2d33", linewidth=0.6)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.legend(
        loc="upper left", bbox_to_anchor=(-0.06, -0.10), ncols=4, fontsize=6.5, frameon=False,
        labelcolor=_DIM, handlelength=1.0, columnspacing=0.9, borderpad=0,
    )  # fmt: skip


def _colour_of(panel: Panel, value: float) -> str:
    if panel.red_above is not None:
        return "#f2495c" if value >= panel.red_above else "#73bf69"
    if panel.red_below is not None:
        return "#f2495c" if value < panel.red_below else "#73bf69"
    return "#5794f2"


def _shown(value: float, unit: str) -> str:
    """A value as Grafana writes it."""
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    if unit == "s":
        for factor, name in ((60, "min"), (1, "s"), (1e-3, "ms")):
            if abs(value) >= factor:
                return f"{value / factor:.3g} {name}"
        return f"{value * 1e6:.3g} µs" if value else "0"
    for factor, name in _SCALES.get(unit, ((1e6, "M"), (1e3, "k"))):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {name}"
    return f"{value:.3g}" + ("/s" if unit == "reqps" else "")
