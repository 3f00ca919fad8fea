"""Drawings for a page: curves, points, reliability, as SVG whose colours are those of the page.

All are drawn 400 units wide, so that their letters can be read on a narrow screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bertsmith.report.page import STYLE, Markup, figure, readable, text

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 10, 40  # around what is drawn
COLORS = 6  # --c0 to --c5 in the style of the page
MOST_POINTS = 300  # of a curve; of a longer one, means are drawn
DASHES = ("", "6 3", "2 3", "8 3 2 3")

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A named curve; points that are not finite are left out."""

    name: str
    points: Sequence[Point]
    has_marks: bool = False  # a dot at each point


@dataclass(frozen=True)
class Axes:
    """Where values stand in a drawing, with what is drawn to tell so."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    drawing: str


def line_chart(title: str, series: Iterable[Series], *, x_label: str) -> Markup:
    """Returns curves over one axis, with a legend where there are several."""
    shown = _shown(series)
    if not shown:
        return figure(title, text("nothing to draw"))
    legend = _legend(one.name for one in shown) if len(shown) > 1 else None
    return figure(title, _svg(title, _curves(shown, x_label)), legend)


def line_file(title: str, series: Iterable[Series], *, x_label: str) -> str:
    """Returns the same as an SVG file of its own, its title and legend inside; it must be one."""
    shown = _shown(series)
    assert shown, "there is nothing to draw"
    top = 22 + 16 * len(shown)
    names = "".join(
        f'<path d="M{LEFT} {33 + 16 * number}h16" stroke="var(--c{number % COLORS})" '
        f'stroke-width="3"/><text x="{LEFT + 22}" y="{37 + 16 * number}">{text(one.name)}</text>'
        for number, one in enumerate(shown)
    )
    height = HEIGHT + top
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'width="{2 * WIDTH}" aria-label="{text(title)}"><style>{STYLE}</style>'
        f'<rect width="{WIDTH}" height="{height}" fill="var(--back)"/>'
        f'<text x="{LEFT}" y="16" style="font-weight: 600; fill: var(--ink)">{text(title)}</text>'
        f'{names}<g transform="translate(0 {top})">{_curves(shown, x_label)}</g></svg>\n'
    )


def _shown(series: Iterable[Series]) -> list[Series]:
    """Returns the curves that have points, thinned."""
    return [
        Series(one.name, thinned(_finite(one.points)), one.has_marks)
        for one in series
        if _finite(one.points)
    ]


def _curves(shown: Sequence[Series], x_label: str) -> str:
    points = [point for one in shown for point in one.points]
    axes = _axes(_range(x for x, _ in points), _range(y for _, y in points), x_label, "")
    lines = []
    for number, one in enumerate(shown):
        color = f"var(--c{number % COLORS})"
        path = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in one.points)
        dash = DASHES[number // COLORS % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        lines.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.8" '
            f'stroke-linejoin="round"{dashed}/>'
        )
        if one.has_marks or len(one.points) == 1:
            lines += [_dot(axes, x, y, color, f"{one.name} {readable(y)}") for x, y in one.points]
    return axes.drawing + "".join(lines)


def scatter(
    title: str, points: Iterable[Point], *, x_label: str, y_label: str, most: int = 2000
) -> Markup:
    """Returns points with the line on which both values are equal.

    Of more than `most` points every so many-eth is drawn.
    """
    found = _finite(points)
    if not found:
        return figure(title, text("nothing to draw"))
    found = found[:: -(-len(found) // most)]
    both = _range(value for point in found for value in point)
    axes = _axes(both, both, x_label, y_label)
    dots = [
        f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="2.5" fill="var(--c0)" '
        f'fill-opacity="0.45"/>'
        for x, y in found
    ]
    return figure(title, _svg(title, axes.drawing + _diagonal(axes, both) + "".join(dots)))


def reliability_plot(title: str, bins: Iterable[tuple[float, float, int, float, float]]) -> Markup:
    """Returns bars that tell how often predictions came true, beside how often they should.

    Args:
        title: over the drawing.
        bins: of each the lowest and highest probability, the number of predictions, their mean
            probability and the share of them that came true.
    """
    whole = (0.0, 1.0)
    axes = _axes(whole, whole, "probability", "share right")
    bars = []
    found = list(bins)
    most = max((count for _, _, count, _, _ in found), default=1) or 1
    for low, high, count, mean, right in found:
        if not count:
            continue
        told = f"{count:,} predictions, {mean:.1%} sure, {right:.1%} right"
        left, width = axes.x(low) + 1, axes.x(high) - axes.x(low) - 2
        bars.append(
            f'<rect x="{left:.1f}" y="{axes.y(right):.1f}" width="{width:.1f}" '
            f'height="{axes.y(0) - axes.y(right):.1f}" fill="var(--c0)" '
            f'fill-opacity="{0.3 + 0.6 * count / most:.2f}"><title>{text(told)}</title></rect>'
        )
        bars.append(_dot(axes, mean, right, "var(--c1)", told))
    return figure(title, _svg(title, axes.drawing + "".join(bars) + _diagonal(axes, whole)))


def thinned(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """Returns at most `most` points; each is the mean of as many neighbours."""
    size = -(-len(points) // most)
    if size <= 1:
        return list(points)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Returns round numbers from `low` to `high`, evenly spread, two to `most` of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _axes(
    x_range: tuple[float, float], y_range: tuple[float, float], x_label: str, y_label: str
) -> Axes:
    x = _scale(x_range, LEFT, WIDTH - RIGHT)
    y = _scale(y_range, HEIGHT - BOTTOM, TOP)
    base = HEIGHT - BOTTOM
    drawn = []
    for value in ticks(*y_range):
        drawn.append(
            f'<path class="axis" d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{_tick(value)}</text>'
        )
    for value in ticks(*x_range):
        drawn.append(
            f'<path class="axis" d="M{x(value):.1f} {base}v4"/>'
            f'<text x="{x(value):.1f}" y="{base + 17}" text-anchor="middle">{_tick(value)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(
        f'<text x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{text(x_label)}</text>'
    )
    if y_label:
        drawn.append(
            f'<text transform="translate(12 {(TOP + base) / 2:.0f}) rotate(-90)" '
            f'text-anchor="middle">{text(y_label)}</text>'
        )
    return Axes(x, y, "".join(drawn))


def _scale(values: tuple[float, float], start: float, end: float) -> Callable[[float], float]:
    low, high = values
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _range(values: Iterable[float]) -> tuple[float, float]:
    """Returns the least and the greatest value, never the same; from 0 where that is near."""
    found = list(values)
    low, high = min(found), max(found)
    if low == high:
        half = abs(low) / 2 or 1.0
        return low - half, high + half
    if 0 < low < (high - low) / 2:
        low = 0.0
    return low, high


def _diagonal(axes: Axes, both: tuple[float, float]) -> str:
    (low, high), x, y = both, axes.x, axes.y
    return f'<path class="guide" d="M{x(low):.1f} {y(low):.1f}L{x(high):.1f} {y(high):.1f}"/>'


def _dot(axes: Axes, x: float, y: float, color: str, told: str) -> str:
    return (
        f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3.2" fill="{color}">'
        f"<title>{text(told)}</title></circle>"
    )


def _svg(title: str, content: str) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">{content}</svg>'
    )


def _legend(names: Iterable[str]) -> Markup:
    shown = "".join(
        f'<span><i style="background:var(--c{number % COLORS})"></i>{text(name)}</span>'
        for number, name in enumerate(names)
    )
    return Markup(f'<div class="legend">{shown}</div>')


def _tick(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:,.10g}k"
    return f"{value:.10g}" if abs(value) >= 1e-4 or not value else f"{value:.0e}"


def _finite(points: Iterable[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
