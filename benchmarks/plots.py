# SPDX-License-Identifier: Apache-2.0
"""Small log-log plots side by side as one SVG: points, the line of cost in proportion, and a caption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, GAP = 300, 220, 52, 40, 34, 24
INK, PALE, POINT, PROPORTION = "#222", "#ddd", "#b3321b", "#7a9cc6"


@dataclass(frozen=True)
class Plot:
    title: str
    across: str
    up: str
    points: Sequence[tuple[float, float]]  # positive


def svg(plots: Sequence[Plot], columns: int = 3) -> str:
    rows = math.ceil(len(plots) / columns)
    width, height = columns * (WIDTH + GAP) + GAP, rows * (HEIGHT + GAP) + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="11" fill="{INK}"><rect width="{width}" height="{height}" fill="#fff"/>'
    )
    parts = [head]
    for i, plot in enumerate(plots):
        x, y = GAP + i % columns * (WIDTH + GAP), GAP + i // columns * (HEIGHT + GAP)
        parts += [f'<g transform="translate({x},{y})">', *panel(plot), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def panel(plot: Plot) -> list[str]:
    xs, ys = ([math.log10(point[axis]) for point in plot.points] for axis in (0, 1))
    (x0, x1), (y0, y1) = (span(values) for values in (xs, ys))

    def at(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT)
        return round(across, 1), round(HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - BOTTOM - TOP), 1)

    lines = [f'<text x="0" y="14" font-size="12" font-weight="bold">{escape(plot.title)}</text>']
    for power in range(math.ceil(x0), math.floor(x1) + 1):
        x, bottom = at(power, y0)
        lines.append(f'<path d="M{x},{TOP}V{bottom}" stroke="{PALE}"/>')
        lines.append(f'<text x="{x}" y="{bottom + 14}" text-anchor="middle">{spoken(power)}</text>')
    for power in range(math.ceil(y0), math.floor(y1) + 1):
        x, y = at(x0, power)
        lines.append(f'<path d="M{x},{y}H{WIDTH}" stroke="{PALE}"/>')
        lines.append(f'<text x="{x - 5}" y="{y + 4}" text-anchor="end">{spoken(power)}</text>')
    # Cost in proportion to work, through the last point: what grows faster lies below it further left.
    start = max(x0, xs[-1] - (ys[-1] - y0))
    (a, b), (c, d) = at(start, ys[-1] - (xs[-1] - start)), at(xs[-1], ys[-1])
    lines.append(f'<path d="M{a},{b}L{c},{d}" stroke="{PROPORTION}" stroke-dasharray="5 4"/>')
    track = "L".join(f"{x},{y}" for x, y in (at(*place) for place in zip(xs, ys, strict=True)))
    lines.append(f'<path d="M{track}" stroke="{POINT}" fill="none" stroke-width="1.5"/>')
    for place in zip(xs, ys, strict=True):
        x, y = at(*place)
        lines.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{POINT}"/>')
    middle = LEFT + (WIDTH - LEFT) / 2
    lines.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(plot.across)}</text>')
    lines.append(f'<text x="{WIDTH}" y="14" text-anchor="end" fill="#666">{escape(plot.up)}</text>')
    return lines


def span(values: Sequence[float]) -> tuple[float, float]:
    """Powers of ten around the values, with a little room; at least one whole power lies inside."""
    low, high = min(values) - 0.1, max(values) + 0.1
    return min(low, math.floor(high)), max(high, math.ceil(low))


def spoken(power: int) -> str:
    if 0 <= power <= 2:
        return str(10**power)
    return {3: "1k", 4: "10k", 5: "100k", 6: "1M", 7: "10M"}.get(power, f"1e{power}")
