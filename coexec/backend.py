"""`coexec.backend`: an onnx.backend.base.Backend, so that ONNX's own test-suite and tools run on coexec.

>>> import onnx, coexec.backend
>>> coexec.backend.supports_device("CPU")
True
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep, namedtupledict

from .api import InferenceSession, SessionOptions
from .devices.registry import find_devices
from .errors import UsageError

#: ONNX's word for a device -> the strategy that uses it.
STRATEGIES = {"CPU": "cpu", "GPU": "gpu", "OPENCL": "gpu", "COEXEC": "coexec"}


def _strategy(device: str) -> str:
    name = device.partition(":")[0].upper()
    if name not in STRATEGIES:
        raise UsageError(f"unknown device '{device}'", expected=" or ".join(STRATEGIES))
    return STRATEGIES[name]


class PreparedModel(BackendRep):
    """A session behind ONNX's interface: `run` takes arrays in the order of the model's inputs, or a dict of them."""

    def __init__(self, session: InferenceSession):
        self.session = session

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, as a named tuple. Raises InputError."""
        if isinstance(inputs, Mapping):
            feeds = dict(inputs)
        else:
            given = [inputs] if isinstance(inputs, np.ndarray) else list(inputs)
            feeds = dict(zip((a.name for a in self.session.get_inputs()), given))
        names = [a.name for a in self.session.get_outputs()]
        return namedtupledict("Outputs", names)(*self.session.run(None, feeds))


class CoexecBackend(Backend):
    """ONNX's backend interface. `device` is CPU, OPENCL (or GPU), or COEXEC for both; `strategy` and `strict` as in a session."""

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """True for CPU, and for OPENCL and COEXEC where an OpenCL device is found."""
        name = device.partition(":")[0].upper()
        return name == "CPU" or (name in STRATEGIES and "gpu" in find_devices())

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", *, strategy: str = "", strict: bool = False, **kwargs: Any) -> PreparedModel:
        """A model ready to run. Raises ModelError, NoDevice, DeviceError (strict)."""
        return PreparedModel(InferenceSession(model, SessionOptions(strict=strict), strategy=strategy or _strategy(device)))

    @classmethod
    def run_model(cls, model: onnx.ModelProto, inputs: Any, device: str = "CPU", **kwargs: Any) -> tuple[Any, ...]:
        """Prepares and runs once."""
        return cls.prepare(model, device, **kwargs).run(inputs)

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU", outputs_info: Sequence | None = None, **kwargs: Any) -> tuple[Any, ...]:
        """One node as a model of its own, at the newest operator set."""
        arrays = [np.asarray(a) for a in inputs]
        names = [n for n in node.input if n]
        infos = [onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in zip(names, arrays)]
        outputs = [onnx.helper.make_value_info(o, onnx.TypeProto()) for o in node.output if o]
        graph = onnx.helper.make_graph([node], "node", infos, outputs)
        return cls.prepare(onnx.helper.make_model(graph), device, **kwargs).run(arrays)


prepare = CoexecBackend.prepare
run_model = CoexecBackend.run_model
run_node = CoexecBackend.run_node
supports_device = CoexecBackend.supports_device
