"""Whole networks: every made architecture and every light model of the onnx package, under every kind of strategy."""

import sys
from pathlib import Path

import numpy as np
import pytest

import coexec

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))
import check_models  # noqa: E402
import make_models  # noqa: E402

#: `tools/check_models.py` tries every tenth.
STRATEGIES = ["cpu", "gpu", "flops", "greedy", "coexec", *(f"fixed:gpu={r:g}" for r in (0.3, 0.5, 0.8))]


@pytest.fixture(scope="module")
def tiny():
    """Each tiny model, its input and ONNX Runtime's answer, made once."""
    return {name: check_models.made_case(name, "tiny") for name in make_models.ARCHITECTURES}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", list(make_models.ARCHITECTURES))
def test_made_models_equal_onnx_runtime(tiny, name, strategy):
    model, feeds, reference = tiny[name]
    with coexec.InferenceSession(model, strategy=strategy) as session:
        for _ in range(2):
            assert check_models.error_of(session.run(None, feeds), reference) <= 1e-4


@pytest.mark.parametrize("name", [n for n in check_models.light_names() if n not in ("light_vgg19", "light_bvlc_alexnet", "light_zfnet512")])
def test_light_models_equal_their_shipped_outputs(name, request):
    """The three with the largest weights run in tools/check_models.py only."""
    if name == "light_squeezenet":  # all its logits are 9.5e9: where two processors add in another order, a last bit of one is the whole answer
        request.getfixturevalue("pocl")
    model, feeds, reference = check_models.light_case(name)
    graph = coexec.load(model)
    for strategy in ("cpu", "fixed:gpu=0.5"):
        with coexec.InferenceSession(graph, strategy=strategy) as session:
            assert check_models.error_of(session.run(None, feeds), reference) <= 1e-4


def test_every_node_of_a_split_network_equals_its_reference(tiny):
    model, feeds, _ = tiny["mobilenet_v3_large"]
    seen = []
    with coexec.InferenceSession(model, strategy="fixed:gpu=0.3") as session:
        session.run_checked(feeds, rtol=1e-4, report=seen.append)
        cut = [p for p in session.plan.partitions if len(p.devices) == 2 and 0 < p.ratio["gpu"] < 1]
    assert all(e.ok for e in seen) and len(cut) > 20 and {p.name for p in cut} <= {e.name for e in seen}


def test_a_symbolic_batch_is_bound_by_the_first_run():
    model = make_models.make_model("squeezenet_1_1", scale="tiny", batch_symbol=True)
    with coexec.InferenceSession(model, strategy="fixed:gpu=0.5") as session:
        assert session.get_inputs()[0].shape[0] == "N"
        name = session.get_inputs()[0].name
        shape = session.get_inputs()[0].shape[1:]
        rng = np.random.default_rng(0)
        for batch in (1, 3, 2, 3):
            feeds = {name: rng.standard_normal((batch, *shape)).astype(np.float32)}
            assert check_models.error_of(session.run(None, feeds), check_models.by_onnxruntime(model.SerializeToString(), feeds)) <= 1e-4
