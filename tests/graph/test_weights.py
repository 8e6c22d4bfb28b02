"""Large weights stay where they lie: the same arrays whichever way a model comes, and no damage goes unnoticed."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from coexec import settings
from coexec.errors import InvalidModel
from coexec.graph import onnx_import
from coexec.graph.onnx_import import load_model
from coexec.graph.onnx_weights import ALIGNMENT, LEAST_BYTES, without_weights


@pytest.fixture(autouse=True)
def as_they_are():
    """Halves stay halves: what is tried here is where weights lie."""
    with settings.override(half=True):
        yield


RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.standard_normal((32, 16, 5, 5), dtype=np.float32),
    "table": RNG.standard_normal((300, 32), dtype=np.float32),
    "half": RNG.standard_normal((64, 200)).astype(np.float16),
    "small": np.arange(4, dtype=np.int64),
}


def model(shift: int = 0) -> onnx.ModelProto:
    """Weights of several kinds; `shift` moves all of them by some bytes."""
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Gather", ["table", "i"], ["z"]),
             helper.make_node("Relu", ["half"], ["h"]), helper.make_node("Reshape", ["x", "small"], ["r"])]
    graph = helper.make_graph(
        nodes, "g" * (1 + shift), [info("x", TensorProto.FLOAT, [1, 16, 8, 8]), info("i", TensorProto.INT64, [3])],
        [info("y", TensorProto.FLOAT, None), info("z", TensorProto.FLOAT, None), info("h", TensorProto.FLOAT16, None),
         info("r", TensorProto.FLOAT, None)], [numpy_helper.from_array(a, n) for n, a in WEIGHTS.items()])
    graph.doc_string = "d" * shift
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def constants(source) -> dict[str, np.ndarray]:
    return {v.name: v.data for v in load_model(source).constants}


@pytest.mark.parametrize("shift", range(5))
def test_weights_are_the_same_whichever_way_the_model_comes(tmp_path, monkeypatch, shift):
    monkeypatch.setattr(onnx_import, "LARGE_BYTES", 1)
    path = tmp_path / "m.onnx"
    path.write_bytes(model(shift).SerializeToString())
    for source in (path, path.read_bytes(), bytearray(path.read_bytes()), model(shift)):
        found = constants(source)
        for name, array in WEIGHTS.items():
            assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name


def test_large_weights_are_views_and_those_read_as_they_are_aligned():
    data = model().SerializeToString()
    lean, where = without_weights(data)
    assert sorted(where) == [0, 1, 2] and len(lean) < len(data) - sum(a.nbytes for n, a in WEIGHTS.items() if n != "small") + 100
    found = constants(data)
    assert found["w"].base is not None and not found["w"].flags.writeable and np.shares_memory(found["w"], np.frombuffer(data, np.uint8))
    assert found["table"].ctypes.data % ALIGNMENT == 0 and found["half"].ctypes.data % ALIGNMENT == 0


def test_a_lean_message_is_the_whole_one_without_its_data():
    data = model().SerializeToString()
    lean, where = without_weights(data)
    parsed = onnx.ModelProto.FromString(lean)
    for number, part in where.items():
        parsed.graph.initializer[number].raw_data = data[part]
    assert parsed == model()


@pytest.mark.parametrize("change", ["more", "less", "negative"])
def test_raw_data_of_another_size_is_damage(change):
    broken = model()
    tensor = broken.graph.initializer[0]
    if change == "negative":
        tensor.dims[0] = -32
    else:
        tensor.raw_data = tensor.raw_data + b"1234" if change == "more" else tensor.raw_data[:-4]
    with pytest.raises(InvalidModel, match="'w' is damaged"):
        load_model(broken.SerializeToString())


def test_truncated_and_scrambled_messages_are_refused_or_read_alike():
    data = model().SerializeToString()
    for cut in RNG.integers(0, len(data), 60):
        with pytest.raises(InvalidModel):
            load_model(data[:cut])
    for at in RNG.integers(0, 200, 60):
        scrambled = bytearray(data)
        scrambled[at] ^= 0x55
        found = without_weights(bytes(scrambled))
        assert found is None or all(0 <= p.start <= p.stop <= len(data) and p.stop - p.start >= LEAST_BYTES for p in found[1].values())


def test_external_weights_are_views_of_their_file(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save_model(model(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    found = constants(path)
    assert all(np.array_equal(found[n], a) for n, a in WEIGHTS.items())
    assert not found["w"].flags.owndata and not found["w"].flags.writeable


@pytest.mark.parametrize("location", ["../w.bin", "link.bin"])
def test_external_data_elsewhere_is_onnx_s_to_refuse(tmp_path, location):
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save_model(model(), path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (folder / "w.bin").rename(tmp_path / "w.bin")
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    moved = onnx.load(path, load_external_data=False)
    for tensor in moved.graph.initializer:
        next(e for e in tensor.external_data if e.key == "location").value = location
    path.write_bytes(moved.SerializeToString())
    with pytest.raises(InvalidModel, match="weights are missing"):
        load_model(path)
