"""The two commands that README begins with, as they stand there: in an environment that has the packages, on a machine that is measured already."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from coexec import settings
from coexec.devices.registry import find_devices
from coexec.profiles import default_profile_path, save_profile

from .test_docs import ROOT, blocks, this_machines

#: What a clone holds that the commands need.
NEEDED = ("coexec", "tools", "profiles", "setup.cfg", "pyproject.toml", "README.md")


@pytest.fixture
def clone(tmp_path) -> Path:
    """The project, with an environment in .venv that sees the packages of this one."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    made = folder / ".venv"
    venv.create(made, symlinks=True)
    packages = next(made.glob("lib/python*/site-packages"))
    (packages / "clone.pth").write_text("\n".join([str(folder), *(p for p in sys.path if p.endswith("-packages"))]))
    program = made / "bin" / "coexec"
    program.write_text(f"#!{made}/bin/python\nimport sys\nfrom coexec.cli.main import main\nsys.exit(main())\n")
    program.chmod(0o755)
    requirements = hashlib.sha256((folder / "setup.cfg").read_bytes() + (folder / "pyproject.toml").read_bytes()).hexdigest()
    (made / ".coexec-cli,image,test").write_text(f"{requirements}  -\n{folder}")  # as tools/common.sh notes what it has installed
    return folder


@pytest.fixture
def measured(tmp_path, clone) -> Path:
    """A cache in which this machine is measured, and kernels that this process has compiled are."""
    kept, compiled = tmp_path / "cache", settings.get("cache_dir") / "numba"
    kept.mkdir()
    compiled.mkdir(parents=True, exist_ok=True)
    (kept / "numba").symlink_to(compiled)
    with settings.override(cache_dir=kept):
        path = default_profile_path({name: device.facts for name, device in find_devices().items()})
    path.parent.mkdir(parents=True)
    save_profile(this_machines(), path)
    (clone / "build/quickstart").mkdir(parents=True)
    shutil.copy(path, clone / "build/quickstart/profile.yaml")
    return kept


def test_the_two_commands_of_the_readme(clone, measured):
    first, second = (line.split("#")[0].strip() for line in next(b for b in blocks(ROOT / "README.md") if b.language == "sh").lines)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COEXEC_", "PYTHON", "VIRTUAL_ENV"))}
    environment |= {"COEXEC_CACHE_DIR": str(measured), "COEXEC_NO_APT": "1"}

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, shell=True, executable="/bin/bash", cwd=clone, env=environment, capture_output=True, text=True, timeout=600)

    found = run(first)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "is installed already" in found.stderr and "measured already" in found.stderr
    for row in ("CPU alone", "GPU alone", "co-executed", "ideal bound"):
        assert re.search(rf"{row} +[\d.]+ ms +[\d.]+x", found.stdout), found.stdout
    assert json.loads((clone / "build/quickstart/validate.json").read_text())["ok"]
    found = run(f"source .venv/bin/activate && {second}")
    assert found.returncode == 0, found.stderr[-2000:]
    assert (clone / "report.html").read_text().lower().startswith("<!doctype html")
