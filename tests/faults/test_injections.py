"""docs/faults.md says how many faults are injected; it is what pytest finds."""

from __future__ import annotations

import re
from pathlib import Path

from .injections import injections

PAGE = Path(__file__).resolve().parents[2] / "docs" / "faults.md"


def test_the_count_of_injections_is_what_the_page_says():
    found = injections()
    assert len(found) >= 30
    assert re.search(r"(\d+) distinct faults", PAGE.read_text()).group(1) == str(len(found)), found
