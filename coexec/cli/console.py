"""Where words go: results to stdout, notes and progress to stderr, and with --json exactly one JSON object to stdout."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from .. import settings

_STYLES = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "dim": "2"}


class Console:
    """One invocation's output. `quiet` silences notes, `verbose` counts -v, `as_json` replaces results by one object."""

    def __init__(self, as_json: bool = False, quiet: bool = False, verbose: int = 0, out: TextIO | None = None, err: TextIO | None = None):
        self.as_json, self.quiet, self.verbose = as_json, quiet, verbose
        self.out, self.err = out or sys.stdout, err or sys.stderr

    def result(self, text: str = "") -> None:
        """A line for the reader of stdout; nothing with --json."""
        if not self.as_json:
            print(text, file=self.out)

    def emit(self, data: Mapping[str, Any]) -> None:
        """The one JSON object of --json; nothing without it."""
        if self.as_json:
            print(json.dumps(plain(data), allow_nan=False), file=self.out)

    def note(self, text: str) -> None:
        """Something worth knowing that is not the result."""
        if not self.quiet:
            print(text, file=self.err)

    def detail(self, text: str) -> None:
        """A note for those who asked with -v."""
        if self.verbose:
            self.note(text)

    def style(self, text: str, kind: str, stream: TextIO | None = None) -> str:
        """The text in that style where the stream is a terminal and NO_COLOR is not set."""
        return f"\033[{_STYLES[kind]}m{text}\033[0m" if settings.color_wanted(stream or self.out) else text


def plain(data: Any) -> Any:
    """The same as JSON can say it: NumPy numbers and arrays become lists, what is not finite becomes null."""
    if isinstance(data, Mapping):
        return {str(k): plain(v) for k, v in data.items()}
    if isinstance(data, np.ndarray):
        return plain(data.tolist())
    if isinstance(data, np.generic):
        return plain(data.item())
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if data is None or isinstance(data, (bool, int, str)):
        return data
    if isinstance(data, (list, tuple, set, frozenset)):
        return [plain(v) for v in (sorted(data, key=str) if isinstance(data, (set, frozenset)) else data)]
    return str(data)


def table(rows: Iterable[Sequence[Any]], header: Sequence[str] = (), align: str = "") -> str:
    """Text columns, two spaces apart. `align` holds l or r per column (default: the first l, the others r)."""
    cells = [[("" if c is None else str(c)) for c in row] for row in rows]
    if header:
        cells = [list(header), *cells]
    if not cells:
        return ""
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in range(max(map(len, cells)))]
    align = (align or "l").ljust(len(widths), "r")
    lines = ["  ".join(c.ljust(w) if a == "l" else c.rjust(w) for c, w, a in zip(row, widths, align)).rstrip() for row in cells]
    return "\n".join(lines)


def milliseconds(value: float | None) -> str:
    """A time in ms with three significant digits, `-` where unknown."""
    return (
        "-"
        if value is None or not math.isfinite(value)
        else f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 1
        else f"{value:.3g}"
    )


def silence(stream: TextIO) -> None:
    """Points a stream whose reader has gone at /dev/null, so that the interpreter's last flush does not complain."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):  # a stream without a descriptor has no last flush either
        return
