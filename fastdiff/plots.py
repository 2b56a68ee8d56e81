"""Plots as SVG and pages as HTML that open from disk, with no library and no network."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

_WIDTH, _HEIGHT = 760, 420
_LEFT, _TOP, _END, _FLOOR = 76, 12, _WIDTH - 24, _HEIGHT - 52
_COLORS = (
    "#2f5bd0", "#d55e00", "#00875a", "#b0418c", "#8a6d00",
    "#0091a8", "#b3261e", "#6b5bd6", "#7a4a21", "#5b6770",
)  # fmt: skip
_GOLDEN_ANGLE = 137.5  # degrees of hue, which never come back to where they were
_MARKERS = {"dot": "h0", "cross": "m-3-3l6 6m0-6l-6 6", "plus": "m-4 0h8m-4-4v8"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th, td { white-space: nowrap }
caption { caption-side: bottom; text-align: left; color: #555; padding-top: .4rem }
figure { margin: 1.5rem 0; max-width: 60rem }
figcaption { font-weight: 600 }
svg { font-size: 13px; fill: #333; stroke: none; width: 100%; display: block }
svg .grid { stroke: #ddd } svg .frame { fill: none; stroke: #999 }
svg .line { fill: none; stroke-width: 2 }
svg .marks { fill: none; stroke-width: 1.5; stroke-linecap: round }
svg .marks.dot { stroke-width: 7 }
svg .level { stroke: #333; stroke-dasharray: 4 4 }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0 }
.legend svg { display: inline; width: 28px; height: 14px; vertical-align: -2px }
.swatch { display: inline-block; width: .7em; height: .7em; border-radius: 50% }
td .swatch { margin-right: .5em }
"""


@dataclass(frozen=True)
class Axis:
    """One direction of a plot.

    Attributes
    ----------
    label : str
        What it shows, with its unit.
    log : bool
        Logarithmic, of positive values; linear axes begin at 0.
    """

    label: str
    log: bool = False

    def ticks(self, values: Iterable[float]) -> list[float]:
        """Return round numbers from which to which the axis goes, and those between."""
        low, high = min(values, default=1.0), max(values, default=1.0)
        return _log_ticks(low, high) if self.log else _linear_ticks(high)


@dataclass(frozen=True)
class Series:
    """What is drawn in one colour and one way.

    Attributes
    ----------
    name : str
        In the legend.
    color : str
    points : sequence of (float, float)
    marker : {"dot", "cross", "plus"} or None
    line : bool
        Whether the points are joined.
    dashed : bool
    texts : sequence of str
        What is shown of each point under the mouse; may be left out.
    """

    name: str
    color: str
    points: Sequence[tuple[float, float]]
    marker: str | None = "dot"
    line: bool = False
    dashed: bool = False
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes
    ----------
    title : str
    x, y : Axis
    series : sequence of Series
    level : float or None
        A line across, at this y.
    level_name : str
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series] = field(default_factory=list)
    level: float | None = None
    level_name: str = ""


def colors_of(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each of `names`, no two the same."""
    colors = {}
    for number, name in enumerate(dict.fromkeys(names)):
        hue = (number * _GOLDEN_ANGLE) % 360
        colors[name] = _COLORS[number] if number < len(_COLORS) else f"hsl({hue:g} 60% 40%)"
    return colors


def swatch(color: str) -> str:
    """Return a dot of a colour, for a table."""
    return f'<span class="swatch" style="background:{color}"></span>'


def to_page(title: str, body: str, style: str = "") -> str:
    """Return a whole document; `title` is text, `body` is HTML."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}{style}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{body}</body></html>"
    )


def to_figure(plot: Plot) -> str:
    """Return a plot with its title and legend, as HTML."""
    title = html.escape(plot.title)
    entries = "".join(
        f'<li><svg viewBox="0 0 28 14" aria-hidden="true">{_strokes(one, [(2, 7), (26, 7)])}'
        f"{_marks(one, [(14, 7)])}</svg> {html.escape(one.name)}</li>"
        for one in plot.series
    )
    return (
        f"<figure><figcaption>{title}</figcaption>{_to_svg(plot)}"
        f'<ul class="legend">{entries}</ul></figure>'
    )


def _to_svg(plot: Plot) -> str:
    levels = [] if plot.level is None else [plot.level]
    frame = _Frame(
        plot,
        plot.x.ticks([x for one in plot.series for x, _ in one.points]),
        plot.y.ticks([y for one in plot.series for _, y in one.points] + levels),
    )
    box, title = f"0 0 {_WIDTH} {_HEIGHT}", html.escape(plot.title)
    parts = [f'<svg viewBox="{box}" role="img" aria-label="{title}">', *frame.lines()]
    if plot.level is not None:
        _, at = frame.place((frame.x_ticks[0], plot.level))
        parts.append(f'<path class="level" d="M{_LEFT} {at}H{_END}"/>')
        parts.append(_text(plot.level_name, _END - 4, at - 5, "end"))
    for one in plot.series:
        places = [frame.place(point) for point in one.points]
        parts += [_strokes(one, places), _marks(one, places)]
    return "".join(parts) + "</svg>"


@dataclass(frozen=True)
class _Frame:
    """The axes of a plot in the coordinates of its picture."""

    plot: Plot
    x_ticks: Sequence[float]
    y_ticks: Sequence[float]

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """Return where a point lies, to a tenth of a pixel."""
        x, y = point
        right = _share(x, self.x_ticks, self.plot.x) * (_END - _LEFT)
        up = _share(y, self.y_ticks, self.plot.y) * (_FLOOR - _TOP)
        return round(_LEFT + right, 1), round(_FLOOR - up, 1)

    def lines(self) -> Iterator[str]:
        """Yield the grid, the axes, their numbers and their names."""
        for tick in self.x_ticks:
            at, _ = self.place((tick, self.y_ticks[0]))
            yield f'<path class="grid" d="M{at} {_TOP}V{_FLOOR}"/>'
            yield _text(_number(tick), at, _FLOOR + 18, "middle")
        for tick in self.y_ticks:
            _, at = self.place((self.x_ticks[0], tick))
            yield f'<path class="grid" d="M{_LEFT} {at}H{_END}"/>'
            yield _text(_number(tick), _LEFT - 8, at + 4, "end")
        yield f'<path class="frame" d="M{_LEFT} {_TOP}V{_FLOOR}H{_END}"/>'
        yield _text(self.plot.x.label, (_LEFT + _END) / 2, _HEIGHT - 8, "middle")
        turned = f'<g transform="translate(16 {(_TOP + _FLOOR) / 2})rotate(-90)">'
        yield turned + _text(self.plot.y.label, 0, 0, "middle") + "</g>"


def _text(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _strokes(one: Series, places: Sequence[tuple[float, float]]) -> str:
    """Return the line of a series."""
    if not one.line or not places:
        return ""
    dashes = ' stroke-dasharray="6 4"' if one.dashed else ""
    joined = "L".join(f"{x} {y}" for x, y in _thinned(places, 1))
    return f'<path class="line" stroke="{one.color}"{dashes} d="M{joined}"/>'


def _marks(one: Series, places: Sequence[tuple[float, float]]) -> str:
    """Return the markers of a series: one path, or one for each where each has a text."""
    if one.marker is None:
        return ""
    glyph = _MARKERS[one.marker]
    start = f'<path class="marks {one.marker}" stroke="{one.color}" d="'
    if len(one.texts) == len(places):
        return "".join(
            f'{start}M{x} {y}{glyph}"><title>{html.escape(text)}</title></path>'
            for (x, y), text in zip(places, one.texts, strict=True)
        )
    return start + "".join(f"M{x} {y}{glyph}" for x, y in _thinned(places, 2)) + '"/>'


def _thinned(places: Iterable[tuple[float, float]], pixels: int) -> Iterable[tuple[int, int]]:
    """Return places to so many pixels, each once: thousands of points fall on few of them."""
    return dict.fromkeys(
        (pixels * round(x / pixels), pixels * round(y / pixels)) for x, y in places
    )


def _share(value: float, ticks: Sequence[float], axis: Axis) -> float:
    """Return where a value is on its axis, from 0 to 1."""
    low, high = ticks[0], ticks[-1]
    if axis.log:
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def _linear_ticks(high: float) -> list[float]:
    """Return 0 and at most five equal steps to a round number that is at least `high`."""
    high = high or 1.0
    power = 10.0 ** math.floor(math.log10(high / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor * 5 >= high)
    return [step * number for number in range(math.ceil(high / step - 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten around two numbers; of many, the powers alone."""
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    factors = (1, 2, 5) if high < 100 * low else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    first = max(number for number, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
    last = min(number for number, tick in enumerate(ticks) if tick >= high * (1 - 1e-9))
    return ticks[first : max(last, first + 1) + 1]


def _number(value: float) -> str:
    """Return a number as it stands beside an axis."""
    text = f"{value:g}"
    return text.replace("e-0", "e-").replace("e+0", "e")
