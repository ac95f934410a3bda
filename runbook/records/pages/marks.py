"""What a plot is made of: SVG elements as data, which the templates write down. Across in percent, down in pixels.

So a plot is as wide as the page, and its lines and its text keep their size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from runbook.records.pages.axes import Axis

# Never colour alone: each verdict has its word, its sign and its shape. Shapes are drawn around 0 0.
SIGNS = {
    "passed": "✓",
    "refuted": "✗",
    "failed": "✗",
    "blocked": "■",
    "errored": "?",
    "unknown": "?",
    "invalid": "?",
    "cancelled": "■",
    "lost": "?",
    "locked": "■",
    "unfinished": "▸",
    "measured": "·",
    "skipped": "–",
}
SHAPES = {
    "passed": "M-4.5,0 a4.5,4.5 0 1,0 9,0 a4.5,4.5 0 1,0 -9,0 Z",
    "refuted": "M0,-6 L6,0 L0,6 L-6,0 Z",
    "failed": "M-5,-3 L-3,-5 L0,-2 L3,-5 L5,-3 L2,0 L5,3 L3,5 L0,2 L-3,5 L-5,3 L-2,0 Z",
    "blocked": "M-4.5,-4.5 H4.5 V4.5 H-4.5 Z",
    "errored": "M0,-6 L5.5,4.5 H-5.5 Z",
    "cancelled": "M-5.5,-2.5 H5.5 V2.5 H-5.5 Z",
    "lost": "M0,6 L5.5,-4.5 H-5.5 Z",
}


class Mark(NamedTuple):
    """One SVG element. `href` makes it a link, `title` is what it is called then."""

    tag: str
    attributes: Mapping[str, str | float]
    text: str = ""
    inside: Sequence[Mark] = ()
    href: str = ""
    title: str = ""


class Plot(NamedTuple):
    """One drawing of `height` pixels; `name` and `description` are what it is for who does not see it."""

    name: str
    description: str
    height: int
    marks: Sequence[Mark]


class Row(NamedTuple):
    """One line of a figure of rows: what, drawn, and told."""

    label: str
    plot: Plot
    value: str
    verdict: str = ""
    level: int = 0


class Rows(NamedTuple):
    """A figure of one small drawing a line; `left` lines are not shown."""

    caption: str
    rows: Sequence[Row]
    left: int = 0
    legend: str = ""


class Chart(NamedTuple):
    """A figure with scales. `key` is unlike any other's of its page; `links` counts the points that lead somewhere."""

    key: str
    caption: str
    plot: Plot
    told: str
    links: int = 0


def percent(share: float) -> str:
    """A share of the whole as SVG takes it."""
    return f"{share * 100:.2f}%"


def shape_of(verdict: str) -> str:
    """The class of a verdict's colour; a word that is no verdict has none."""
    return verdict if verdict in SIGNS else "none"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Mark:
    """A line between two places, as shares of the width and as pixels."""
    return Mark("line", {"x1": percent(x1), "y1": round(y1, 1), "x2": percent(x2), "y2": round(y2, 1), "class": kind})


def bar(x1: float, x2: float, y: float, height: float, kind: str) -> Mark:
    """A bar from `x1` to `x2`, seen even where it has no length."""
    low, high = min(x1, x2), max(x1, x2)
    place: dict[str, str | float] = {"x": percent(low), "y": round(y, 1), "width": percent(high - low)}
    place["height"] = round(height, 1)
    return Mark("rect", {**place, "rx": 2, "class": kind})


def text(x: float, y: float, words: str, kind: str = "tick") -> Mark:
    """Words at a place; near an edge they stay within it."""
    anchor = "start" if x < 0.06 else "end" if x > 0.94 else "middle"
    return Mark("text", {"x": percent(x), "y": y, "text-anchor": anchor, "class": kind}, words)


def dot(x: float, y: float, kind: str, radius: float = 4.5) -> Mark:
    """A round point."""
    return Mark("circle", {"cx": percent(x), "cy": round(y, 1), "r": radius, "class": kind})


def sign(x: float, y: float, verdict: str) -> Mark:
    """A point in the shape and the colour of its verdict; hollow round for what has no shape of its own."""
    known = SHAPES.get(verdict, SHAPES["passed"])
    kind = f"point v-{shape_of(verdict)}" + ("" if verdict in SHAPES else " hollow")
    return Mark(
        "svg",
        {"x": percent(x), "y": round(y, 1), "overflow": "visible"},
        "",
        [Mark("path", {"d": known, "class": kind})],
    )


def path(points: Iterable[tuple[float, float] | None], height: float, kind: str) -> Mark:
    """A line through places (shares of the width, pixels); None breaks it."""
    drawn, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        drawn.append(f"{pen}{point[0] * 1000:.1f},{point[1]:.1f}")
        pen = "L"
    inner = Mark("path", {"d": "".join(drawn) or "M0,0", "class": kind, "vector-effect": "non-scaling-stroke"})
    frame: dict[str, str | float] = {
        "viewBox": f"0 0 1000 {height:g}",
        "preserveAspectRatio": "none",
        "width": "100%",
        "height": height,
    }
    return Mark("svg", frame, "", [inner])


def below(axis: Axis, y: float, top: float, *, zero: float | None = None) -> list[Mark]:
    """Marked values of a scale across: a line up to `top` and a label under `y`; labels that would meet are left out."""
    found: list[Mark] = []
    last = -1.0
    for tick in axis.ticks:
        x = axis.share(tick.value)
        found.append(line(x, top, x, y, "zero" if zero is not None and tick.value == zero else "grid"))
        if last < 0 or x - last >= max(0.16, len(tick.label) * 0.025):
            found.append(text(x, y + 13, tick.label))
            last = x
    return found


def beside(axis: Axis, height: float) -> list[Mark]:
    """Marked values of a scale up: a line across and a label left of it."""
    found: list[Mark] = []
    for tick in axis.ticks:
        y = (1 - axis.share(tick.value)) * height
        found.append(line(0, y, 1, y, "zero" if tick.value == 0 else "grid"))
        place: dict[str, str | float] = {"x": -8, "y": round(y + 4, 1), "text-anchor": "end", "class": "tick"}
        found.append(Mark("text", place, tick.label))
    return found
