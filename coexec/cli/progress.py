"""Progress of long work on stderr: a bar where rich is installed and stderr is a terminal, else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from .. import settings
from .console import Console

#: Plain lines: the first one after this long, then one every so often, in seconds.
_FIRST_LINE_S, _LINE_EVERY_S = 2.0, 10.0


class Progress:
    """`with Progress(console, "profiling") as tick: tick(done, total, what)`; silent with -q. `total` 0 means unknown."""

    def __init__(self, console: Console, title: str):
        self.console, self.title = console, title
        self._bar: Any = None
        self._task: Any = None
        self._due: float | None = None
        self._began = 0.0
        self._said = False

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        return self

    def __call__(self, done: float, total: float = 0, what: str = "") -> None:
        if self.console.quiet:
            return
        if self._bar is None:
            self._bar = self._rich() or False
        if self._bar:
            self._bar.update(self._task, completed=done, total=total or None, what=what)
            return
        now = time.monotonic()
        if self._due is None:
            self._due = now + _FIRST_LINE_S
        ended = bool(total) and done >= total and self._said
        if now < self._due and not ended:
            return
        self._due, self._said = now + _LINE_EVERY_S, not ended
        share = f" {100 * done / total:3.0f} %" if total else ""
        if 0 < done < total:  # as honest as the part that is done: a guess until then
            share += f", about {max(1, round((now - self._began) * (total - done) / done))} s left"
        print(f"{self.title}{share}{': ' + what if what else ''}", file=self.console.err, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def _rich(self) -> Any:
        if not self.console.err.isatty():
            return None
        try:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress
        except ImportError:
            return None
        target = RichConsole(file=self.console.err, no_color=not settings.color_wanted(self.console.err))
        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[what]}", markup=False),
            console=target,
            transient=True,
        )
        bar.start()
        self._task = bar.add_task(self.title, total=None, what="")
        return bar
