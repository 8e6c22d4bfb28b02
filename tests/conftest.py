"""No test touches the user's cache: what tests compile and measure is kept in a folder of their own, from one test run to the next."""

from __future__ import annotations

import os
from pathlib import Path

OWN = Path(__file__).resolve().parent.parent / ".pytest_cache" / "coexec"
os.environ.setdefault("COEXEC_CACHE_DIR", str(OWN))
os.environ.setdefault("COEXEC_KEY_FILE", str(OWN / "key"))
