"""Line charts as SVG text, for pages without a plotting library: colors are classes, which the page's style defines.

An axis y is logarithmic if all values are positive and the largest is at least LOG_RATIO times the smallest.
"""

import html
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 480, 290
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 44  # margins
LOG_RATIO = 5.0
POINTS = 800  # of a line, at most


class Series(NamedTuple):
    """A curve: `style` is "line", "faint" (the same color, paler), "points", or "bars" (points with `error`)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "line"
    color: int = 0
    error: Sequence[float] = ()


def line_chart(series: Sequence[Series], xlabel: str, ylabel: str) -> str:
    """The series as an SVG element. Values that are not finite are left out; "" if none is left."""
    drawn = [finite(one) for one in series]
    drawn = [one for one in drawn if one.x]
    if not drawn:
        return ""
    xs, ys = [v for one in drawn for v in one.x], [v for one in drawn for v in reach(one)]
    log = min(ys) > 0 and max(ys) >= LOG_RATIO * min(ys)
    to_x, xticks = axis(min(xs), max(xs), LEFT, WIDTH - RIGHT, log=False)
    to_y, yticks = axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP, log)
    parts = [line(LEFT, to_y(v), WIDTH - RIGHT, to_y(v), "grid") for v in yticks]
    parts += [text(LEFT - 7, to_y(v) + 4.5, short(v), "end") for v in yticks]
    parts += [text(to_x(v), HEIGHT - BOTTOM + 18, short(v), "middle") for v in xticks]
    parts.append(line(LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM, "axis"))
    parts += [curve(one, to_x, to_y) for one in drawn]
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, xlabel, "middle"))
    side = f'<g transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2:g}) rotate(-90)">'
    parts.append(f"{side}{text(0, 0, ylabel + (' (log)' if log else ''), 'middle')}</g>")
    label = html.escape(f"{ylabel} over {xlabel}")
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def finite(one: Series) -> Series:
    """The points whose numbers are all finite, and of a longer line at most POINTS: the extremes of each part."""
    error = one.error or [0.0] * len(one.x)
    rows = [row for row in zip(one.x, one.y, error, strict=True) if all(map(math.isfinite, row))]
    if len(rows) > POINTS:
        size = math.ceil(2 * len(rows) / POINTS)
        blocks = [rows[i : i + size] for i in range(0, len(rows), size)]
        ends = [{min(b, key=lambda row: row[1]), max(b, key=lambda row: row[1])} for b in blocks]
        rows = [row for block in ends for row in sorted(block)]
    x, y, error = zip(*rows, strict=True) if rows else ((), (), ())
    return one._replace(x=x, y=y, error=error if one.error else ())


def reach(one: Series) -> list[float]:
    """The values that the axis must hold. Bars that reach below 0 do not, so that the axis may be logarithmic."""
    bars = [v for y, e in zip(one.y, one.error, strict=False) for v in (y - e, y + e) if v > 0 or y <= 0]
    return [*one.y, *bars]


def axis(low: float, high: float, start: float, end: float, log: bool) -> tuple[Callable[[float], float], list[float]]:
    """(value → position, ticks) of an axis from `start` to `end`, in the units of the picture."""
    if log:
        ticks = [
            m * 10.0**k for k in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 2, 5)
        ]
        ticks = [v for v in ticks if low / 1.2 <= v <= high * 1.2]
        for leading in ((1, 2, 5), (1, 3), (1,)):
            few = [v for v in ticks if round(v / 10.0 ** math.floor(math.log10(v) + 1e-9)) in leading]
            if len(few) <= 7:
                break
        ticks = few[:: math.ceil(len(few) / 7)]
        bottom, width = math.log(low / 1.1), math.log(high * 1.1) - math.log(low / 1.1)
        return lambda v: start + (end - start) * (math.log(max(v, low / 1.1)) - bottom) / width, ticks
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= raw * (1 - 1e-9))
    ticks = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    margin = 0.04 * (high - low)
    bottom, top = low - margin, high + margin
    return lambda v: start + (end - start) * (v - bottom) / (top - bottom), ticks


def curve(one: Series, to_x: Callable[[float], float], to_y: Callable[[float], float]) -> str:
    """The curve of one series; a point names itself when the pointer is over it."""
    at = [(to_x(x), to_y(y)) for x, y in zip(one.x, one.y, strict=True)]
    kind = f"c{one.color % 4}"
    points = one.style in ("points", "bars") or len(at) == 1
    found = []
    if one.style != "points" and len(at) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        found.append(f'<polyline class="{kind} {"faint" if one.style == "faint" else "line"}" points="{path}"/>')
    if one.style == "bars":
        ends = [(to_y(y - e), to_y(y + e)) for y, e in zip(one.y, one.error, strict=True)]
        found += [line(x, a, x, b, f"{kind} bar") for (x, _), (a, b) in zip(at, ends, strict=True)]
    if points:
        label = lambda x, y: html.escape(f"{one.name}: {y:.6g} at {x:.6g}")  # noqa: E731
        found += [
            f'<circle class="{kind} dot" cx="{px:.1f}" cy="{py:.1f}" r="3.2"><title>{label(x, y)}</title></circle>'
            for (px, py), x, y in zip(at, one.x, one.y, strict=True)
        ]
    return "".join(found)


def short(value: float) -> str:
    """A tick's label: 1,500,000 is 1.5M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit and (unit > 1e3 or abs(value) >= 1e4):
            return f"{value / unit:.4g}{name}"
    return "0" if abs(value) < 1e-15 else f"{value:.4g}"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line of SVG in units of the picture; `kind` is its class."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, content: str, anchor: str) -> str:
    """Escaped text of SVG; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(content)}</text>'
