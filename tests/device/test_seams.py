"""A cut must not show: where both devices add in one order, an element is the same to the last bit wherever it was computed.

That matters where equal inputs must give equal outputs (uniform weights, ties between classes), not only for looks.
"""

import numpy as np
import pytest

from coexec.devices.cpu.device import CpuDevice
from coexec.ops import op_for
from coexec.regions import Region
from tests.ops.law import Const, make_node

from .harness import run_on_device

RNG = np.random.default_rng(3)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


CASES = {
    "one row": ("Gemm", [normal(1, 1024), Const(normal(300, 1024)), Const(normal(300))], {"transB": 1}),
    "deep": ("Gemm", [normal(1, 4096), Const(normal(4096, 100)), Const(normal(100))], {}),
    "rows": ("MatMul", [normal(64, 700), Const(normal(700, 100))], {}),
    "pointwise": ("Conv", [normal(1, 512, 13, 13), Const(normal(100, 512, 1, 1)), Const(normal(100))], {}),
    "columns": ("Conv", [normal(1, 8, 36, 36), Const(normal(24, 8, 3, 3)), Const(normal(24))], {"pads": [1] * 4, "strides": [2] * 2}),
    "plane": ("GlobalAveragePool", [normal(1, 64, 13, 13)], {}),
    "small plane": ("GlobalAveragePool", [normal(1, 64, 3, 5)], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_an_element_is_the_same_wherever_it_was_computed(device, name):
    node, arrays = make_node(*CASES[name])
    on_cpu, on_gpu = run_on_device(CpuDevice(), node, arrays)[0], run_on_device(device, node, arrays)[0]
    axis = next(a for a in op_for(node).split_axes(node) if a.extent > 3)
    piece = Region.whole(node.output.shape).replace(axis.dim, (axis.extent // 3, axis.extent))
    for whole, place in ((on_cpu, CpuDevice()), (on_gpu, device)):
        np.testing.assert_array_equal(run_on_device(place, node, arrays, piece)[0], whole[piece.slices])
    if "pocl" in device.facts.driver.lower() and "avx512" in device.facts.name:  # other drivers may add in another order
        np.testing.assert_array_equal(on_cpu, on_gpu)
    else:
        np.testing.assert_allclose(on_cpu, on_gpu, rtol=0, atol=1e-5 * np.abs(on_cpu).max())
