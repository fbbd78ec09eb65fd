"""Line plots as SVG, written by hand: nothing needs to be installed."""

from __future__ import annotations

import dataclasses
import math
from xml.sax.saxutils import escape

Points = list[tuple[float, float]]

WIDTH, HEIGHT = 460, 340  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 34, 46  # of its margins
GREY = "#666"


@dataclasses.dataclass
class Line:
    points: Points
    color: str
    dashes: str = ""
    band: tuple[Points, Points] | None = None  # its lower and upper edge


@dataclasses.dataclass
class Panel:
    title: str
    x_label: str
    lines: list[Line]
    y_range: tuple[float, float]
    x_range: tuple[float, float]
    marks: list[tuple[float, str]] = dataclasses.field(default_factory=list)  # vertical lines: where, and their color


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers between the two."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def path(points: Points) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'


def draw_panel(panel: Panel, offset: float, number: int) -> list[str]:
    def at(point: tuple[float, float]) -> tuple[float, float]:
        (x0, x1), (y0, y1) = panel.x_range, panel.y_range
        return (offset + LEFT + (point[0] - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
                HEIGHT - BOTTOM - (point[1] - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM))

    x0, y0 = at((panel.x_range[0], panel.y_range[0]))
    x1, y1 = at((panel.x_range[1], panel.y_range[1]))
    out = [f'<clipPath id="clip{number}"><rect x="{x0}" y="{y1}" width="{x1 - x0}" height="{y0 - y1}"/></clipPath>',
           text((x0 + x1) / 2, TOP - 14, panel.title, size=13), text((x0 + x1) / 2, HEIGHT - 10, panel.x_label)]
    for value in ticks(*panel.y_range):
        y = at((0, value))[1]
        out += [f'<line x1="{x0}" y1="{y:.1f}" x2="{x1}" y2="{y:.1f}" stroke="#ddd"/>', text(x0 - 6, y + 4, f"{value:.6g}", "end")]
    for value in ticks(*panel.x_range):
        out.append(text(at((value, 0))[0], y0 + 18, f"{value:.6g}"))
    out.append(f'<g clip-path="url(#clip{number})" fill="none">')
    for where, color in panel.marks:
        x = at((where, 0))[0]
        out.append(f'<line x1="{x:.1f}" y1="{y0}" x2="{x:.1f}" y2="{y1}" stroke="{color}" stroke-opacity="0.35"/>')
    for line in panel.lines:
        if line.band:
            edge = [at(p) for p in line.band[0]] + [at(p) for p in reversed(line.band[1])]
            out.append(f'<polygon points="{path(edge)}" fill="{line.color}" fill-opacity="0.12"/>')
    for line in panel.lines:
        dashes = f' stroke-dasharray="{line.dashes}"' if line.dashes else ""
        out.append(f'<polyline points="{path([at(p) for p in line.points])}" stroke="{line.color}" stroke-width="1.8"{dashes}/>')
    return out + ["</g>", f'<rect x="{x0}" y="{y1}" width="{x1 - x0}" height="{y0 - y1}" fill="none" stroke="{GREY}"/>']


def draw_legend(entries: list[tuple[str, str, str]]) -> list[str]:
    """Of name, color, dashes; three in a row."""
    out = []
    for i, (name, color, dashes) in enumerate(entries):
        x, y = LEFT + (i % 3) * 280, HEIGHT + 14 + (i // 3) * 20
        style = f' stroke-dasharray="{dashes}"' if dashes else ""
        out += [f'<line x1="{x}" y1="{y}" x2="{x + 34}" y2="{y}" stroke="{color}" stroke-width="1.8"{style}/>',
                text(x + 42, y + 4, name, "start")]
    return out


def svg(panels: list[Panel], legend: list[tuple[str, str, str]]) -> str:
    width, height = WIDTH * len(panels), HEIGHT + 14 + 20 * math.ceil(len(legend) / 3)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    for number, panel in enumerate(panels):
        out += draw_panel(panel, WIDTH * number, number)
    return "\n".join(out + draw_legend(legend) + ["</svg>", ""])
