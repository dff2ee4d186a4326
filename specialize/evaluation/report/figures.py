"""Plots as inline SVG, without network or script.

Every figure has axis titles, units and direct labels, so that it can be read without
the text around it. Colours are CSS classes (`s0` to `s5`) of the page.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from html import escape

# A figure has the width of a phone and grows with its column.
WIDTH, HEIGHT = 440.0, 270.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, 14.0, 14.0, 42.0
_SERIES = 6
# No axis has larger numbers, or tells smaller differences apart.
_LARGEST, _SMALLEST = 1e100, 1e-100


@dataclasses.dataclass(frozen=True)
class Series:
    """One line or group of points.

    Attributes:
        name: Name in the legend.
        points: (x, y) pairs.
        low: Lower ends of the points' intervals, or empty.
        high: Upper ends, or empty.
        labels: One label per point, or empty.
        joined: Whether a line joins the points.
    """

    name: str
    points: Sequence[tuple[float, float]]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    labels: Sequence[str] = ()
    joined: bool = True


@dataclasses.dataclass(frozen=True)
class IntervalRow:
    """One row of an interval plot.

    Attributes:
        label: Label of the row.
        values: (series name, value, low, high), in the order of the series.
    """

    label: str
    values: Sequence[tuple[str, float, float, float]]


def lines(
    series: Sequence[Series],
    *,
    title: str,
    x_title: str,
    y_title: str,
    percent: bool = False,
    log_x: bool = False,
) -> str:
    """Draws lines over a numeric axis.

    Args:
        series: The lines; points that are not finite, or above 1e100, are left out.
        title: Title for screen readers.
        x_title: Title of the x axis, with its unit.
        y_title: Title of the y axis, with its unit.
        percent: Whether y is a share, shown in per cent.
        log_x: Whether the x axis is logarithmic; x is then above 0.

    Returns:
        An `<svg>` element, or "" if there is nothing to draw.
    """
    kept = [_finite(one) for one in series]
    kept = [one for one in kept if one.points]
    if not kept:
        return ""
    xs = [_x(x, log_x) for one in kept for x, _ in one.points]
    ys = [y for one in kept for _, y in one.points]
    ys += [y for one in kept for y in (*one.low, *one.high)]
    x_axis = _Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT, pad=0.04)
    y_axis = _Axis(min(ys), max(ys), HEIGHT - _BOTTOM, _TOP, pad=0.08)
    if percent:
        y_axis = y_axis.within(0.0, 1.0)
    parts = [_frame(x_axis, y_axis, x_title, y_title, percent=percent, log_x=log_x)]
    for number, one in enumerate(kept):
        style = f"s{number % _SERIES}"
        places = [(x_axis.at(_x(x, log_x)), y_axis.at(y)) for x, y in one.points]
        if one.joined and len(places) > 1:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
            parts.append(f'<polyline class="line {style}" points="{path}"/>')
        for index, (x, y) in enumerate(places):
            if one.low and one.high:
                bottom, top = y_axis.at(one.low[index]), y_axis.at(one.high[index])
                parts.append(
                    f'<line class="whisker {style}" x1="{x:.1f}" x2="{x:.1f}" '
                    f'y1="{bottom:.1f}" y2="{top:.1f}"/>'
                )
            if len(places) < 40:
                parts.append(
                    f'<circle class="dot {style}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'
                )
            if one.labels:
                # A label that would leave the frame is left of the point.
                right = x < WIDTH - 110
                parts.append(
                    f'<text class="note" x="{x + (6 if right else -6):.1f}" '
                    f'y="{y - 5:.1f}" text-anchor="{"start" if right else "end"}">'
                    f"{escape(one.labels[index])}</text>"
                )
    return _svg(title, "".join(parts), HEIGHT) + _legend([one.name for one in kept])


def intervals(rows: Sequence[IntervalRow], *, title: str, x_title: str) -> str:
    """Draws values with their intervals, several series per row.

    Args:
        rows: Shares in [0, 1] with their intervals.
        title: Title for screen readers.
        x_title: Title of the axis.

    Returns:
        An `<svg>` element and its legend, or "" if there are no rows.
    """
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name, *_ in row.values))
    # Labels are above their dots: the name of a suite needs the width of a phone.
    step = 24 + 13 * len(names)
    height = _TOP + step * len(rows) + _BOTTOM
    left, right = 14.0, WIDTH - 46.0
    high = max(value[3] for row in rows for value in row.values)
    axis = _Axis(0.0, min(1.0, max(high, 0.05)), left, right, pad=0.0)
    parts: list[str] = []
    for tick in axis.ticks():
        x = axis.at(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
            f'y2="{height - _BOTTOM}"/>'
            f'<text class="tick" x="{x:.1f}" y="{height - _BOTTOM + 15}" '
            f'text-anchor="middle">{_number(tick, True, axis.step)}</text>'
        )
    for index, row in enumerate(rows):
        top = _TOP + step * index
        parts.append(
            f'<text class="label" x="{left}" y="{top + 12}">'
            f"{escape(_short(row.label, 60))}</text>"
        )
        for name, value, low, up in row.values:
            number = names.index(name)
            y = top + 24 + 13 * number
            style = f"s{number % _SERIES}"
            parts.append(
                f'<line class="whisker {style}" x1="{axis.at(low):.1f}" '
                f'x2="{axis.at(up):.1f}" y1="{y}" y2="{y}"/>'
                f'<circle class="dot {style}" cx="{axis.at(value):.1f}" cy="{y}" '
                'r="3.6"/>'
                f'<text class="note" x="{axis.at(up) + 5:.1f}" y="{y + 4}">'
                f"{value * 100:.1f}</text>"
            )
    parts.append(_x_title(x_title, (left + right) / 2, height))
    return _svg(title, "".join(parts), height) + _legend(names)


def bars(rows: Sequence[tuple[str, float]], *, title: str) -> str:
    """Draws counts as horizontal bars, each with its number.

    Args:
        rows: (label, count); counts are at least 0.
        title: Title for screen readers.

    Returns:
        An `<svg>` element, or "" if there are no rows.
    """
    if not rows:
        return ""
    left, step = 168, 24
    height = _TOP + step * len(rows) + 6
    most = max(count for _, count in rows) or 1.0
    parts: list[str] = []
    for index, (label, count) in enumerate(rows):
        y = _TOP + step * index
        width = (WIDTH - left - 70) * count / most
        parts.append(
            f'<text class="label" x="{left - 8}" y="{y + 14}" text-anchor="end">'
            f"{escape(_short(label, 28))}</text>"
            f'<rect class="bar" x="{left}" y="{y + 3}" width="{max(width, 1):.1f}" '
            f'height="{step - 8}" rx="2"/>'
            f'<text class="note" x="{left + width + 6:.1f}" y="{y + 14}">'
            f"{count:,.0f}</text>"
        )
    return _svg(title, "".join(parts), height)


class _Axis:
    """A linear map from values to pixels, with round ticks."""

    def __init__(
        self, low: float, high: float, start: float, end: float, *, pad: float
    ):
        if high - low < _SMALLEST:
            spread = abs(low) * 0.1 if abs(low) > 10 * _SMALLEST else 1.0
            low, high = low - spread, high + spread
        margin = (high - low) * pad
        self.low, self.high = low - margin, high + margin
        self.start, self.end = start, end
        rough = (self.high - self.low) / 5
        scale = 10.0 ** math.floor(math.log10(rough))
        self.step = min(
            (factor * scale for factor in (1, 2, 2.5, 5, 10)),
            key=lambda step: abs(step - rough),
        )

    def within(self, low: float, high: float) -> "_Axis":
        """The same axis, limited to these values."""
        low, high = max(self.low, low), min(self.high, high)
        return _Axis(low, high, self.start, self.end, pad=0.0)

    def at(self, value: float) -> float:
        """Pixel of a value."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [number * self.step for number in range(first, last + 1)]


def _frame(
    x_axis: _Axis,
    y_axis: _Axis,
    x_title: str,
    y_title: str,
    *,
    percent: bool,
    log_x: bool,
) -> str:
    parts: list[str] = []
    bottom = HEIGHT - _BOTTOM
    for tick in y_axis.ticks():
        y = y_axis.at(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text class="tick" x="{_LEFT - 6}" y="{y + 4:.1f}" '
            f'text-anchor="end">{_number(tick, percent, y_axis.step)}</text>'
        )
    for tick in _log_ticks(x_axis) if log_x else x_axis.ticks():
        x = x_axis.at(tick)
        text = _size(10**tick) if log_x else _number(tick, False, x_axis.step)
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" '
            f'text-anchor="middle">{text}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{bottom}" '
        f'y2="{bottom}"/>'
    )
    parts.append(_x_title(x_title, (_LEFT + WIDTH - _RIGHT) / 2, HEIGHT))
    parts.append(
        f'<text class="title" transform="translate(11 {(bottom + _TOP) / 2:.0f}) '
        f'rotate(-90)" text-anchor="middle">{escape(y_title)}</text>'
    )
    return "".join(parts)


def _x_title(text: str, middle: float, height: float) -> str:
    return (
        f'<text class="title" x="{middle:.0f}" y="{height - 8:.0f}" '
        f'text-anchor="middle">{escape(text)}</text>'
    )


def _log_ticks(axis: _Axis) -> list[float]:
    ticks = [
        math.log10(factor * 10.0**power)
        for power in range(math.floor(axis.low), math.ceil(axis.high) + 1)
        for factor in (1, 2, 5)
    ]
    return [tick for tick in ticks if axis.low <= tick <= axis.high]


def _svg(title: str, body: str, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{body}</svg>'
    )


def _legend(names: Iterable[str]) -> str:
    names = list(names)
    if len(names) < 2:
        return ""
    keys = "".join(
        f'<span class="key"><i class="s{number % _SERIES}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<div class="legend">{keys}</div>'


def _finite(series: Series) -> Series:
    keep = [
        index
        for index, (x, y) in enumerate(series.points)
        if abs(x) <= _LARGEST and abs(y) <= _LARGEST  # neither is NaN
    ]
    return Series(
        series.name,
        [series.points[index] for index in keep],
        [series.low[index] for index in keep] if series.low else (),
        [series.high[index] for index in keep] if series.high else (),
        [series.labels[index] for index in keep] if series.labels else (),
    )


def _x(value: float, log: bool) -> float:
    return math.log10(value) if log else value


def _number(value: float, percent: bool, step: float) -> str:
    if percent:
        digits = 0 if step >= 0.01 - 1e-12 else 1
        return f"{value * 100:.{digits}f} %"
    if abs(value) >= 10000:
        return _size(value)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    text = f"{value:.{digits}f}"
    # Steps of 2.5 need one digit more than their power of ten.
    if digits == 0 and step != round(step):
        text = f"{value:.1f}"
    return "0" if float(text) == 0 else text


def _size(value: float) -> str:
    for scale, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{unit}"
    return f"{value:.3g}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
