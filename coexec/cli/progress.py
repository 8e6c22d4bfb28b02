"""Progress of long work on stderr: a bar where rich is installed and stderr is a terminal, else a line now and then."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

from .. import settings
from .console import Console

_LINE_EVERY_S = 10.0


class Progress:
    """`with Progress(console, "profiling") as tick: tick(done, total, what)`; silent with -q. `total` 0 means unknown."""

    def __init__(self, console: Console, title: str):
        self.console, self.title = console, title
        self._bar: Any = None
        self._task: Any = None
        self._last = float("-inf")

    def __enter__(self) -> Progress:
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
        if now - self._last < _LINE_EVERY_S and not (total and done >= total):
            return
        self._last = now
        share = f" {100 * done / total:3.0f} %" if total else ""
        print(f"{self.title}{share}{': ' + what if what else ''}", file=self.console.err, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def _rich(self) -> Any:
        if not self.console.err.isatty():
            return None
        try:
            from rich.console import Console as RichConsole
            from rich.progress import BarColumn, Progress as RichProgress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        except ImportError:
            return None
        target = RichConsole(file=self.console.err, no_color=not settings.color_wanted(self.console.err))
        bar = RichProgress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn(),
                           TimeRemainingColumn(), TextColumn("{task.fields[what]}", markup=False), console=target, transient=True)
        bar.start()
        self._task = bar.add_task(self.title, total=None, what="")
        return bar
