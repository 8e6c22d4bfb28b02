"""What README and docs say can be done is done here: every command, every example of Python; every link leads somewhere.

Commands are those of `sh` blocks. A block below `<!-- needs a board: why -->` is only parsed, one below `<!-- run by tests/test_quickstart.py -->` is
run there. Models, profiles and pictures that a page names are small ones made here, and times are seconds in place of minutes. What running
text and tables mention is run too where it is a whole command, else asked for its help.
"""

from __future__ import annotations

import argparse
import ast
import configparser
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import coexec
from coexec import api, settings
from coexec.cli.main import VERBS, main, make_parser, parse
from coexec.devices.registry import find_devices
from coexec.graph.ir import Node, TensorType, Value
from coexec.profiles import Correction, DeviceProfile, Latency, Machine, UnitProfile, default_profile_path, from_yaml, save_profile
from coexec.profiling.table import write_table

from .partition.boards import board
from .partition.phones import table

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "profiles/README.md"]
#: What a command may name that it does not make itself, by suffix; the option before a name that is made by the command.
MADE_BY = ("-o", "--output", "--trace", "--csv", "--export-json", "--export-csv", "--plots", "--plot")


@dataclass(frozen=True)
class Block:
    page: str
    language: str
    lines: tuple[str, ...]
    run: bool


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a page, and whether a mark before them says not to run them."""
    found, before, inside = [], "", None
    for line in path.read_text().splitlines():
        if inside is None and line.startswith("```"):
            inside = (line[3:].strip(), [], not re.match(r"<!-- (run by tests/test_quickstart.py|needs a board: .+) -->$", before))
        elif inside is not None and line.startswith("```"):
            found.append(Block(path.name, inside[0], tuple(inside[1]), inside[2]))
            inside = None
        elif inside is not None:
            inside[1].append(line)
        if line.strip():
            before = line.strip()
    assert inside is None, f"{path}: a block is not closed"
    return found


def commands() -> list[tuple[str, str, bool]]:
    """(page, command, whether to run it) of every line of every `sh` block."""
    return [(b.page, line.split("#")[0].split(" | ")[0].strip(), b.run) for path in PAGES for b in blocks(path) if b.language == "sh"
            for line in b.lines if line.split("#")[0].strip()]  # fmt: skip


def once(found: list[tuple[str, str]], before: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Those (page, command) that differ by more than the names of files, from one another and from those before; of rounds of measuring, which all
    last a second here, by more than how long they are and where they write.
    """
    def form(command: str) -> str:
        command = re.sub(r"[\w/-]*[\w*](\.\w+)", r"X\1", command)
        return re.sub(r" --full| -o X\.yaml| --time-budget \w+", "", command) if re.match("coexec profile( -|$)", command) else command

    different = {form(command): None for command in before}
    for page, command in found:
        different.setdefault(form(command), (page, command))
    return [known for known in different.values() if known is not None]


def run_commands() -> list[tuple[str, str]]:
    return once([(page, command) for page, command, run in commands() if run and command.startswith("coexec ")])


def picture_net(batch: int | str = 1) -> onnx.ModelProto:
    """[batch, 3, 224, 224] to [batch, 10]: a strided convolution, an average, a fully connected layer."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), n) for n, s in (("w", (8, 3, 3, 3)), ("fc", (8, 10)))]
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"], "conv", strides=[4, 4]), helper.make_node("GlobalAveragePool", ["c"], ["g"], "pool"),
             helper.make_node("Flatten", ["g"], ["f"], "flatten"), helper.make_node("Gemm", ["f", "fc"], ["y"], "gemm")]  # fmt: skip
    graph = helper.make_graph(nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 224, 224])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 10])], weights)  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def text_net() -> onnx.ModelProto:
    """Two inputs, ids and mask, of [1, 8], multiplied."""
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in ("ids", "mask")]
    graph = helper.make_graph([helper.make_node("Mul", ["ids", "mask"], ["y"], "mul")], "text", inputs,
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


#: Models that pages and examples name by what is special about them; any other is a `picture_net`.
MODELS = {"batch.onnx": lambda: picture_net("N"), "text.onnx": text_net}


def this_machines() -> DeviceProfile:
    """A made-up profile under the names of the devices here, on which plans made from it may run."""
    made, here = board(), {name: device.facts.name for name, device in find_devices().items()}
    return replace(made, cpu=replace(made.cpu, name=here["cpu"], power_w=2.0, idle_w=0.3),
                   gpu=replace(made.gpu, name=here.get("gpu", made.gpu.name), power_w=1.5, idle_w=0.1))  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what pages speak of, and a cache in which this machine is measured already."""
    folder = tmp_path_factory.mktemp("docs")
    x = np.random.default_rng(0).standard_normal((1, 3, 224, 224)).astype(np.float32)
    np.save(folder / "x.npy", x)
    x.tofile(folder / "x.bin")
    (folder / "names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    (folder / "pictures").mkdir()
    for name in ("ids", "mask"):
        np.save(folder / f"{name}.npy", np.ones((1, 8), np.float32))
    write_table([*table("cpu_little")[::8], *table("gpu_image")[::8]], folder / "timings.csv")
    for name in ("cat.jpg", "7.jpg", "pictures/one.png", "pictures/two.png"):
        Image.new("RGB", (32, 24), (200, 90, 10)).save(folder / name)
    with settings.override(cache_dir=folder / "cache"):
        kept = default_profile_path({name: device.facts for name, device in find_devices().items()})
        kept.parent.mkdir(parents=True)
        save_profile(this_machines(), kept)
        yield folder


def supply(folder: Path, words: list[str]) -> list[Path]:
    """Makes the models, profiles, plans and tables that those words name and that the command does not make; the tables are returned."""
    tables = []
    for before, word in zip(["", *words], words):
        path = folder / word
        if before in MADE_BY or path.exists() or path.suffix not in (".onnx", ".yaml", ".json", ".csv"):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if word.startswith("profiles/") and (ROOT / word).exists():
            shutil.copy(ROOT / word, path)
        elif path.suffix == ".onnx":
            onnx.save(MODELS.get(path.name, picture_net)(), path)
        elif path.suffix == ".yaml":
            save_profile(this_machines(), path)
        elif path.suffix == ".csv":
            shutil.copy(folder / "timings.csv", path)
            tables.append(path)
        else:
            api.plan(api.bind(api.load(picture_net())), profile=this_machines()).save(path)
    return tables


@pytest.fixture
def do(place, monkeypatch, capsys):
    """Runs a command of coexec's in that folder: do(page, its words)."""
    monkeypatch.chdir(place)
    monkeypatch.delenv("COEXEC_DEBUG", raising=False)
    return lambda page, words: done(page, words, place, capsys)


def done(page: str, words: list[str], place: Path, capsys: pytest.CaptureFixture) -> None:
    command = shlex.join(words)
    for made in [w for before, w in zip(words, words[1:]) if before in MADE_BY]:
        (place / made).parent.mkdir(parents=True, exist_ok=True)
    supplied = supply(place, words)
    words = ["1s" if before in ("--time-budget", "--tune") else w for before, w in zip(["", *words], words)]  # in place of minutes
    if words[0] == "profile" and not {"check", "diff", "--from-csv", "--time-budget"} & set(words):
        words = [w for w in words if w != "--full"] + ["--time-budget", "1s"]
    replaces = words[:2] == ["cache", "clear"] or words[0] == "profile" and "-o" not in words  # what other commands here rely on
    with settings.override(**({"cache_dir": place / "another cache"} if replaces else {})):
        code = main([*words, "-q"])
    for table_of_phones in supplied:  # another command's --resume would find it beside its profile
        table_of_phones.unlink()
    out, err = capsys.readouterr()
    # A profile of a second, made and checked while other tests run, may be found not to fit: that is an answer too.
    answers = (0, 7) if words[:2] == ["profile", "check"] else (0,)
    assert code in answers and out and "error" not in err, f"{page}: {command}\n{err}"


@pytest.mark.parametrize("page, command", run_commands())
def test_a_command_of_the_docs_works(page, command, do):
    do(page, shlex.split(command)[1:])


@pytest.mark.parametrize("page, command", sorted({(p, c) for p, c, _ in commands() if c.startswith("coexec ")} - {*run_commands()}))
def test_a_command_that_is_not_run_is_valid(page, command):
    assert parse(shlex.split(command)[1:]).verb


#: What makes a tool quick that takes minutes on real networks.
QUICKLY = {"evaluate_predictors.py": ["--iters", "2", "--passes", "1"], "find_fusion.py": ["--rounds", "3"],
           "compare_sampling.py": ["--seconds", "1", "--rounds", "1"], "bench_company.py": ["--runs", "1"]}


@pytest.mark.parametrize("page, command", [(p, c) for p, c, run in commands() if run and c.startswith("python ")])
def test_a_tool_of_the_docs_works(page, command, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    tool, *options = shlex.split(command)[1:]
    (place / "models").mkdir(exist_ok=True)
    for name in ("googlenet", "squeezenet_1_1"):
        onnx.save(picture_net(), place / f"models/{name}.onnx")
    if "p.yaml" in options:  # with the measurements behind it
        for old in place.glob("p.*"):
            old.unlink()
        assert main(["profile", "-o", "p.yaml", "--time-budget", "1s", "-q"]) == 0
        capsys.readouterr()
    done = subprocess.run([sys.executable, ROOT / tool, *options, *QUICKLY[Path(tool).name]], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout, f"{page}: {command}\n{done.stderr}"


@pytest.mark.parametrize("page, command, run", [c for c in commands() if not c[1].startswith(("coexec ", "python ")) or not c[2]])
def test_other_commands_name_things_that_are_there(page, command, run):
    assert not run, f"{page}: `{command}` is not run here: mark its block with why"
    words = shlex.split(command)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    if words[0] == "coexec":
        assert parse(words[1:]).verb
        return
    scripts = [w for w in words if w.endswith((".sh", ".py"))]
    extras = configparser.ConfigParser()
    extras.read(ROOT / "setup.cfg")
    named = re.findall(r"\[([\w,]+)\]", command) if "pip" in words else []
    assert scripts or named, f"{page}: `{command}` is checked by nothing; mark its block or teach this test"
    for script in scripts:
        assert (ROOT / script).is_file(), f"{page}: {script}"
        if script.endswith(".py"):
            ast.parse((ROOT / script).read_text())
        else:
            subprocess.run(["bash", "-n", ROOT / script], check=True)
    for extra in ",".join(named).split(",") if named else ():
        assert extra in extras["options.extras_require"]


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_examples_of_python_run(page, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    examples = [b for b in blocks(ROOT / page) if b.language == "python" and b.run]
    supply(place, re.findall(r'"([\w/.]+\.(?:onnx|yaml))"', "\n".join(line for b in examples for line in b.lines if "missing" not in line)))
    names: dict[str, object] = {}
    for example in examples:
        exec(compile("\n".join(example.lines), page, "exec"), names)
    assert examples and capsys.readouterr().out


#: Pages whose only example is a class, and what it takes to define it.
CLASSES = {
    "docs/adding-an-operator.md": "from coexec.ops import Op, SplitAxis, axis_names\nregister = lambda cls: cls",  # Neg is there already
    "docs/adding-a-strategy.md": "from dataclasses import dataclass\nfrom coexec.partition.strategies.base import Partitioner",
}


@pytest.mark.parametrize("page", CLASSES)
def test_examples_of_classes_can_be_defined_and_used(page):
    (example,) = [b for b in blocks(ROOT / page) if b.language == "python"]
    names: dict[str, object] = {}
    exec(CLASSES[page] + "\n" + "\n".join(example.lines), names)
    if "Negate" in names:
        x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
        node = Node("Neg", (Value("x", TensorType(x.dtype, x.shape)),), (Value("y", TensorType(x.dtype, x.shape)),))
        axes = names["Negate"]().split_axes(node)
        assert [a.extent for a in axes] == [1, 2, 3, 4] and (names["Negate"]().compute(node, [x], None)[0] == -x).all()
    else:
        assert names["Fixed"]() == names["Fixed"](gpu=0.5)


def test_every_block_is_of_a_language_that_a_test_knows():
    """Others would be skipped without a word. Of no language are drawings, and what commands print is `text`; `yaml` is read below."""
    every = [b for path in PAGES for b in blocks(path)]
    assert [(b.page, b.language) for b in every if b.language not in {"sh", "python", "", "text", "mermaid", "yaml"}] == []
    assert [(b.page, line) for b in every if not b.language for line in b.lines if re.match(r"\s*(\$ |coexec |python3? |pip |sudo )", line)] == []
    unread = {path.relative_to(ROOT).as_posix() for path in PAGES for b in blocks(path) if b.language == "python"}
    assert unread == {"README.md", "docs/python.md", *CLASSES}


#: What a placeholder of a command in running text stands for.
STANDS_FOR = {"FILE": "f.yaml", "MODEL": "m.onnx", "N": "3", "MODEL...": "m.onnx", "S": "cpu", "F": "f.json", "...": "", "VERB": "run"}
#: Verbs that are whole commands by themselves; of others a page may name what belongs to a model that it speaks of, as in `coexec plan -o`.
BY_THEMSELVES = ("doctor", "cache", "profile")
#: Commands of the system that pages name: each changes a machine, or needs a board's driver, and stands on a page that says so by a mark.
OF_THE_SYSTEM = ("sudo", "apt", "docker", "export", "echo", "clinfo")


def spans() -> list[tuple[str, str]]:
    """(page, command) of everything in running text and tables that looks like a command."""
    found = []
    for path in PAGES:
        text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S)
        for span in re.findall(r"`([^`\n]+)`", text):
            words = span.replace("\\|", "|").split()
            while len(words) > 1 and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
                del words[0]
            if len(words) > 1 and words[0] in ("coexec", "bash", "python", "python3", "pip", *OF_THE_SYSTEM):
                found.append((path.relative_to(ROOT).as_posix(), " ".join(words)))
    return once(found, [command for _, command in run_commands()])


@pytest.mark.parametrize("page, command", spans())
def test_a_command_in_running_text_works(page, command, do, capsys):
    """Whole commands are run; a verb, a tool that is only named tells of itself. The rest names a script, an extra that is there."""
    command = command.split(" > ")[0]
    words = [STANDS_FOR.get(w, w) for w in shlex.split(re.sub(r"\[[^\]]*\](?=$| )", "", command))]
    words = [w for w in words if w]
    if words[0] == "coexec" and words[1] == "2":
        assert page == "docs/benchmarks.md"  # a column's name
    elif words[0] == "coexec":
        options = {o for action in make_parser()[1][words[1]]._actions for o in action.option_strings}
        assert not [w for w in words[2:] if w.startswith("-") and w not in options], f"{page}: {command}"
        if words[1] in BY_THEMSELVES and words[-1] not in MADE_BY and "--help" not in words or any(Path(w).suffix == ".onnx" for w in words):
            do(page, words[1:])
        else:
            assert main([words[1], "--help"]) == 0 and f"usage: coexec {words[1]}" in capsys.readouterr().out
    elif words[0] == "pip":
        extras = configparser.ConfigParser()
        extras.read(ROOT / "setup.cfg")
        named = [e for group in re.findall(r"\[([\w,]+)\]", command) for e in group.split(",")]
        assert named and set(named) <= set(extras["options.extras_require"]), f"{page}: {command}"
    elif words[0] in OF_THE_SYSTEM:
        script = next((w for w in words[1:] if w.startswith("tools/")), None)
        assert script is None or (ROOT / script).is_file()
        assert script or re.search(r"<!-- needs a board: .+ -->", (ROOT / page).read_text()), f"{page}: `{command}` needs a mark: needs a board"
    else:
        file = ROOT / (words[2].replace(".", "/") + ".py" if words[1] == "-m" else words[1])
        assert file.is_file(), f"{page}: {command}"
        if re.search(r"ArgumentParser\(|\bparser\(__doc__", file.read_text()):
            asked = [sys.executable, *(["-m", words[2]] if words[1] == "-m" else [file]), "--help"]
            assert "usage:" in subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout
        told = file.read_text() + (ROOT / "tools/benching.py").read_text()  # which has what such tools share
        assert not [w for w in words[2:] if w.startswith("--") and f'"{w}"' not in told], f"{page}: {command}"


def test_the_schema_of_profiles_names_every_key():
    text = (ROOT / "profiles/README.md").read_text()
    rows = [name for line in text.splitlines() if line.startswith("| `") for name in re.findall(r"`(\w+)`", line.split("|")[1])]
    units = {f.name for f in fields(UnitProfile)}
    assert set(rows) == units
    named = set(re.findall(r"\w+", text))
    for kind in (DeviceProfile, Machine, Latency, Correction):
        assert {f.name for f in fields(kind)} - {"terms"} <= named, kind.__name__
    example = "\n".join(next(b for b in blocks(ROOT / "profiles/README.md") if b.language == "yaml").lines)
    assert from_yaml(example.replace("  ...", "  peak_gflops: 1.0\n  bandwidth_gbs: 1.0")).gpu.sync_us == 180


def test_the_page_of_python_names_everything_public():
    rows = [line.split("|")[1:3] for line in (ROOT / "docs/python.md").read_text().splitlines() if line.startswith("| `")]
    named = {name: what.strip() for cell, what in rows for name in re.findall(r"`(\w+)`", cell)}
    assert {n for n in coexec.__all__ if not n.startswith("_")} <= set(named)
    assert {n for n in vars(coexec.InferenceSession) if not n.startswith("_")} <= set(named)
    for option in fields(coexec.SessionOptions):
        default = option.default if option.default is not MISSING else option.default_factory()
        assert named.get(option.name) == str(default), f"{option.name}: the page says {named.get(option.name)}"


def anchors(path: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if not link.startswith(("http://", "https://")):
            target, _, anchor = link.partition("#")
            file = (path.parent / target).resolve() if target else path
            assert file.exists(), f"{path.name}: {link}"
            assert not anchor or anchor in anchors(file), f"{path.name}: {link}"


def test_the_reference_of_the_command_line_is_the_parsers():
    from tools.cli_page import page

    assert (ROOT / "docs/command-line.md").read_text() == page(), "run: python tools/cli_page.py > docs/command-line.md"


@pytest.mark.parametrize("name", VERBS)
def test_every_argument_says_what_it_is_for_and_what_it_is_by_default(name):
    for action in make_parser()[1][name]._actions:
        called = "/".join(action.option_strings) or action.metavar
        said = action.help or ""
        assert re.search(r"[a-z]{3}", re.sub(r"\(default.*\)", "", said)), f"{name} {called}: no help"
        plain = action.default in (None, False, [], "") or action.nargs == 0 or action.default == argparse.SUPPRESS
        assert plain or "default" in said or isinstance(action.default, float) and action.default == 0, f"{name} {called}: {action.default!r}"


def test_every_page_can_be_reached_from_the_readme():
    seen, left = set(), [ROOT / "README.md"]
    while left:
        page = left.pop()
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text())
        left += [f for f in ((page.parent / link).resolve() for link in links if ":" not in link) if f not in seen and f not in left]
    assert [p.name for p in PAGES if p not in seen] == []


COMPLETIONS = [
    (["coexec", "rep"], ["report"]),
    (["coexec", "run", "m.onnx", "--rep"], ["--repeat"]),
    (["coexec", "cache", "c"], ["clear"]),
    (["coexec", "run", "--layout", "nh"], ["nhwc"]),
    (["coexec", "plan", "--strategy", "gre"], ["greedy"]),
    (["coexec", "run", "na"], ["names.txt"]),
]


@pytest.mark.parametrize("words, expected", COMPLETIONS, ids=lambda v: " ".join(v))
def test_the_tab_key(words, expected, place):
    from coexec.cli.complete import script

    line = f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _coexec; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    found = subprocess.run(["bash", "-c", f"{script('bash')}\n{line}"], cwd=place, capture_output=True, text=True, check=True)
    assert found.stdout.split() == expected and found.stderr == ""


#: Shells as a person starts them, with the script where `coexec complete --help` says to put it.
SHELLS = {
    "bash": (["bash", "--norc", "-i"], "source {folder}/_coexec"),
    "zsh": (["zsh", "-f", "-i"], "fpath=({folder} $fpath); autoload -Uz compinit && compinit -u -D"),
}


@pytest.mark.parametrize("words, expected", COMPLETIONS, ids=lambda v: " ".join(v))
@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key_of_a_shell_on_a_terminal(shell, words, expected, place, tmp_path):
    """The first TAB of a new shell, pressed."""
    from coexec.cli.complete import script

    assert shutil.which(shell), f"install {shell}; tools/test.sh does"
    (tmp_path / "_coexec").write_text(script(shell))
    started, setup = SHELLS[shell]
    ours, theirs = pty.openpty()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "dumb", "COLUMNS": "200", "INPUTRC": "/dev/null"}
    child = subprocess.Popen(started, stdin=theirs, stdout=theirs, stderr=theirs, cwd=place, env=env, start_new_session=True)
    os.close(theirs)
    try:
        os.write(ours, f"{setup.format(folder=tmp_path)}; echo rea''dy\n".encode())
        heard(ours, "ready\r")
        os.write(ours, f"{' '.join(words)}\t".encode())
        heard(ours, f"{' '.join([*words[:-1], *expected])}")
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def heard(terminal: int, wanted: str) -> None:
    """Waits until a terminal shows that."""
    seen, limit = "", time.monotonic() + 20
    while wanted not in seen:
        assert time.monotonic() < limit, f"no {wanted!r} in {seen!r}"
        if select.select([terminal], [], [], 0.5)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")


@pytest.mark.parametrize("words, expected", COMPLETIONS, ids=lambda v: " ".join(v))
def test_the_tab_key_in_fish(words, expected, place, tmp_path):
    from coexec.cli.complete import script

    assert shutil.which("fish"), "install fish; tools/test.sh does"
    (tmp_path / "coexec.fish").write_text(script("fish"))
    asked = f"source {tmp_path}/coexec.fish; complete -C '{' '.join(words)}'"
    found = subprocess.run(["fish", "--no-config", "-c", asked], cwd=place, capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in found.stdout.splitlines()] == expected and found.stderr == "", found.stdout
