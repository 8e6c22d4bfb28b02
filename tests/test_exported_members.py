"""What `import coexec` offers is exactly what is listed, each name has a home and a docstring, and the import is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import coexec

PUBLIC = {
    "CoexecError",
    "DeviceProfile",
    "InferenceSession",
    "Partition",
    "Plan",
    "SessionOptions",
    "__version__",
    "load",
    "plan",
    "profile_device",
}


def test_the_public_list_is_exact():
    assert set(coexec.__all__) == PUBLIC
    assert len(coexec.__all__) == len(PUBLIC) and PUBLIC <= set(dir(coexec))


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_every_name_can_be_had_and_explains_itself(name):
    member = getattr(coexec, name)
    assert member.__module__.startswith("coexec.") and member.__name__ == name
    assert member.__doc__ and len(member.__doc__.splitlines()[0]) > 20


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'Sessoin'"):
        coexec.Sessoin  # noqa: B018


def test_import_loads_nothing_heavy():
    heavy = "numpy", "onnx", "numba", "pyopencl", "sklearn", "yaml", "scipy"
    code = f"import sys, coexec; print([m for m in {heavy!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
