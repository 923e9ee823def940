"""The hand-over distribution as an SVG: a row for each system, a dot for each round, a bar at the median.

Colours come from a style sheet that knows dark mode; GitHub shows it as an image, which keeps that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from benchmarks.stats import number, summarize

WIDTH, LEFT, RIGHT, ROW, TOP, BOTTOM = 860, 250, 70, 30, 50, 40
FONT = "-apple-system,BlinkMacSystemFont,'Segoe UI',Helvetica,Arial,sans-serif"
STYLE = f"""
text {{ font: 13px {FONT}; fill: #1f2328 }}
.title {{ font-weight: 600; font-size: 14px }}
.small {{ font-size: 11px; fill: #59636e }}
.grid {{ stroke: #d1d9e0; stroke-width: 1 }}
.dot {{ fill: #59636e; fill-opacity: .28 }}
.median {{ stroke: #32383f; stroke-width: 3; stroke-linecap: round }}
.ours .dot {{ fill: #0969da; fill-opacity: .38 }}
.ours .median {{ stroke: #0969da }}
.ours text {{ font-weight: 600 }}
@media (prefers-color-scheme: dark) {{
text {{ fill: #f0f6fc }}
.small {{ fill: #9198a1 }}
.grid {{ stroke: #3d444d }}
.dot {{ fill: #9198a1 }}
.median {{ stroke: #d1d7e0 }}
.ours .dot {{ fill: #4493f8 }}
.ours .median {{ stroke: #4493f8 }}
}}
"""


def draw(title: str, samples: Mapping[str, Sequence[float]], ours: str) -> str:
    """Return the picture of milliseconds by system, the fastest on top."""
    rows = sorted(samples.items(), key=lambda item: summarize(item[1]).median)
    everything = [value for _, values in rows for value in values]
    low, high = math.floor(math.log10(min(everything))), math.ceil(math.log10(max(everything)))
    high = max(high, low + 1)

    def across(value: float) -> float:
        return LEFT + (math.log10(value) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    height = TOP + ROW * len(rows) + BOTTOM
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<text class="title" x="12" y="24">{escape(title)}</text>',
    ]
    for exponent in range(low, high + 1):
        x, bottom = across(10.0**exponent), TOP + ROW * len(rows)
        lines.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}"/>')
        lines.append(f'<text class="small" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{_tick(exponent)}</text>')
    for place, (name, values) in enumerate(rows):
        lines += _row(name, values, TOP + ROW * place + ROW / 2, across, "ours" if name == ours else "peer")
    return "\n".join([*lines, "</svg>", ""])


def _row(name: str, values: Sequence[float], y: float, across: object, kind: str) -> list[str]:
    assert callable(across)
    median = summarize(values).median
    dots = "".join(
        # The same few heights again and again, so that dots of one value do not hide each other.
        f'<circle class="dot" cx="{across(value):.1f}" cy="{y + (index * 5 % 7 - 3) * 1.6:.1f}" r="2.6"/>'
        for index, value in enumerate(values)
    )
    x = across(median)
    return [
        f'<g class="{kind}">',
        f'<text x="{LEFT - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>',
        dots,
        f'<line class="median" x1="{x:.1f}" y1="{y - 9:.1f}" x2="{x:.1f}" y2="{y + 9:.1f}"/>',
        f'<text class="small" x="{WIDTH - 12}" y="{y + 4:.1f}" text-anchor="end">{number(median)} ms</text>',
        "</g>",
    ]


def _tick(exponent: int) -> str:
    return f"{10.0**exponent:g} ms" if exponent < 3 else f"{10 ** (exponent - 3):,} s"
