"""The command line: options, messages, exit codes, JSON, and files in and out."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from coexec import __version__, settings
from coexec.cli import console as consoles
from coexec.cli import inputs, options, outputs
from coexec.cli.main import VERBS, main, verb
from coexec.cli.progress import Progress
from coexec.errors import CoexecError, DeviceHang, InputError, UsageError
from coexec.graph.ir import Graph, TensorType, Value
from coexec.profiles import save_profile
from coexec.report import timing

from .partition.boards import board
from .test_smoke import tiny_model


@pytest.fixture(scope="module", autouse=True)
def no_gpu():
    with settings.override(opencl="none"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """tiny.onnx, two.onnx (two inputs, open batch), x.npy, pair.npz."""
    place = tmp_path_factory.mktemp("models")
    onnx.save(tiny_model(), place / "tiny.onnx")
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("a", "b/in", "sum/out")]
    graph = helper.make_graph([helper.make_node("Add", ["a", "b/in"], ["sum/out"])], "two", infos[:2], infos[2:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), place / "two.onnx")
    rng = np.random.default_rng(0)
    np.save(place / "x.npy", rng.standard_normal((1, 3, 12, 12)).astype(np.float32))
    pair = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b/in": np.ones((2, 3), np.float32)}
    np.savez(place / "pair.npz", **pair)
    np.save(place / "a.npy", pair["a"])
    return place


@pytest.fixture
def call(folder, capsys, monkeypatch):
    """Runs a command line in `folder`; gives (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("COEXEC_DEBUG", raising=False)

    def run(*arguments, strategy="cpu"):
        chosen = ["--strategy", strategy] if arguments and arguments[0] in ("run", "plan", "validate") and "--plan" not in arguments else []
        code = main([*map(str, arguments), *chosen])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def refused(call, code, *arguments):
    """The one line that a failing command says; no traceback, nothing on stdout."""
    found, out, err = call(*arguments)
    assert found == code, err
    assert out == "" and err.startswith("coexec: error: ") and err.count("\n") == 1, err
    return err


# Help and parsing


def test_help_names_every_verb(call):
    code, out, _ = call("--help")
    assert code == 0 and all(f"\n    {name} " in out for name in VERBS) and "exit codes" in out


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_has_examples_and_common_options(call, name):
    code, out, _ = call(name, "--help")
    assert code == 0 and "examples:\n  coexec " in out and all(o in out for o in ("--json", "-q, --quiet", "-v, --verbose"))
    assert verb(name).__doc__.splitlines()[0].endswith(".") and verb(name).HELP


@pytest.mark.parametrize("name", VERBS)
def test_examples_are_valid_command_lines(name):
    from coexec.cli.main import parse

    for example in (*verb(name).EXAMPLES, *getattr(verb(name), "ON_A_BOARD", ())):
        words = example.split("#")[0].split(" | ")[0].split()
        words = words[[w == "coexec" for w in words].index(True) + 1 :]
        assert parse(words).verb == name


def test_command_lines_of_the_readme_are_valid():
    from coexec.cli.main import parse

    text = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    lines = [line.split("#")[0].split() for line in text.splitlines() if line.startswith("coexec ") and "#" in line]
    assert {parse(words[1:]).verb for words in lines} == set(VERBS)


def test_version(call):
    assert call("--version") == (0, f"coexec {__version__}\n", "")


def test_no_verb_is_a_usage_error(call):
    assert "a verb is missing" in refused(call, 2)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["benhc"], "unknown verb 'benhc'; did you mean bench"),
        (["run", "tiny.onnx", "--randon"], "unknown option '--randon'; did you mean --random"),
        (["run", "tiny.onnx", "--rand"], "unknown option '--rand'"),
        (["run"], "the following arguments are required: MODEL"),
        (["run", "tiny.onnx", "other.onnx"], "unexpected argument 'other.onnx'"),
        (["run", "tiny.onnx", "--repeat", "0"], "--repeat: found '0', expected a whole number of at least 1"),
        (["run", "tiny.onnx", "--seed", "-1"], "--seed"),
        (["run", "tiny.onnx", "--shape", "1,3"], "--shape: found '1,3', expected NAME:1,3,224,224"),
        (["run", "tiny.onnx", "--std", "1,0"], "--std: found '1,0', expected numbers other than 0"),
        (["run", "tiny.onnx", "--scale", "nan"], "--scale: found 'nan'"),
        (["run", "tiny.onnx", "--layout", "nhcw"], "'nhcw' is not known here; did you mean nhwc or nchw"),
        (["run", "tiny.onnx", "--force", "conv"], "--force: found 'conv', expected NAME=VALUE"),
        (["plan", "tiny.onnx", "--force", "conv=cpu", "--force", "conv=gpu"], "node 'conv' is forced to two devices: found cpu and gpu"),
        (["plan", "tiny.onnx", "--force", "conv=gpu", "--max-gpu-share", "0"], "two wishes contradict one another"),
        (["plan", "tiny.onnx", "--force", "conf=gpu"], "did you mean conv"),
        (["plan", "tiny.onnx", "--max-gpu-share", "1.5"], "--max-gpu-share: found '1.5', expected a number from 0 to 1"),
        (["bench", "tiny.onnx", "--objective", "energie"], "'energie' is not known here; did you mean energy"),
        (["run", "tiny.onnx", "--memory-limit", "0"], "--memory-limit: found '0', expected bytes, above 0"),
        (["run", "tiny.onnx", "--random", "--plan", "p.json", "--max-gpu-share", "0.5"], "one or the other"),
        (["run", "tiny.onnx", "--random", "--adapt", "--trace", "t.json"], "--adapt beside --trace"),
        (["run", "tiny.onnx", "--random", "--adapt", "--plan", "p.json"], "--adapt beside --plan"),
        (["run", "tiny.onnx", "--random", "--adapt", "--strategy", "cpu"], "cannot follow the machine"),
        (["plan"], "the following arguments are required: MODEL"),
        (["plan", "tiny.onnx", "--diff", "a.json", "b.json"], "--diff compares two saved plans"),
        (["bench", "tiny.onnx", "--percentiles", "50,101"], "--percentiles: found '50,101'"),
        (["bench", "tiny.onnx", "--compare", ","], "--compare: found ','"),
        (["validate", "tiny.onnx", "--rtol", "-1"], "--rtol"),
        (["cache", "empty"], "'empty' is not known here; known: info, clear"),
        (["cache", "clear", "everything"], "the cache has no part 'everything'"),
        (["run", "tiny.onnx", "--random", "-o", "no/such/out.npz"], "no folder 'no/such'"),
        (["run", "tiny.onnx", "--random", "-o", "out.txt"], "outputs go to .npz"),
        (["run", "tiny.onnx", "--random", "-o", "."], "a folder"),
        (["run", "tiny.onnx", "--random", "--trace", "no/such/t.json"], "[--trace] cannot write a trace there: found no folder 'no/such'"),
        (["run", "nothing.onnx", "--random", "--trace", "."], "'.', a folder"),  # before the model is looked for
        (["run", "nothing.onnx", "--random", "--trace", "/dev/null"], "no ordinary file"),
        (["run", "nothing.onnx", "--random", "--trace", "/proc/t.json"], "'/proc/t.json'"),
        (["run", "tiny.onnx", "--random", "--input", "x.npy"], "--random makes every input up"),
        (["run", "tiny.onnx"], "the model needs input: expected 'x' float32[1,3,12,12]; give --input"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(call, arguments, said):
    assert said in refused(call, 2, *arguments)


@pytest.mark.parametrize("text, seconds", [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_durations(text, seconds):
    assert options.duration(text) == seconds


# Failures


@pytest.mark.parametrize("content, said", [(b"", "no graph"), (b"not a model at all", "not an ONNX model")])
def test_files_that_are_no_model_exit_4(call, folder, content, said):
    (folder / "bad.onnx").write_bytes(content)
    assert said in refused(call, 4, "run", "bad.onnx", "--random")


def test_missing_model_exits_4(call):
    assert "No such file" in refused(call, 4, "plan", "nothing.onnx")


def test_no_gpu_exits_3(call):
    code, out, err = call("run", "tiny.onnx", "--random", strategy="gpu")
    assert code == 3 and out == "" and err.count("\n") == 1


def test_errors_are_json_too(call):
    code, out, err = call("run", "nothing.onnx", "--random", "--json")
    found = json.loads(out)
    assert code == 4 and found["error"]["exit_code"] == 4 and found["error"]["type"] == "InvalidModel" and found["error"]["message"] in err


def test_traceback_only_with_debug(call, monkeypatch):
    assert "Traceback" not in call("plan", "nothing.onnx")[2]
    monkeypatch.setenv("COEXEC_DEBUG", "1")
    code, _, err = call("plan", "nothing.onnx")
    assert code == 4 and "Traceback" in err and "InvalidModel" in err


def test_unreadable_debug_setting_is_a_usage_error(call, monkeypatch):
    monkeypatch.setenv("COEXEC_DEBUG", "loud")
    assert "COEXEC_DEBUG is not readable" in call("run", "tiny.onnx", "--random")[2]


def fails_with(monkeypatch, error):
    def execute(found, console):
        raise error

    monkeypatch.setattr(verb("cache"), "execute", execute)


@pytest.mark.parametrize(
    "error, code, said",
    [
        (DeviceHang("no answer", where="gpu"), 6, "[gpu] no answer"),
        (CoexecError("it\nbroke"), 1, "it broke"),
        (
            ZeroDivisionError("division by zero"),
            1,
            "internal error: ZeroDivisionError: division by zero; set COEXEC_DEBUG=1 for the traceback, and report it",
        ),
        (OSError(28, "No space left on device", "out.npz"), 1, "No space left on device: out.npz"),
        (MemoryError(), 1, "not enough memory"),
    ],
)
def test_every_failure_is_one_line_with_its_code(call, monkeypatch, error, code, said):
    fails_with(monkeypatch, error)
    assert said in refused(call, code, "cache", "info")


def test_ctrl_c_exits_130_with_one_line(call, monkeypatch):
    fails_with(monkeypatch, KeyboardInterrupt())
    assert call("cache", "info") == (130, "", "coexec: interrupted\n")


@pytest.mark.parametrize("sink, code, said", [("pipe", 141, ""), ("/dev/full", 1, "No space left on device\n")])
def test_stdout_that_cannot_be_written(tmp_path, sink, code, said):
    reader, writer = os.pipe()
    os.close(reader)
    target = writer if sink == "pipe" else os.open(sink, os.O_WRONLY)
    done = subprocess.run(
        [sys.executable, "-m", "coexec", "cache", "info"],
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COEXEC_CACHE_DIR": str(tmp_path)},
    )
    assert done.returncode == code and done.stderr.endswith(said) and done.stderr.count("\n") == len(said.splitlines()), done.stderr


# JSON and streams


@pytest.mark.parametrize(
    "arguments, keys",
    [
        (["run", "tiny.onnx", "--random"], {"model", "strategy", "outputs", "threads"}),
        (["plan", "tiny.onnx"], {"model", "profile", "strategy", "predicted_ms", "planning_ms", "nodes", "chains"}),
        (
            ["bench", "tiny.onnx", "--compare", "cpu", "--iters", "2", "--warmup", "0"],
            {"model", "profile", "strategies", "speedup_over_best_single"},
        ),
        (["validate", "tiny.onnx", "--per-op"], {"ok", "max_abs_error", "max_rel_error", "nodes"}),
        (["cache", "info"], {"cache_dir", "parts"}),
        (["doctor", "--no-self-test"], {"devices", "problems"}),
    ],
)
def test_json_is_one_object_on_stdout(call, arguments, keys):
    _, out, _ = call(*arguments, "--json")
    assert out.count("\n") == 1 and keys <= set(json.loads(out, parse_constant=pytest.fail))


def test_a_verified_plan_is_measured_and_remembered(call, tmp_path, monkeypatch):
    monkeypatch.setattr("coexec.api.refinement.company", lambda devices: None)  # tests that run beside this one would make it doubtful
    board_file = tmp_path / "board.yaml"
    save_profile(board(gpu=False), board_file)
    with settings.override(cache_dir=tmp_path):
        code, out, err = call("run", "tiny.onnx", "--random", "--verify", "--profile", board_file, "--json", strategy="coexec")
        assert code == 0, err
        assert json.loads(call("cache", "info", "--json")[1])["parts"]["plans"]["files"] == 1
        assert call("run", "tiny.onnx", "--random", "--profile", board_file, strategy="coexec")[0] == 0
    assert "replayed as it is" in refused(call, 2, "run", "tiny.onnx", "--random", "--verify", "--plan", "plan.json")


def test_bench_figures(call):
    found = json.loads(call("bench", "tiny.onnx", "--compare", "cpu,fixed:gpu=0", "--iters", "3", "--warmup", "1", "--json", "-q")[1])
    keys = {"p50_ms", "p90_ms", "p99_ms", "min_ms", "mean_ms", "stdev_ms", "count", "predicted_ms", "peak_memory_bytes"}
    assert all(keys <= set(facts) and facts["count"] == 3 for facts in found["strategies"].values())
    assert found["best_single"] == "cpu" and found["speedup_over_best_single"] > 0 and found["ideal_ms"] is None


def test_plan_nodes(call):
    found = json.loads(call("plan", "tiny.onnx", "--json")[1])
    assert {"name", "op_type", "axis", "bounds", "devices", "predicted_us", "estimated"} <= set(found["nodes"][0])


def test_plain_data_is_strict_json():
    odd = {"a": np.float32(1.5), "b": [np.nan, np.inf, 1], "c": np.arange(3), 4: {"z", "y"}, "d": np.bool_(True), "e": None}
    assert consoles.plain(odd) == {"a": 1.5, "b": [None, None, 1], "c": [0, 1, 2], "4": ["y", "z"], "d": True, "e": None}


def test_notes_go_to_stderr_and_quiet_silences_them(call):
    assert call("validate", "tiny.onnx")[2] == "made-up inputs, seed 0\n"
    code, out, err = call("validate", "tiny.onnx", "-q")
    assert code == 0 and out.startswith("ok: largest error") and err == ""


def test_verbose_says_where_it_ran(call):
    assert "CPU thread(s)" in call("run", "tiny.onnx", "--random", "-v")[2]
    assert "plan of tiny by cpu" in call("run", "tiny.onnx", "--random", "-vv")[2]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_color_only_on_a_terminal_and_never_with_no_color(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert consoles.Console(out=Terminal()).style("x", "red") == "\033[31mx\033[0m"
    assert consoles.Console(out=io.StringIO()).style("x", "red") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert consoles.Console(out=Terminal()).style("x", "red") == "x"


def test_progress_in_plain_lines_is_sparse_and_quiet_when_asked(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("coexec.cli.progress.time.monotonic", lambda: now[0])
    said = io.StringIO()
    with Progress(consoles.Console(err=said), "work") as tick:
        for done in range(1, 101):
            now[0] += 0.5
            tick(done, 100, "conv")
    assert said.getvalue().splitlines() == [
        *(f"work {p:3d} %, about {left} s left: conv" for p, left in ((5, 48), (25, 38), (45, 28), (65, 18), (85, 8))),
        "work 100 %: conv",
    ]
    silent = io.StringIO()
    with Progress(consoles.Console(quiet=True, err=silent), "work") as tick:
        tick(1, 1)
    assert silent.getvalue() == ""


def test_tables_line_up():
    assert consoles.table([("a", 1), ("long", 22)], ("name", "n")) == "name   n\na      1\nlong  22"


# Inputs


def save(folder, name, array):
    np.save(folder / name, array)
    return name


def test_bare_named_and_npz_inputs_agree(call, folder):
    np.savez(folder / "x.npz", x=np.load(folder / "x.npy"))
    np.savez(folder / "bare.npz", np.load(folder / "x.npy"))
    said = {call("run", "tiny.onnx", "--input", words)[1] for words in ("x.npy", "x=x.npy", "x.npz", "bare.npz", "x=x.npz")}
    assert len(said) == 1 and "y: float32 [1, 5]" in said.pop()


def test_two_inputs_and_output_names_with_slashes(call, folder):
    for words in (["pair.npz"], ["a=a.npy", "b/in=a.npy"]):
        assert call("run", "two.onnx", "--input", *words, "-o", "out.npz")[0] == 0
    with np.load(folder / "out.npz") as found:
        np.testing.assert_array_equal(found["sum/out"], 2 * np.load(folder / "a.npy"))


def test_random_inputs_repeat_with_the_seed_and_follow_the_shape(call):
    first, again, other = (call("run", "two.onnx", "--random", "--shape", "a:4,3", "--seed", seed)[1] for seed in (1, 1, 2))
    assert first == again != other and "[4, 3]" in first


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("missing.npy", None, "cannot read the file"),
        ("empty.npy", b"", "not a readable NumPy file"),
        ("text.npy", b"1 2 3\n", "no NumPy file at all"),
        ("zip.npz", b"PK\x03\x04 damaged", "not a readable NumPy file"),
        ("picture.jpg", b"no picture", "cannot read the picture"),
    ],
)
def test_unreadable_inputs(call, folder, name, content, said):
    if content is not None:
        (folder / name).write_bytes(content)
    err = refused(call, 2, "run", "tiny.onnx", "--input", name)
    assert said in err and name in err


def test_truncated_arrays_and_pictures(call, folder):
    from PIL import Image as image
    rng = np.random.default_rng(0)
    image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / "noise.png")
    for name in ("x.npy", "pair.npz", "noise.png"):
        whole = (folder / name).read_bytes()
        for keep in range(1, len(whole) - 1, max(1, len(whole) // 12)):
            cut = f"cut{keep}.{name.split('.')[1]}"
            (folder / cut).write_bytes(whole[:keep])
            refused(call, 2, "run", "tiny.onnx", "--input", cut)


def test_pickles_are_never_loaded(call, folder):
    np.save(folder / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "pickled objects" in refused(call, 2, "run", "tiny.onnx", "--input", "object.npy")


def test_damaged_member_of_an_archive(call, folder):
    with zipfile.ZipFile(folder / "odd.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "no array" in refused(call, 2, "run", "tiny.onnx", "--input", "odd.npz")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["tiny.onnx", "--input", "y=x.npy"], "the model has no input 'y'"),
        (["tiny.onnx", "--input", "a.npy"], "wrong shape: found [2, 3], expected float32[1,3,12,12]"),
        (["two.onnx", "--input", "a.npy"], "which input is this?"),
        (["two.onnx", "--input", "a=a.npy"], "missing input 'b/in'"),
        (["two.onnx", "--input", "a=a.npy", "a=a.npy"], "input 'a' is given twice"),
        (["two.onnx", "--input", "a=pair.npz"], "one input needs one array"),
        (["tiny.onnx", "--input", "pair.npz"], "the model has no input 'a'"),
        (["two.onnx", "--image", "a=x.npy"], "cannot read the picture"),
    ],
)
def test_inputs_that_do_not_fit(call, arguments, said):
    assert said in refused(call, 2, "run", *arguments)


def test_wrong_element_type_says_how_to_convert(call, folder):
    save(folder, "double.npy", np.load(folder / "x.npy").astype(np.float64))
    assert "astype('float32')" in refused(call, 2, "run", "tiny.onnx", "--input", "double.npy")


def test_other_byte_order_and_memory_order_are_the_same_input(call, folder):
    x = np.load(folder / "x.npy")
    save(folder, "big.npy", x.astype(">f4"))
    save(folder, "fortran.npy", np.asfortranarray(x))
    assert len({call("run", "tiny.onnx", "--input", name)[1] for name in ("x.npy", "big.npy", "fortran.npy")}) == 1


def test_nan_is_refused_unless_allowed(call, folder):
    x = np.load(folder / "x.npy")
    x[0, 1, 2, 3] = x[0, 2, 0, 0] = np.nan
    save(folder, "nan.npy", x)
    err = refused(call, 2, "run", "tiny.onnx", "--input", "nan.npy")
    assert "2 of 432 elements, the first at index [0, 1, 2, 3]" in err and "nan.npy" in err
    code, out, _ = call("run", "tiny.onnx", "--input", "nan.npy", "--allow-nan")
    assert code == 0 and "5 NaN" in out


# Pictures


def value(*shape, dtype=np.float32):
    return Value("x", TensorType(np.dtype(dtype), shape))


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A 4x2 (wide) RGB picture without loss, and its pixels [2, 4, 3]."""
    from PIL import Image as image
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "p.png"
    image.fromarray(pixels).save(path)
    return str(path), pixels


def test_pictures_become_channels_first_from_0_to_1(picture):
    path, pixels = picture
    found = inputs.read_picture(path, value(1, 3, 2, 4))
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found[0], pixels.transpose(2, 0, 1) / 255, rtol=1e-6)


def test_mean_and_std_per_channel(picture):
    path, pixels = picture
    found = inputs.read_picture(path, value(1, 3, 2, 4), None, inputs.Pixels(1 / 255, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)))
    expected = (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(found[0], expected.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "declared, shape",
    [
        ((1, 3, 2, 4), (1, 3, 2, 4)),
        ((1, 2, 4, 3), (1, 2, 4, 3)),
        (("N", 3, "H", "W"), (1, 3, 2, 4)),
        ((None, "C", None, None), (1, 3, 2, 4)),
        ((3, 2, 4), (3, 2, 4)),
        ((2, 4), (2, 4)),
        ((1, 1, 2, 4), (1, 1, 2, 4)),
        ((1, 3, 8, 8), (1, 3, 8, 8)),
        (None, (1, 3, 2, 4)),
    ],
)
def test_pictures_take_the_shape_of_the_input(picture, declared, shape):
    kind = Value("x", TensorType(np.dtype(np.float32), declared))
    assert inputs.read_picture(picture[0], kind).shape == shape


def test_layout_by_name(picture):
    path, pixels = picture
    found = inputs.read_picture(path, value(1, "H", "W", "C"), None, inputs.Pixels(scale=1, layout="nhwc"))
    np.testing.assert_array_equal(found[0], pixels)


def test_whole_number_inputs_take_pixels_as_they_are(picture):
    path, pixels = picture
    np.testing.assert_array_equal(inputs.read_picture(path, value(1, 2, 4, 3, dtype=np.uint8))[0], pixels)
    with pytest.raises(InputError, match="pixels as they are"):
        inputs.read_picture(path, value(1, 2, 4, 3, dtype=np.uint8), None, inputs.Pixels(mean=(0.5,)))


@pytest.mark.parametrize(
    "shape, said", [((1, 5, 2, 4), "1 or 3 channels"), ((8, 3, 2, 4), "cannot fill a batch"), ((7,), "takes no picture")]
)
def test_inputs_that_take_no_picture(picture, shape, said):
    with pytest.raises(InputError, match=said):
        inputs.read_picture(picture[0], value(*shape))


def test_channels_of_mean_must_fit(picture):
    with pytest.raises(InputError, match="--mean has 2 values"):
        inputs.read_picture(picture[0], value(1, 3, 2, 4), None, inputs.Pixels(mean=(1.0, 2.0)))


def test_bare_picture_on_the_command_line(call, picture):
    assert call("run", "tiny.onnx", "--image", picture[0])[1] == call("run", "tiny.onnx", "--input", f"x={picture[0]}")[1] != ""


def test_names_and_paths_may_hold_equal_signs(folder):
    save(folder, "k=v.npy", np.ones(2, np.float32))
    known = Graph("g", (value(2), Value("n=1", TensorType(np.dtype(np.float32), (2,)))), (), ())
    path = str(folder / "k=v.npy")
    assert list(inputs.read_feeds(known, [f"n=1={path}", f"x={path}"])) == ["n=1", "x"]


# Outputs


def test_top_classes_with_labels(call, folder):
    (folder / "names.txt").write_text("ant\nbee\ncat\ndog\nemu\n")
    code, out, _ = call("run", "tiny.onnx", "--input", "x.npy", "--labels", "names.txt", "--json")
    top = json.loads(out)["outputs"]["y"]["top"]
    values = [row["value"] for row in top]
    assert code == 0 and values == sorted(values, reverse=True) and top[0]["label"] == ("ant", "bee", "cat", "dog", "emu")[top[0]["index"]]
    (folder / "few.txt").write_text("ant\n")
    assert "fewer labels" in refused(call, 2, "run", "tiny.onnx", "--input", "x.npy", "--labels", "few.txt")


def test_an_output_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    target = tmp_path / "out.npz"
    outputs.save(target, {"a": np.arange(3)})

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError):
        outputs.save(target, {"a": np.arange(9)})
    with np.load(target) as found:
        assert found["a"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


def test_lists_strings_and_single_arrays_can_be_saved(tmp_path):
    outputs.save(tmp_path / "o.npz", {"seq": [np.ones(2), np.zeros(1)], "text": np.array(["a", "bc"], dtype=object), "none": None})
    with np.load(tmp_path / "o.npz") as found:
        assert sorted(found.files) == ["seq.0", "seq.1", "text"] and found["text"].tolist() == ["a", "bc"]
    outputs.save(tmp_path / "o.npy", {"y": np.arange(4)})
    assert np.load(tmp_path / "o.npy").tolist() == [0, 1, 2, 3]
    with pytest.raises(UsageError, match="one array"):
        outputs.save(tmp_path / "p.npy", {"a": np.ones(1), "b": np.ones(1)})


def test_repeat_reports_percentiles(call):
    found = json.loads(call("run", "tiny.onnx", "--random", "--repeat", "4", "--json")[1])["latency"]
    assert found["count"] == 4 and found["min_ms"] <= found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert "4 runs: median" in call("run", "tiny.onnx", "--random", "--repeat", "4")[1]


# Traces


def test_a_trace_is_written_and_named(call, folder):
    code, out, err = call("run", "tiny.onnx", "--random", "--trace", "t.json", "--repeat", "2", "--json")
    said, found = json.loads(out), json.loads((folder / "t.json").read_text())
    assert code == 0 and said["trace"] == "t.json" and "wrote t.json" in err and said["latency"]["count"] == 2
    spans = [e for e in found["traceEvents"] if e["ph"] == "X"]
    assert [e["name"] for e in spans if e["cat"] == "run"] == ["run 0", "run 1", "run 2"], "the warm-up too"
    assert [e["name"] for e in spans if e["cat"] == "creation"][:3] == ["import", "inputs", "profile"]
    runs = [e["dur"] / 1e3 for e in spans if e["cat"] == "run"]
    assert said["latency"]["min_ms"] == pytest.approx(min(runs[1:]), abs=1e-5)
    assert said["trace_summary"]["runs"] == 2 and {r["name"] for r in said["trace_summary"]["slowest"]} <= {e["name"] for e in spans}
    assert found["otherData"]["strategy"] == "cpu" and "trace" not in json.loads(call("run", "tiny.onnx", "--random", "--json")[1])


def test_a_trace_with_v_is_summed_up_in_a_table(call):
    assert "slowest pieces" not in call("run", "tiny.onnx", "--random", "--trace", "t.json")[2]
    code, out, err = call("run", "tiny.onnx", "--random", "--trace", "t.json", "-v")
    assert code == 0 and "slowest" not in out and "1 traced run(s) of " in err and "cpu busy " in err and "waiting 0 %" in err
    header = next(i for i, line in enumerate(err.splitlines()) if line.startswith("slowest pieces"))
    assert "node predicted us" in err.splitlines()[header] and "Conv" in "".join(err.splitlines()[header + 1 : header + 4])


def test_trace_beside_check_does_both(call, folder):
    code, _, err = call("run", "tiny.onnx", "--random", "--check", "--trace", "checked.json")
    assert code == 0 and "every operator agrees" in err and (folder / "checked.json").exists()


def test_ctrl_c_leaves_a_whole_trace(call, folder, monkeypatch):
    from coexec.runtime.tape import Tape

    honest, count = Tape.play, []

    def play(tape, watched):
        honest(tape, watched)
        count.append(tape)
        if len(count) > 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Tape, "play", play)
    code, out, err = call("run", "tiny.onnx", "--random", "--trace", "cut.json", "--repeat", "5")
    assert (code, out) == (130, "") and err.splitlines()[-1] == "coexec: interrupted" and "wrote cut.json, up to KeyboardInterrupt" in err
    runs = [e for e in json.loads((folder / "cut.json").read_text())["traceEvents"] if e.get("cat") == "run"]
    assert [e["args"].get("error") for e in runs][-1] == "KeyboardInterrupt" and len(runs) > 1
    assert not [p for p in folder.iterdir() if p.name.endswith(".part")]


def test_a_failing_trace_does_not_hide_what_failed(call, monkeypatch):
    from coexec import api

    def fails(*arguments):
        raise CoexecError("it broke")

    monkeypatch.setattr(api.InferenceSession, "run", fails)
    monkeypatch.setattr(api.InferenceSession, "end_profiling", lambda *a: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    code, _, err = call("run", "tiny.onnx", "--random", "--trace", "t.json")
    assert code == 1 and "the trace is lost: " in err and err.splitlines()[-1] == "coexec: error: it broke"


# Plans and validation


def test_a_saved_plan_is_replayed_and_refused_for_another_model(call, folder):
    assert call("plan", "tiny.onnx", "-o", "plan.json")[0] == 0
    code, out, _ = call("run", "tiny.onnx", "--input", "x.npy", "--plan", "plan.json")
    assert code == 0 and out == call("run", "tiny.onnx", "--input", "x.npy")[1]
    assert "made for another model" in refused(call, 7, "run", "two.onnx", "--random", "--plan", "plan.json")
    (folder / "broken.json").write_text("{")
    assert "not a plan" in refused(call, 7, "run", "tiny.onnx", "--random", "--plan", "broken.json")
    assert "one or the other" in refused(call, 2, "run", "tiny.onnx", "--random", "--plan", "plan.json", "--profile", "p.yaml")


def test_a_plan_for_another_device_is_refused(call, folder):
    """Replaying what was planned for a board that is not here would be as slow as it is wrong."""
    save_profile(board(gpu=False), folder / "board.yaml")
    assert call("plan", "tiny.onnx", "--profile", "board.yaml", "-o", "far.json", strategy="coexec")[0] == 0
    said = refused(call, 7, "run", "tiny.onnx", "--random", "--plan", "far.json")
    assert "made for another device: found cpu 'imagined cpu' in the plan, expected '" in said and "plan again" in said
    assert "made for another device" in refused(call, 7, "validate", "tiny.onnx", "-q", "--plan", "far.json")


def test_two_plans_side_by_side(call, folder):
    save_profile(board(), folder / "board.yaml")
    for name, more in (("a", []), ("b", ["--force", "conv=gpu", "--max-gpu-share", "0.5"])):
        assert call("plan", "tiny.onnx", "--profile", "board.yaml", "-o", f"{name}.json", *more)[0] == 0
    code, out, _ = call("plan", "--diff", "a.json", "b.json")
    assert code == 0 and "asked for --force conv=gpu --max-gpu-share 0.5" in out and "1 of " in out and "on gpu" in out, out
    found = json.loads(call("plan", "--diff", "a.json", "b.json", "--json")[1])
    assert [(c["name"], c["first"].endswith("on cpu"), c["second"].endswith("on gpu")) for c in found["changes"]] == [("conv", True, True)]
    assert found["same_model"] and found["plans"][1]["wishes"]["max_gpu_share"] == 0.5
    assert "0 of " in call("plan", "--diff", "a.json", "a.json")[1]
    call("plan", "two.onnx", "-o", "c.json")
    assert "different models" in call("plan", "--diff", "a.json", "c.json")[1]
    assert "cannot read the plan" in refused(call, 7, "plan", "--diff", "a.json", "nothing.json")


def test_a_node_is_explained(call, folder):
    save_profile(board(5, 5, sync_us=1), folder / "board.yaml")
    code, out, _ = call("plan", "tiny.onnx", "--profile", "board.yaml", "--explain", "conv", strategy="coexec:fewer_waits=0")
    assert code == 0 and out.startswith("conv (Conv): ") and "cpu only" in out and "gpu only" in out and "us longer" in out and "launch" in out, out
    found = json.loads(call("plan", "tiny.onnx", "--profile", "board.yaml", "--explain", "conv", "--json", strategy="coexec:fewer_waits=0")[1])
    (told,) = found["explained"]
    assert told["name"] == "conv" and {"gpu_us", "cpu_us", "launch_us", "sync_us", "transform_us", "run_ms"} <= set(told["ways"][0])
    assert "did you mean conv" in refused(call, 2, "plan", "tiny.onnx", "--profile", "board.yaml", "--explain", "conf")
    assert "cpu alone: " in call("plan", "tiny.onnx", "--profile", "board.yaml", "--explain", strategy="coexec:fewer_waits=0")[1]


def test_energy_is_said_to_be_modelled(call, folder):
    made = board()
    save_profile(
        replace(made, cpu=replace(made.cpu, power_w=4.0, idle_w=0.5), gpu=replace(made.gpu, power_w=2.0, idle_w=0.1)), folder / "power.yaml"
    )
    code, out, _ = call("plan", "tiny.onnx", "--profile", "power.yaml", "--objective", "energy", strategy="coexec")
    assert code == 0 and "mJ, modelled from the profile's watts" in out
    asked = ("--profile", "power.yaml", "--objective", "energy", "--compare", "cpu,coexec", "--iters", "1", "--warmup", "0")
    code, out, err = call("bench", "tiny.onnx", *asked)
    assert code == 0 and "modelled from the profile's watts: cpu " in out, err
    save_profile(made, folder / "board.yaml")
    assert "no cpu.power_w" in refused(call, 2, "plan", "tiny.onnx", "--profile", "board.yaml", "--objective", "energy")


def test_a_plan_survives_renaming_the_model(call, folder):
    call("plan", "tiny.onnx", "-o", "plan.json")
    (folder / "renamed.onnx").write_bytes((folder / "tiny.onnx").read_bytes())
    assert call("run", "renamed.onnx", "--random", "--plan", "plan.json")[0] == 0


def test_validate_exits_5_on_a_mismatch(call, monkeypatch):
    assert call("validate", "tiny.onnx")[0] == 0
    from coexec import api

    honest = api.validate
    monkeypatch.setattr(api, "validate", lambda *a, **k: {**honest(*a, **k), "ok": False, "max_abs_error": 1.0})
    code, out, _ = call("validate", "tiny.onnx", "--json")
    assert code == 5 and json.loads(out)["ok"] is False
    assert call("validate", "tiny.onnx")[1].startswith("MISMATCH")


def test_forcing_an_unknown_node_suggests_a_name(call):
    assert "did you mean conv" in refused(call, 2, "run", "tiny.onnx", "--random", "--force", "conf=cpu")


# Cache


def test_cache_clear_removes_its_own_parts_only(call, tmp_path):
    for part in ("opencl", "numba", "precious"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "f").write_text("12345")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "keep").write_text("")
    (tmp_path / "tuning").symlink_to(elsewhere)
    with settings.override(cache_dir=tmp_path):
        assert json.loads(call("cache", "info", "--json")[1])["parts"]["numba"] == {"files": 1, "bytes": 5}
        assert call("cache", "clear", "opencl")[0] == 0 and (tmp_path / "numba/f").exists() and not (tmp_path / "opencl").exists()
        assert call("cache", "clear")[0] == 0
    assert (tmp_path / "precious/f").exists() and (elsewhere / "keep").exists() and not (tmp_path / "numba").exists()


# Timing


def test_rounds_take_turns():
    calls = []
    times = timing.interleave({n: lambda n=n: calls.append(n) for n in "abc"}, 1, 3)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" and {n: len(t) for n, t in times.items()} == {"a": 3, "b": 3, "c": 3}


@pytest.mark.parametrize("count", range(2, 12))
def test_nobody_always_runs_after_the_same_other(count):
    taken = timing.orders(count)
    places = Counter((at, who) for row in taken for at, who in enumerate(row))
    after = Counter(pair for row in taken for pair in zip(row, row[1:]))
    assert len(places) == count * count and len(set(places.values())) == 1
    assert len(after) == count * (count - 1) and len(set(after.values())) == 1


@pytest.mark.parametrize("count", [1, 2, 7, 50])
def test_percentiles_are_numpys(count):
    values = np.random.default_rng(count).exponential(1, count)
    for percent in (0, 50, 90, 99, 100):
        assert timing.percentile(list(values), percent) == pytest.approx(np.percentile(values, percent))


def test_comparison_with_the_best_single_device():
    from coexec.cli.bench import compare

    found = compare({"cpu": {"p50_ms": 10.0}, "gpu": {"p50_ms": 30.0}, "flops": {"p50_ms": 9.0}, "coexec": {"p50_ms": 8.0}})
    assert found == {
        "best_single": "cpu",
        "compared": "coexec",
        "ideal_ms": pytest.approx(7.5),
        "speedup_over_best_single": 1.25,
        "ideal_speedup": pytest.approx(10 / 7.5),
    }
    assert compare({"coexec": {"p50_ms": 8.0}})["speedup_over_best_single"] is None


# Profiles


@pytest.fixture(scope="module")
def profiled(folder):
    """A profile of the CPU alone, and the table it was fitted to."""
    assert main(["profile", "-q", "-o", str(folder / "p.yaml"), "--csv", str(folder / "t.csv"), "--time-budget", "2s"]) == 0
    return folder


def test_profile_writes_yaml_and_a_table(call, profiled):
    from coexec.profiles import load_profile
    from coexec.profiling.table import COLUMNS, read_table

    made = load_profile(profiled / "p.yaml")
    assert made.gpu is None and made.cpu.peak_gflops > 0
    assert (profiled / "t.csv").read_text().splitlines()[0] == ",".join(COLUMNS) and len(read_table(profiled / "t.csv")) > 0


def test_profile_without_a_name_becomes_this_machines_own(call, tmp_path):
    with settings.override(cache_dir=tmp_path):
        code, out, _ = call("profile", "--time-budget", "1s", "--json", "-q")
        found = json.loads(out)
        assert code == 0 and found["profile"].startswith(str(tmp_path / "profiles")) and found["units"]["cpu"]["peak_gflops"] > 0
        before = os.stat(found["profile"]).st_mtime_ns
        assert call("plan", "tiny.onnx", strategy="coexec")[0] == 0
        assert os.stat(found["profile"]).st_mtime_ns == before and len(list((tmp_path / "profiles").glob("*.yaml"))) == 1


def _table(path, timings):
    from coexec.profiling.table import COLUMNS

    rows = [",".join(COLUMNS)]
    for unit, us in (("cpu", 1.0), ("gpu", 0.5)):
        for channels in timings:
            flops = 2 * 28 * 28 * channels * 64
            row = f"board,{unit},4,Conv,direct,float32,1,{channels},28,28,64,28,28,1,1,1,1,1,0,{us * flops / 1e4 + 5}".split(",")
            rows.append(",".join(row + [""] * (len(COLUMNS) - len(row))))
    path.write_text("\n".join(rows) + "\n")


def test_a_table_of_others_is_fitted_and_judged(call, folder):
    _table(folder / "theirs.csv", range(8, 200, 8))
    code, out, _ = call("profile", "--from-csv", "theirs.csv", "--group-by", "shape", "-o", "theirs.yaml", "--json")
    found = json.loads(out)
    assert code == 0 and set(found["devices"]) == {"cpu", "gpu"}
    for judged in found["devices"].values():
        assert judged["count"] == 24 and judged["within_10pct"] == 1.0 and judged["noise_floor_within_10pct"] is None
    code, out, _ = call("plan", "tiny.onnx", "--profile", "theirs.yaml", "--explain", strategy="coexec")
    assert code == 0 and "cpu us" in out and "gpu alone:" in out
    _table(folder / "few.csv", range(8, 200, 12))
    assert "noise floor" in call("profile", "--from-csv", "few.csv", "--group-by", "shape")[1]


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["profile", "--group-by", "shape"], 2, "--from-csv FILE beside it"),
        (["profile", "--from-csv", "nothing.csv"], 2, "nothing.csv"),
        (["profile", "--quick", "--full"], 2, "not allowed with"),
        (["profile", "--time-budget", "soon"], 2, "--time-budget: found 'soon', expected a time such as 90s"),
        (["profile", "--cpu-affinity", "7-4"], 2, "--cpu-affinity: found '7-4'"),
        (["profile", "--cpu-affinity", "8000", "-o", "p2.yaml"], 2, "cannot use those cores"),
        (["plan", "tiny.onnx", "--profile", "nothing.yaml"], 2, "cannot read the profile"),
        (["plan", "tiny.onnx", "--profile", "tiny.onnx"], 7, "tiny.onnx"),
    ],
)
def test_profile_errors(call, arguments, code, said):
    assert said in refused(call, code, *arguments)


def test_core_lists():
    from coexec.cli.profile import cores

    assert cores("0,2,4-6") == {0, 2, 4, 5, 6}


def test_evaluate_compares_operators_and_models(call, profiled):
    code, out, _ = call("evaluate", "tiny.onnx", "--profile", "p.yaml", "--strategy", "cpu", "--iters", "2", "--json")
    found = json.loads(out)
    assert (code == 0 and set(found["models"]["tiny"]) == {"predicted_ms", "measured_ms", "error", "clocked_ms", "slowness"}
            and found["predict_us_per_query"] > 0)
    keys = {"count", "within_5pct", "within_10pct", "within_15pct", "mape", "noise_floor_within_10pct"}
    assert (
        set(found["devices"]) == {"cpu"}
        and set(found["devices"]["cpu"]) == keys
        and found["devices"]["cpu"]["count"] == len(found["ops"]) > 1
    )
    assert "predicted ms" in call("evaluate", "tiny.onnx", "--profile", "p.yaml", "--strategy", "cpu", "--iters", "2")[1]


def test_judging_predictions():
    from coexec.report.evaluation import Sample, judge

    def sample(predicted, measured, again):
        return Sample("m", "n", "Conv", "gpu", predicted, measured, again, False)

    found = judge([sample(104, 99, 101), sample(91, 100, 100), sample(142.5, 100, 150), sample(160, 100, 60)])["gpu"]
    assert (found["within_5pct"], found["within_10pct"], found["within_15pct"]) == (0.25, 0.5, 0.75)
    assert found["mape"] == pytest.approx((4 + 9 + 14 + 100) / 4) and found["noise_floor_within_10pct"] == 0.5


def test_oracle_without_a_gpu_says_what_it_needs(call):
    arguments = "bench", "tiny.onnx", "--compare", "cpu,fixed:gpu=0", "--iters", "1", "--warmup", "0", "--oracle"
    assert "needs a strategy that may split, and a GPU" in refused(call, 2, *arguments)


# What users have


@pytest.fixture
def pictures(folder):
    from PIL import Image as image
    place = folder / "pictures"
    place.mkdir(exist_ok=True)
    for name, colour in (("b.png", (200, 10, 30)), ("a.jpg", (1, 2, 250)), ("c.bmp", (0, 0, 0))):
        image.new("RGB", (20, 16), colour).save(place / name)
    (place / "notes.txt").write_text("no picture")
    return place


def test_a_folder_of_pictures_runs_each_by_name(call, folder, pictures):
    code, out, _ = call("run", "tiny.onnx", "--image", "pictures", "--top", "2", "-o", "all.npz", "--json")
    told = json.loads(out)
    assert code == 0 and list(told["pictures"]) == [f"pictures/{n}" for n in ("a.jpg", "b.png", "c.bmp")]
    for file, said in told["pictures"].items():
        _, alone, _ = call("run", "tiny.onnx", "--image", file, "--top", "2", "--json")
        assert said == json.loads(alone)["outputs"] and len(said["y"]["top"]) == 2
    with np.load(folder / "all.npz") as saved:
        assert sorted(saved.files) == ["a.jpg/y", "b.png/y", "c.bmp/y"]
    code, out, _ = call("run", "tiny.onnx", "--image", "x=pictures", "--top", "1")
    assert code == 0 and [line.split(":")[0] for line in out.splitlines() if "float32" in line] == ["a.jpg", "b.png", "c.bmp"]


def test_a_broken_picture_of_a_folder_is_left_out_and_said(call, folder, pictures):
    place = folder / "mixed"
    place.mkdir()
    for name in ("a.png", "c.png"):
        (place / name).write_bytes(b"\x89PNG and no more")
    for name in ("b.png", "d.png"):
        (place / name).write_bytes((pictures / "b.png").read_bytes())
    code, out, err = call("run", "tiny.onnx", "--image", "mixed", "--top", "1", "-o", "mixed.npz")
    assert code == 2 and [line.split(":")[0] for line in out.splitlines() if "float32" in line] == ["b.png", "d.png"]
    assert [line.split("]")[0] for line in err.splitlines() if line.startswith("left out")] == ["left out: [mixed/a.png", "left out: [mixed/c.png"]
    with np.load(folder / "mixed.npz") as saved:
        assert sorted(saved.files) == ["b.png/y", "d.png/y"]
    told = json.loads(call("run", "tiny.onnx", "--image", "mixed", "--json")[1])
    assert list(told["left_out"]) == ["mixed/a.png", "mixed/c.png"] and list(told["pictures"]) == ["mixed/b.png", "mixed/d.png"]
    for name in ("b.png", "d.png"):
        (place / name).unlink()
    assert "cannot read the picture" in refused(call, 2, "run", "tiny.onnx", "--image", "mixed")


def test_folders_that_cannot_be_run(call, folder, pictures):
    (folder / "empty").mkdir(exist_ok=True)
    assert "[empty] the folder holds no picture" in refused(call, 2, "run", "tiny.onnx", "--image", "empty")
    assert "a folder of pictures is the only input" in refused(call, 2, "run", "tiny.onnx", "--image", "pictures", "--input", "x.npy")
    assert "--top: found '0'" in refused(call, 2, "run", "tiny.onnx", "--random", "--top", "0")


def test_bare_numbers_take_the_inputs_shape(call, folder):
    np.load(folder / "x.npy").astype("<f4").tofile(folder / "x.bin")
    _, named, _ = call("run", "tiny.onnx", "--input", "x=x.bin", "--json")
    _, array, _ = call("run", "tiny.onnx", "--input", "x.npy", "--json")
    assert json.loads(named)["outputs"] == json.loads(array)["outputs"]
    np.arange(12, dtype="<f4").tofile(folder / "a.raw")  # [N, 3]: four rows
    code, out, _ = call("run", "two.onnx", "--input", "a=a.raw", "b/in=a.raw", "--json")
    assert code == 0 and json.loads(out)["outputs"]["sum/out"]["shape"] == [4, 3] and json.loads(out)["outputs"]["sum/out"]["max"] == 22
    (folder / "short.bin").write_bytes(bytes(10))
    assert "found 10 bytes, expected 1728 bytes for" in refused(call, 2, "run", "tiny.onnx", "--input", "short.bin")
    assert "expected 12 bytes or a multiple" in refused(call, 2, "run", "two.onnx", "--input", "a=short.bin", "b/in=a.raw")
    assert "No such file" in refused(call, 2, "run", "tiny.onnx", "--input", "missing.bin")


def test_bench_exports_as_hyperfine_does(call, folder):
    code, out, err = call("bench", "tiny.onnx", "--compare", "cpu", "--iters", "4", "--export-json", "t.json", "--export-csv", "t.csv")
    row = json.loads((folder / "t.json").read_text())["results"][0]
    assert code == 0 and row["command"] == "cpu" and len(row["times"]) == 4 and row["min"] <= row["median"] <= row["max"] < 1
    header, line = (folder / "t.csv").read_text().splitlines()
    assert header == "command,mean,stddev,median,min,max" and line.startswith("cpu,") and float(line.split(",")[3]) == row["median"]
    assert "wrote t.json" in err and "latency from" in out and "cpu |" in out
    assert "[--export-csv]" in refused(call, 2, "bench", "tiny.onnx", "--export-csv", "no/such/t.csv")


def test_a_histogram_in_a_line():
    from coexec.report.export import PLAIN, spark

    assert spark([1, 1, 1, 1, 9, 5], 1, 9, bins=4, letters=PLAIN) == "@ ::"
    assert spark([3, 3], 3, 3, bins=3, letters=PLAIN) == "@  "
    assert spark([0, 100], 1, 9, bins=2, letters=PLAIN) == "@@"
