#!/usr/bin/env python3
"""Print docs/settings.md: every COEXEC_* variable with its default and meaning."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from coexec.settings import SETTINGS  # noqa: E402

HEAD = """# Settings

Environment variables that change how coexec works. In Python, `coexec.settings.override(debug=2)` sets them for a scope.
This page is printed by `tools/settings_page.py`.

| Variable | Default | Meaning |
|---|---|---|
"""


def page() -> str:
    """The page as Markdown."""
    rows = [f"| `{s.variable}` | {default(s.default)} | {s.meaning} |\n" for s in SETTINGS.values()]
    return HEAD + "".join(rows)


def default(value: object) -> str:
    """A default as the environment would say it."""
    return "" if value in (None, "") else f"`{int(value) if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    sys.stdout.write(page())
