"""What is installed: every file the code needs is declared, every third-party import is a requirement."""

from __future__ import annotations

import configparser
import fnmatch
import re
from pathlib import Path

import coexec

from .test_layers import imports_of, modules

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "google": "onnx",
    "llvmlite": "numba",
}  # the last two come with them


def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def listed(section: str, key: str) -> list[str]:
    return [line.strip() for line in setup()[section][key].splitlines() if line.strip()]


def test_every_data_file_is_packaged():
    told = setup()["options.package_data"]
    patterns = [f"{package.replace('.', '/')}/{p.strip()}" for package, listed in told.items() if package != "*" for p in listed.split(",")]
    data = [p.relative_to(ROOT).as_posix() for p in (ROOT / "coexec").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")]
    missing = [d for d in data if not any(fnmatch.fnmatch(d, p) for p in patterns)]
    assert data and missing == []


def test_every_folder_of_code_is_a_package():
    bare = {p.parent for p in (ROOT / "coexec").rglob("*.py")} - {p.parent for p in (ROOT / "coexec").rglob("__init__.py")}
    assert sorted(map(str, bare)) == []


def test_every_third_party_import_is_a_requirement():
    required = {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in listed("options", "install_requires")}
    extras = {
        re.split(r"[<>=!~\[; ]", line)[0].lower()
        for key in setup()["options.extras_require"]
        for line in listed("options.extras_require", key)
    }
    for module, path in modules().items():
        for found in imports_of(path, module):
            name = DISTRIBUTIONS.get(found.top, found.top)
            if not found.is_own and not found.is_standard:
                assert name in (required | extras if found.inside_function else required), f"{module} imports {found.name}"


def test_entry_point_and_version():
    assert "coexec = coexec.cli.main:main" in listed("options.entry_points", "console_scripts")
    from coexec.cli.main import main

    assert callable(main) and re.fullmatch(r"\d+\.\d+\.\d+", coexec.__version__)
    assert f"## {coexec.__version__}" in (ROOT / "CHANGELOG.md").read_text()
