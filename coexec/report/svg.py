"""Small drawings as SVG text: elements, axes and ticks. Colours are CSS variables of the page, so that they follow its light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any

FONT_PX = 12


def tag(name: str, *children: str, **attributes: Any) -> str:
    """An element; `class_` becomes class, `font_size` font-size; None is left out. Children are markup, attributes are escaped."""
    words = "".join(f' {k.rstrip("_").replace("_", "-")}="{escape(_number(v))}"' for k, v in attributes.items() if v is not None)
    inside = "".join(children)
    return f"<{name}{words}>{inside}</{name}>" if inside else f"<{name}{words}/>"


def _number(value: Any) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def words(x: float, y: float, text: str, class_: str | None = None, anchor: str = "start", **more: Any) -> str:
    """A line of text."""
    return tag("text", escape(text), x=float(x), y=float(y), text_anchor=anchor, class_=class_, **more)


def tip(text: str) -> str:
    """What a viewer shows where the pointer rests."""
    return tag("title", escape(text))


def drawing(width: float, height: float, *parts: str, label: str, class_: str = "", fixed: bool = False) -> str:
    """A drawing of that size; `fixed` keeps its pixels, else it is as wide as its place. `label` is read out where pictures are not seen."""
    sizes = {"width": float(width), "height": float(height)} if fixed else {}
    return tag("svg", *parts, xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label,
               class_=class_ or None, **sizes)


def nice(top: float, count: int = 5) -> list[float]:
    """Round tick values from 0 to at least `top`, about `count` of them."""
    if not top > 0:
        return [0.0, 1.0]
    rough = top / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    return [step * i for i in range(math.ceil(top / step - 1e-9) + 1)]


def decades(low: float, high: float) -> list[float]:
    """The powers of ten from at most `low` to at least `high`, at least two."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    return [10.0**e for e in range(first, max(last, first + 1) + 1)]


class Axes:
    """A plot's frame: maps values to places, and draws grid, ticks and names. `xs` and `ys` are the ticks, the first and last the range."""

    def __init__(self, xs: list[float], ys: list[float], names: tuple[str, str], width: float = 460, height: float = 320, log: bool = False):
        self.xs, self.ys, self.names, self.log = xs, ys, names, log
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = 68.0, width - 14, 14.0, height - 46

    def _part(self, value: float, ticks: list[float]) -> float:
        low, high = ticks[0], ticks[-1]
        if self.log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def x(self, value: float) -> float:
        return self.left + self._part(value, self.xs) * (self.right - self.left)

    def y(self, value: float) -> float:
        return self.bottom - self._part(value, self.ys) * (self.bottom - self.top)

    def frame(self) -> str:
        """Grid, tick labels and axis names."""
        parts = []
        for value in self.xs:
            parts += [tag("line", x1=self.x(value), x2=self.x(value), y1=self.top, y2=self.bottom, class_="grid"),
                      words(self.x(value), self.bottom + 20, short(value), "tick", "middle")]
        for value in self.ys:
            parts += [tag("line", x1=self.left, x2=self.right, y1=self.y(value), y2=self.y(value), class_="grid"),
                      words(self.left - 6, self.y(value) + 4, short(value), "tick", "end")]
        middle = (self.top + self.bottom) / 2
        parts += [words((self.left + self.right) / 2, self.height - 6, self.names[0], "axis", "middle"),
                  words(14, middle, self.names[1], "axis", "middle", transform=f"rotate(-90 14 {middle:g})")]
        return "".join(parts)

    def line(self, points: Iterable[tuple[float, float]], class_: str) -> str:
        """A polyline through values."""
        return tag("polyline", points=" ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points), class_=class_, fill="none")

    def draw(self, *parts: str, label: str) -> str:
        return drawing(self.width, self.height, self.frame(), *parts, label=label)


def short(value: float) -> str:
    """A number in few letters: 1500 is 1.5k, 2000000 is 2M."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.3g}"


def microseconds(us: float | None) -> str:
    """A time in words: 850 us, 1.24 ms; `-` where unknown."""
    if us is None:
        return "-"
    return f"{us / 1e3:.3g} ms" if us >= 1000 else f"{us:.3g} us"


def size(nbytes: float) -> str:
    """Bytes in words: 1.5 MB."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if nbytes >= limit:
            return f"{nbytes / limit:.3g} {unit}"
    return f"{nbytes:.0f} B"
