"""What is read from a file is data: no module has a call by which the content of a model, profile, plan or cache file could run.

Beside this, the fuzzer reads a hundred thousand spoilt files, and tests/device/test_kernel_cache.py throws bombs into the one cache that holds code.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parent.parent / "coexec"

#: Calls that run what they are given, or make objects of any class from it.
RUN = {"eval", "exec", "compile", "__import__", "input", "breakpoint"}
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "code", "codeop", "runpy"}
YAML_UNSAFE = {"load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all"}
LOADERS_SAFE = {"SafeLoader", "CSafeLoader"}

#: Module -> what it may do all the same, and why.
ALLOWED = {
    "devices/cpu/kernel_cache.py": {"pickle"},  # numba's own format, behind a seal (coexec/seals.py)
}


def findings(path: Path, text: str) -> list[str]:
    """What of the above a module does, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        line = getattr(node, "lineno", 0)
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{line}: {n}" for n in names if n.split(".")[0] in FORBIDDEN_MODULES and not getattr(node, "level", 0)]
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in RUN:
            found.append(f"{line}: {node.func.id}")
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
            owner, called = node.func.value.id, node.func.attr
            loader = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "Loader")]
            if owner == "yaml" and called in YAML_UNSAFE and not any(_name(a) in LOADERS_SAFE for a in loader):
                found.append(f"{line}: yaml.{called}")
            if called == "load" and owner in ("np", "numpy") and not any(k.arg == "allow_pickle" and _is(k.value, False) for k in node.keywords):
                found.append(f"{line}: numpy.load without allow_pickle=False")
            if (owner in ("os", "subprocess") and any(k.arg == "shell" and not _is(k.value, False) for k in node.keywords)
                    or (owner, called) == ("os", "system")):
                found.append(f"{line}: a shell")
    allowed = ALLOWED.get(path.as_posix(), set())
    return [f for f in found if f.split(": ")[1] not in allowed]


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else "?"


def _is(node: ast.expr, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", sorted(HOME.rglob("*.py")), ids=lambda p: p.relative_to(HOME).as_posix())
def test_no_module_runs_what_it_reads(path):
    assert not findings(path.relative_to(HOME), path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("text", ["eval(x)", "exec(open(p).read())", "import pickle", "from pickle import loads", "yaml.load(t)",
                                  "yaml.load(t, Loader)", "yaml.load(t, Loader=yaml.UnsafeLoader)", "np.load(p)", "np.load(p, allow_pickle=True)",
                                  "os.system(x)", "subprocess.run(x, shell=True)", "__import__(x)", "compile(x, '', 'exec')", "import marshal"])
def test_each_of_these_is_seen(text):
    assert findings(Path("any.py"), text)


@pytest.mark.parametrize("text", ["yaml.safe_load(t)", "yaml.load(t, Loader=yaml.CSafeLoader)", "np.load(p, allow_pickle=False)", "queue.compile(x)",
                                  "subprocess.run([x], shell=False)", "from . import code", "re.compile(x)"])
def test_and_these_are_not(text):
    assert not findings(Path("any.py"), text)
