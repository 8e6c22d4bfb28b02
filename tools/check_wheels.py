#!/usr/bin/env python3
"""Does every core dependency have a wheel for 64-bit Arm Linux? Asks the package index that pip is configured for, and installs nothing.

    python tools/check_wheels.py [--python 3.10,3.11,3.12,3.13] [--platform aarch64] [--json]

For each version of Python, pip resolves what setup.cfg requires, with all that it needs in turn, from wheels alone. Where that fails, each
requirement is tried by itself, and those without a wheel are named. Exit code 1 where one is missing.
"""

from __future__ import annotations

import argparse
import configparser
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Which glibc a wheel may want: those of Ubuntu 22.04 (2.35) and Debian 12 (2.36) can take all of these.
GLIBC = ("manylinux2014", "manylinux_2_17", "manylinux_2_24", "manylinux_2_26", "manylinux_2_27", "manylinux_2_28", "manylinux_2_31",
         "manylinux_2_34")


def requirements() -> list[str]:
    """What setup.cfg requires."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return [line.strip() for line in parser["options"]["install_requires"].splitlines() if line.strip()]


def resolve(wanted: Sequence[str], python: str, platform: str) -> tuple[dict[str, str], str]:
    """The wheels (package -> file) that pip would take, and what it said where there are none."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check", "--ignore-installed",
                   "--report", "-", "--target", folder, "--only-binary=:all:", "--implementation", "cp", "--python-version", python,
                   *(f"--platform={glibc}_{platform}" for glibc in GLIBC), *wanted]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        return {}, lines[-1] if lines else done.stderr.strip()[-300:]
    found = {item["metadata"]["name"]: item["download_info"]["url"].rpartition("/")[2] for item in json.loads(done.stdout)["install"]}
    return dict(sorted(found.items(), key=lambda kv: kv[0].lower())), ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="3.10,3.11,3.12,3.13", help="versions of Python (default: %(default)s)")
    parser.add_argument("--platform", default="aarch64", help="machine, as Python names it (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    wanted, wheels, missing = requirements(), {}, {}
    for python in options.python.split(","):
        wheels[python], why = resolve(wanted, python, options.platform)
        if why:
            alone = {w: resolve([w], python, options.platform)[1] for w in wanted}
            missing[python] = {w: said for w, said in alone.items() if said} or {"all together": why}
        if not options.json:
            print(f"Python {python}: " + (f"{len(wheels[python])} wheels, none missing" if not why else f"MISSING {missing[python]}"))
    if options.json:
        print(json.dumps({"platform": options.platform, "requirements": wanted, "wheels": wheels, "missing": missing}))
    else:
        last = wheels[options.python.split(",")[-1]]
        print("\n".join(f"  {name:18} {file}" for name, file in last.items()))
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main())
