"""Problem: something that `coexec doctor` has to say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """Something a person should know. `severity` is error (no co-execution), warning (slow or partial) or note."""

    what: str
    why: str
    fix: str
    severity: str = "error"
