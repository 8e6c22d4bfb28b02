"""Imports point down: the order of the house, and the one door of each third-party package, read from the source."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

#: From the top down. A module may import its own layer's package and every layer below, never a sibling of the same line.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("backend",),
    ("api",),
    ("report",),
    ("simulate",),
    ("partition.strategies", "runtime", "profiling"),
    ("cost", "devices"),
    ("partition",),
    ("graph", "ops"),
    ("profiles",),
    ("regions",),
    ("seals",),
    ("settings",),
    ("errors", "files", "collecting"),
    ("__init__",),
)

#: Pairs that look sideways or up by design.
ALLOWED = {
    ("ops", "graph"),  # operators speak of nodes: graph.ir only, see below
    ("graph", "ops"),  # the importer and the passes ask what an operator means, see below
}

#: Pairs that the order alone would allow. A laptop plans for a phone from YAML; a saved plan runs without scikit-learn.
FORBIDDEN = {("partition.strategies", "devices"), ("runtime", "cost"), ("runtime", "profiles")}

#: Third-party package -> the only places that import it.
DOORS = {
    "pyopencl": ("devices.opencl",),
    "numba": ("devices.cpu",),
    "llvmlite": ("devices.cpu",),
    "onnx": ("graph.onnx_", "backend"),
    "google": ("graph.onnx_", "backend"),
    "sklearn": ("cost.model",),
    "yaml": ("profiles",),
    "rich": ("cli.progress",),
    "PIL": ("cli.inputs",),
    "matplotlib": ("report",),
    "threadpoolctl": ("devices.cpu",),
}
ANYWHERE = {"numpy", "scipy"}


@dataclass(frozen=True)
class Import:
    """One import statement's target, absolute."""

    name: str
    inside_function: bool
    typing_only: bool

    @property
    def top(self) -> str:
        return self.name.split(".")[0]

    @property
    def is_own(self) -> bool:
        return self.top == "coexec"

    @property
    def is_standard(self) -> bool:
        return self.top in sys.stdlib_module_names

    @property
    def inner(self) -> str:
        """Without the leading `coexec.`."""
        return self.name.removeprefix("coexec").lstrip(".") or "__init__"


@lru_cache(maxsize=1)
def modules() -> dict[str, Path]:
    """Every module of the package, by its name without `coexec.`."""
    found = {}
    for path in sorted((ROOT / "coexec").rglob("*.py")):
        parts = path.relative_to(ROOT / "coexec").with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


@cache
def imports_of(path: Path, module: str) -> tuple[Import, ...]:
    """Every import of a file, relative ones resolved, `from package import module` followed to the module."""
    found: list[Import] = []
    package = module if path.name == "__init__.py" and module != "__init__" else module.rpartition(".")[0]

    def visit(node: ast.AST, inside: bool, typing: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(a.name, inside, typing) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".") if package and package != "__init__" else []
                parts = parts[: len(parts) - (node.level - 1)] if node.level > 1 else parts
                base = ".".join(["coexec", *parts, *([node.module] if node.module else [])])
            for alias in node.names:
                longer = f"{base}.{alias.name}"
                found.append(
                    Import(longer if longer.removeprefix("coexec.") in modules() and longer.startswith("coexec") else base, inside, typing)
                )
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        typing = typing or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        for child in ast.iter_child_nodes(node):
            visit(child, inside, typing)

    visit(ast.parse(path.read_text()), False, False)
    return tuple(found)


def layer_of(module: str) -> tuple[int, str]:
    """(line, group) of a module; the longest group name that fits wins."""
    best = None
    for line, groups in enumerate(LAYERS):
        for group in groups:
            if (module == group or module.startswith(group + ".")) and (best is None or len(group) > len(best[1])):
                best = line, group
    assert best is not None, f"{module} has no place in the house: add it to LAYERS"
    return best


def own_imports() -> list[tuple[str, Import]]:
    return [(m, i) for m, path in modules().items() if m != "__init__" for i in imports_of(path, m) if i.is_own and not i.typing_only]


def under(module: str, places: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(p if p.endswith("_") else p + ".") for p in places)


def test_every_module_has_a_place():
    assert len(modules()) > 20
    for module in modules():
        layer_of(module)


def test_imports_point_down():
    wrong = []
    for module, found in own_imports():
        (mine, my_group), (theirs, their_group) = layer_of(module), layer_of(found.inner)
        if my_group == their_group or (my_group, their_group) in ALLOWED or their_group == "__init__":
            continue
        if (my_group, their_group) in FORBIDDEN:
            wrong.append(f"{module} imports {found.inner}: forbidden")
        if theirs <= mine:
            wrong.append(f"{module} imports {found.inner}: {'a sibling' if theirs == mine else 'upwards'}")
    assert wrong == []


def test_operators_know_only_nodes_of_the_graph():
    assert [
        (m, i.inner) for m, i in own_imports() if under(m, ("ops",)) and layer_of(i.inner)[1] == "graph" and i.inner != "graph.ir"
    ] == []


def test_the_graph_asks_operators_only_in_import_and_passes():
    askers = {m for m, i in own_imports() if layer_of(m)[1] == "graph" and layer_of(i.inner)[1] == "ops"}
    assert {m for m in askers if not under(m, ("graph.passes", "graph.onnx_"))} == set()


@pytest.mark.parametrize("package", sorted(DOORS))
def test_third_party_packages_have_one_door(package):
    wrong = [m for m, path in modules().items() for i in imports_of(path, m) if i.top == package and not under(m, DOORS[package])]
    assert wrong == []


def test_no_other_third_party_package():
    wrong = [
        f"{m} imports {i.name}"
        for m, path in modules().items()
        for i in imports_of(path, m)
        if not i.is_own and not i.is_standard and i.top not in DOORS and i.top not in ANYWHERE
    ]
    assert wrong == []


def test_optional_packages_are_imported_inside_functions():
    wrong = [
        f"{m} imports {i.name}"
        for m, path in modules().items()
        for i in imports_of(path, m)
        if i.top in ("rich", "PIL", "matplotlib") and not i.inside_function
    ]
    assert wrong == []


def test_the_reader_sees_imports_of_every_form(tmp_path):
    file = tmp_path / "x.py"
    file.write_text(
        "import os.path\nfrom .. import errors\nfrom ..graph import ir\nfrom .base import Op\n"
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rich\ndef f():\n    from yaml import load\n"
    )
    found = imports_of(file, "ops.x")
    assert [i.name for i in found] == ["os.path", "coexec.errors", "coexec.graph.ir", "coexec.ops.base", "typing", "rich", "yaml"]
    assert [i.typing_only for i in found] == [False] * 5 + [True, False] and found[-1].inside_function
