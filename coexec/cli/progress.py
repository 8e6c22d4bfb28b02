"""Progress of long work on stderr: a bar where rich is installed and stderr is a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from .. import settings
from .console import Console

#: Plain lines: the first one after this long, then one every so often, in seconds.
_FIRST_LINE_S, _LINE_EVERY_S = 2.0, 10.0
#: How often a bar is drawn anew while nobody says anything, and, of one that keeps still, at most between two calls, in times a second.
_REFRESH_HZ = 4.0
#: A remaining time is not told before this much was seen, in seconds: it would be a guess from one step.
_LEAST_SEEN_S = 1.0


class Pace:
    """How long work still takes, from how fast it went since it began to move: what came before its first step says nothing of the rest.

    Another total, or less done than before, is other work, and begins anew.
    """

    def __init__(self) -> None:
        self._total = self._first = self._done = 0.0
        self._since = self._last = 0.0

    def step(self, done: float, total: float, now: float) -> None:
        """So much is done of so much, at that time in seconds."""
        if total != self._total or done < self._done or done == self._first:
            self._total, self._first, self._since = total, done, now
        if done != self._done or done == self._first:
            self._last = now
        self._done = done

    def left_s(self, now: float) -> float | None:
        """Seconds until all is done, at least 0; None where nothing can be said yet."""
        moved, seen = self._done - self._first, self._last - self._since
        if not self._total or moved <= 0 or seen < _LEAST_SEEN_S:
            return None
        return max(0.0, seen * (self._total - self._done) / moved - (now - self._last))


class Clock:
    """The same of work that says itself how long it takes: what is done, and the total, are seconds, and the total may change; 0 where unknown."""

    def __init__(self) -> None:
        self._left: float | None = None
        self._last = 0.0

    def step(self, done: float, total: float, now: float) -> None:
        self._left, self._last = total - done if total else None, now

    def left_s(self, now: float) -> float | None:
        return None if self._left is None else max(0.0, self._left - (now - self._last))


def in_words(seconds: float | None) -> str:
    """A remaining time: "about 12 s left", "about 3 min left"; "" where it is not known."""
    if seconds is None:
        return ""
    return f"about {max(1, round(seconds))} s left" if seconds < 100 else f"about {seconds / 60:.0f} min left"


class Progress:
    """`with Progress(console, "profiling") as tick: tick(done, total, what)`; silent with -q. `total` 0 means unknown.

    It may be entered again; what it is told in between is not shown.
    With `still` a bar is drawn only when `tick` is called, so that nothing is drawn while something is timed between two calls.
    With `seconds` what it is told is time, not steps.
    """

    def __init__(self, console: Console, title: str, still: bool = False, seconds: bool = False):
        self.console, self.title, self.still = console, title, still
        self.pace: Pace | Clock = Clock() if seconds else Pace()
        self._bar: Any = None
        self._task: Any = None
        self._due: float | None = None
        self._drawn = 0.0
        self._said = self._shown = False

    def __enter__(self) -> Progress:
        self._shown = not self.console.quiet
        return self

    def __call__(self, done: float, total: float = 0, what: str = "") -> None:
        if not self._shown:
            return
        now = time.monotonic()
        self.pace.step(done, total, now)
        if self._bar is None:
            self._bar = self._rich() or False
        if self._bar:
            self._bar.update(self._task, completed=done, total=total or None, what=what)
            if self.still and now - self._drawn > 1 / _REFRESH_HZ:
                self._drawn = now
                self._bar.refresh()
            return
        if self._due is None:
            self._due = now + _FIRST_LINE_S
        ended = bool(total) and done >= total and self._said
        if now < self._due and not ended:
            return
        self._due, self._said = now + _LINE_EVERY_S, not ended
        share = f" {100 * done / total:3.0f} %" if total else ""
        left = in_words(self.pace.left_s(now)) if done < total else ""
        print(f"{self.title}{share}{', ' + left if left else ''}{': ' + what if what else ''}", file=self.console.err, flush=True)

    def of(self, name: str) -> Callable[[float, float, str], None]:
        """A `tick` that puts that name before what it is told."""
        return lambda done, total=0, what="": self(done, total, f"{name}: {what}" if what else name)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shown = False
        if self._bar:
            self._bar.stop()
        self._bar = None

    def _rich(self) -> Any:
        if not self.console.err.isatty():
            return None
        try:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as RichProgress
            from rich.table import Column
            from rich.text import Text
        except ImportError:
            return None

        class Left(ProgressColumn):
            """What the pace says, counted down between two calls."""

            def render(column, task: Any) -> Text:  # noqa: N805 - `self` is the progress
                return Text(in_words(self.pace.left_s(time.monotonic())))

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            Left(),
            TextColumn("{task.fields[what]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=RichConsole(file=self.console.err, no_color=not settings.color_wanted(self.console.err)),
            transient=True,
            auto_refresh=not self.still,
            refresh_per_second=_REFRESH_HZ,
        )
        bar.start()
        self._task = bar.add_task(self.title, total=None, what="")
        return bar
