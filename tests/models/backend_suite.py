"""ONNX's own backend tests, bound to coexec: which there are, and how one is run.

    python -m tests.models.backend_suite --strategy fixed:gpu=0.5        lists what fails, and why
    python -m tests.models.backend_suite --strategy gpu --strict         the operators of the fast set, fallback forbidden
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import onnx
from onnx.backend.test import BackendTest

from coexec.backend import CoexecBackend
from coexec.errors import CoexecError

KINDS = ("NodeModel", "SimpleModel", "PyTorchConvertedModel", "PyTorchOperatorModel")

#: The operators that coexec computes itself; a model made of these alone must run on the GPU with fallback forbidden.
FAST_SET = frozenset("""
    Conv ConvTranspose Gemm MatMul MaxPool AveragePool LpPool GlobalMaxPool GlobalAveragePool GlobalLpPool
    Abs Neg Exp Log Sqrt Reciprocal Floor Ceil Round Sign Sin Cos Tan Asin Acos Atan Sinh Cosh Asinh Acosh Atanh Not Erf
    Add Sub Mul Div Pow Mod Min Max Sum Mean And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Where
    Relu Clip LeakyRelu PRelu Sigmoid HardSigmoid HardSwish Tanh Gelu Elu Selu Celu ThresholdedRelu Softplus Softsign Mish
    Softmax LogSoftmax Hardmax
    BatchNormalization InstanceNormalization LayerNormalization GroupNormalization LRN
    ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceSumSquare
    Concat Split Slice Pad Reshape Flatten Transpose Squeeze Unsqueeze Gather Expand Resize DepthToSpace SpaceToDepth Cast Shape
    Constant Identity Dropout Upsample
""".split())


class Bound(CoexecBackend):
    """A backend that says CPU to the suite and runs everything as `options` of the moment say."""

    options: dict = {}

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device == "CPU"

    @classmethod
    def prepare(cls, model, device="CPU", **kwargs):
        return CoexecBackend.prepare(model, device, **cls.options)


@lru_cache(maxsize=1)
def every_test() -> dict[str, Callable[[], None]]:
    """Test name -> function that raises where the test does not pass with `Bound`. onnx takes seconds to make them: once for all strategies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = BackendTest(Bound, __name__).test_cases
    found = {}
    for kind in KINDS:
        cls = cases[f"OnnxBackend{kind}Test"]
        for name in dir(cls):
            if name.startswith("test_") and name.endswith("_cpu"):
                found[name] = getattr(cls(name), name)
    return found


def suite(strategy: str, strict: bool) -> dict[str, Callable[[], None]]:
    """Test name -> function that raises where the test does not pass with that strategy."""
    def bound(test: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            Bound.options = {"strategy": strategy, "strict": strict}
            test()
        return run

    return {name: bound(test) for name, test in every_test().items()}


@lru_cache(maxsize=1)
def fast_set_names() -> frozenset[str]:
    """Node tests whose models are made of the fast set's operators alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        cases = collect_testcases(None)
    return frozenset(f"{case.name}_cpu" for case in cases
                     if all(n.domain in ("", "ai.onnx") and n.op_type in FAST_SET for n in case.model.graph.node))


def run_one(test: Callable[[], None]) -> str | None:
    """None where the test passes, else the reason in one line. A traceback that is not coexec's own error says so."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            test()
    except CoexecError as error:
        return f"{type(error).__name__}: {error}"
    except AssertionError as error:
        return "AssertionError: " + " ".join(str(error).split())
    except Exception as error:
        return f"UNEXPECTED {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def exceptions(file: str) -> dict[str, str]:
    """The listed tests that do not pass: name -> reason."""
    lines = (Path(__file__).parent / file).read_text().splitlines()
    return dict(line.split("  # ", 1) for line in lines if line and not line.startswith("#"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", default="cpu")
    parser.add_argument("--strict", action="store_true")
    parser.add_argument("--only", default="", help="part of the names to run")
    options = parser.parse_args()
    tests = {n: t for n, t in suite(options.strategy, options.strict).items() if options.only in n}
    if options.strict:
        tests = {n: t for n, t in tests.items() if n in fast_set_names()}
    failed = 0
    for name, test in sorted(tests.items()):
        reason = run_one(test)
        if reason is not None:
            failed += 1
            print(f"{name}  # {reason[:220]}", flush=True)
    print(f"# {len(tests) - failed} of {len(tests)} pass ({100 * (1 - failed / max(1, len(tests))):.2f} %); onnx {onnx.__version__}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
