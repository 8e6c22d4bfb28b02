"""Operators of which onnx's reference implementation does less than ONNX says, mended: what is wrong there, each class says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx


@cache
def mended(opset: int) -> tuple[type, ...]:
    """Classes for onnx's evaluator, in place of its own, for that version of the operators. Its import takes long: only who evaluates calls this."""
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_loop import Loop as ReferenceLoop
    from onnx.reference.ops.op_one_hot import OneHot as ReferenceOneHot

    class OneHot(ReferenceOneHot):
        """The depth may be a tensor of one element, which NumPy no longer takes for a number."""

        def _run(self, indices: Any, depth: Any, values: Any, axis: Any = None) -> Any:
            return super()._run(indices, np.reshape(depth, ()), values, axis=axis)

    class Loop(ReferenceLoop):
        """A condition that is absent is true, and what every turn yields is stacked, not joined."""

        def _run(self, M: Any, cond: Any, *args: Any, context: Any = None, body: Any = None, attributes: Any = None, bindings: Any = None) -> Any:
            names, wanted = self.body.input_names, cond is None or _is_true(cond)
            most, carried = None if M is None else int(np.reshape(M, ())), [*args, *[None] * (len(names) - 2 - len(args))]
            yielded: list[list[Any]] = [[] for _ in self.body.output_names[1 + len(carried):]]
            turn = 0
            while wanted and (most is None or turn < most):
                told = np.array(turn, np.int64), np.array(wanted)
                found = self._run_body({**(context or {}), **dict(zip(names, (*told, *carried)))}, attributes=attributes, bindings=bindings)
                wanted, carried = _is_true(found[0]), list(found[1:1 + len(carried)])
                for kept, value in zip(yielded, found[1 + len(carried):]):
                    kept.append(value)
                turn += 1
            outputs = [*carried, *(_stacked(kept, self.body, 1 + len(carried) + i) for i, kept in enumerate(yielded))]
            return self._check_and_fix_outputs(tuple(outputs))

    class Scan(OpRun):
        """Any axis, and both directions."""

        def need_context(self) -> bool:
            return True

        def _run(self, *args: Any, context: Any = None, bindings: Any = None, **attributes: Any) -> Any:
            count = self.num_scan_inputs
            states, names = list(args[:len(args) - count]), self.body.input_names
            scanned = [_turned(a, axis, back) for a, axis, back in zip(args[len(states):], _each(self.scan_input_axes, count),
                                                                       _each(self.scan_input_directions, count))]
            yielded: list[list[Any]] = [[] for _ in self.body.output_names[len(states):]]
            for turn in range(scanned[0].shape[0]):
                given = dict(zip(names, (*states, *(np.asarray(s[turn]) for s in scanned))))
                found = self._run_body({**(context or {}), **given}, bindings=bindings)
                states = list(found[:len(states)])
                for kept, value in zip(yielded, found[len(states):]):
                    kept.append(value)
            axes, backwards = (_each(v, len(yielded)) for v in (self.scan_output_axes, self.scan_output_directions))
            outputs = [_stacked(kept[::-1] if back else kept, self.body, len(states) + i, axis)
                       for i, (kept, axis, back) in enumerate(zip(yielded, axes, backwards))]
            return self._check_and_fix_outputs((*states, *outputs))

    class MatMulInteger(OpRun):
        """NumPy has no fast product of whole numbers; real ones hold every sum of products of bytes exactly."""

        def _run(self, A: Any, B: Any, a_zero_point: Any = None, b_zero_point: Any = None) -> Any:
            a, b = (m.astype(np.float64) for m in (A, B))
            if a_zero_point is not None:  # one, or one a row
                a -= a_zero_point[..., None] if np.ndim(a_zero_point) == 1 and np.size(a_zero_point) > 1 else a_zero_point
            if b_zero_point is not None:  # one, or one a column
                b -= b_zero_point
            return ((a @ b).astype(np.int32),)

    class STFT(OpRun):
        """Real signals may have two axes, and a frame begins wherever a whole one fits."""

        def _run(self, signal: Any, frame_step: Any, window: Any = None, frame_length: Any = None, onesided: Any = None) -> Any:
            x = signal[..., 0] + 1j * signal[..., 1] if signal.ndim == 3 and signal.shape[-1] == 2 else signal.reshape(signal.shape[:2])
            length = int(np.reshape(window.shape[0] if frame_length is None else frame_length, ()))
            frames = np.lib.stride_tricks.sliding_window_view(x, length, 1)[:, ::int(np.reshape(frame_step, ()))]
            frames = frames if window is None else frames * window
            found = np.fft.rfft(frames) if onesided is None or onesided else np.fft.fft(frames)
            return (np.stack([found.real, found.imag], -1).astype(signal.dtype),)

    return (OneHot, Loop, MatMulInteger, STFT, Scan) if opset >= 9 else (OneHot, Loop, MatMulInteger, STFT)  # before, a Scan was of batches


def _is_true(condition: Any) -> bool:
    return bool(np.reshape(condition, ()))


def _each(values: Sequence[int] | None, count: int) -> list[int]:
    """An attribute's values, 0 where there are none."""
    return [*(values or ()), *[0] * (count - len(values or ()))]


def _turned(array: np.ndarray, axis: int, backwards: int) -> np.ndarray:
    """A view whose first axis is what is scanned, in order."""
    found = np.moveaxis(array, axis, 0)
    return found[::-1] if backwards else found


def _stacked(values: Sequence[Any], body: Any, index: int, axis: int = 0) -> np.ndarray:
    """What the turns yielded as one tensor; of no turn an empty one, of the type that the body says."""
    if values:
        return np.stack([np.asarray(v) for v in values], axis)
    kind: Mapping[str, Any] | Any = body.output_types_[index].tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else np.dtype(np.float32)
    shape = [d.dim_value for d in kind.shape.dim]
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 0)
    return np.empty(shape, dtype)
