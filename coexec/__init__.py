"""coexec runs an ONNX model on the CPU and the OpenCL GPU of a board at once, splitting every operator between the two.

>>> import coexec                                                            # doctest: +SKIP
>>> with coexec.InferenceSession("model.onnx") as session:                   # doctest: +SKIP
...     outputs = session.run(None, {"input": image})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import InferenceSession, SessionOptions, load, plan, profile_device
    from .errors import CoexecError
    from .partition.plan import Partition, Plan
    from .profiles import DeviceProfile

# Each name is imported when it is first used: `import coexec` alone costs milliseconds, even on a small board.
_HOMES = {
    "InferenceSession": "api",
    "SessionOptions": "api",
    "load": "api",
    "plan": "api",
    "profile_device": "api",
    "CoexecError": "errors",
    "Partition": "partition.plan",
    "Plan": "partition.plan",
    "DeviceProfile": "profiles",
}

__all__ = [
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
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'coexec' has no attribute '{name}'")
    value = getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
