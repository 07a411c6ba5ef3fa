"""Draws curves of recall over latency as SVG: a few lines, no library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 360, 60, 30, 150, 45
_COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626")


@dataclass(frozen=True, slots=True)
class Point:
    """One parameter: milliseconds, recall in percent."""

    label: str
    milliseconds: float
    recall: float
    chosen: bool = False


def draw(title: str, curves: Mapping[str, Sequence[Point]], *, target: float) -> str:
    """The picture: latency to the right, recall upwards, the target as a line, what was chosen as a disc."""
    points = [point for curve in curves.values() for point in curve]
    right = max(point.milliseconds for point in points) * 1.08
    low = min([point.recall for point in points] + [target]) - 2

    def x(milliseconds: float) -> float:
        return _LEFT + milliseconds / right * (_WIDTH - _LEFT - _RIGHT)

    def y(recall: float) -> float:
        return _HEIGHT - _BOTTOM - (recall - low) / (100 - low) * (_HEIGHT - _TOP - _BOTTOM)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="13" font-weight="bold">{escape(title)}</text>',
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">median latency, ms</text>',
        f'<text x="12" y="{_TOP + 4}">recall@10, %</text>',
    ]
    for step in range(6):
        recall, latency = low + (100 - low) * step / 5, right * step / 5
        lines += [
            f'<path d="M{_LEFT} {y(recall):.1f}H{_WIDTH - _RIGHT}" stroke="#e5e7eb"/>',
            f'<text x="{_LEFT - 6}" y="{y(recall) + 4:.1f}" text-anchor="end">{recall:.0f}</text>',
            f'<text x="{x(latency):.1f}" y="{_HEIGHT - 30}" text-anchor="middle">{latency:.1f}</text>',
        ]
    lines.append(
        f'<path d="M{_LEFT} {y(target):.1f}H{_WIDTH - _RIGHT}" stroke="#6b7280" stroke-dasharray="4 3"/>'
    )
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x(p.milliseconds):.1f},{y(p.recall):.1f}" for p in curve)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for p in curve:
            at_x, at_y = f"{x(p.milliseconds):.1f}", f"{y(p.recall):.1f}"
            told = f"{escape(p.label)}: {p.recall:.1f} %, {p.milliseconds:.2f} ms"
            lines.append(
                f'<circle cx="{at_x}" cy="{at_y}" r="{5 if p.chosen else 2.5}" fill="{colour}">'
                f"<title>{told}</title></circle>"
            )
            if p.chosen:
                lines.append(f'<text x="{at_x}" y="{at_y}" dx="8" dy="14">{escape(p.label)}</text>')
        top = _TOP + 16 * number + 10
        lines += [
            f'<rect x="{_WIDTH - _RIGHT + 12}" y="{top - 8}" width="10" height="10" fill="{colour}"/>',
            f'<text x="{_WIDTH - _RIGHT + 27}" y="{top + 1}">{escape(name)}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def write(path: Path, picture: str) -> None:
    """Into the documentation."""
    path.write_text(picture, encoding="utf-8")
