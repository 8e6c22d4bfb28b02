"""`coexec report`: what it counts, on traces and plans made by hand, and the page as a browser would read it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as Xml
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest

from coexec import settings
from coexec.cli.main import main
from coexec.graph.ir import Graph, Node, TensorType, Value
from coexec.partition.plan import Partition, Plan
from coexec.partition.strategies.base import parse_strategy
from coexec.profiles import save_profile
from coexec.report import charts, page, plots, story, svg
from coexec.runtime.trace import Trace

from .partition.boards import board, classifier, tangle
from .test_smoke import tiny_model

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Reader(HTMLParser):
    """Fails where tags do not nest; gathers what a page would fetch, run, and say."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.fetched, self.ids, self.said = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form"), tag
        assert not [a for a in facts if a.startswith("on")], facts
        self.fetched += [v for k, v in facts.items() if k in ("src", "href", "srcset", "action", "poster", "data", "xlink:href")]
        self.ids += [facts["id"]] if "id" in facts else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        self.said.append(data)


def trace_of(*pieces, run_us=100.0, waits=()) -> Trace:
    """Two runs, the first a slow warm-up: (node, track, start, stop, facts) in microseconds of each run."""
    trace = Trace()
    for run, begun, slow in ((0, 0, 3), (1, 10_000, 1)):
        at = lambda us: trace.began_ns + int((begun + us * slow) * 1e3)  # noqa: B023, E731
        trace.add(f"run {run}", "run", at(0), at(run_us), "run", run=run)
        for node, track, start, stop, facts in pieces:
            trace.add(node, track, at(start), at(stop), "piece", run=run, node=node, op_type="Relu", **facts)
        for start, stop in waits:
            trace.add("wait", "host", at(start), at(stop), "wait", run=run)
    return trace


def relus(*names: str) -> Graph:
    """A chain of Relu nodes over 100 floats."""
    kind = TensorType(np.dtype(np.float32), (100,))
    values = [Value("x", kind), *(Value(f"{n}:out", kind) for n in names)]
    return Graph("chain", (values[0],), (values[-1],), tuple(Node("Relu", (a,), (b,), name=n) for n, a, b in zip(names, values, values[1:])))


def cut_plan(graph: Graph, at: int = 40) -> Plan:
    return Plan("chain", graph.digest, "test", tuple(Partition(n.name, "Relu", "length", (0, at, 100), ("gpu", "cpu"), 20.0) for n in graph.nodes))


def test_time_goes_into_computing_waiting_and_the_rest_and_warm_ups_do_not_count():
    trace = trace_of(("a", "cpu", 0, 60, {}), ("a", "gpu", 5, 75, {}), waits=[(60, 80)])
    found = story.where_time_goes(trace)
    assert found["cpu"] == pytest.approx({"compute_us": 60, "wait_us": 20, "transform_us": 0, "other_us": 20})
    assert found["gpu"] == pytest.approx({"compute_us": 70, "wait_us": 0, "transform_us": 0, "other_us": 30})
    assert story.median_run(trace).args["run"] == 1 and [s["start_us"] for s in story.timeline(trace)] == pytest.approx([0, 5, 60])


def test_a_node_that_the_trace_says_more_of_takes_its_slower_side():
    trace = trace_of(("a", "cpu", 0, 60, {"measured_us": 70.0}), ("a", "gpu", 5, 75, {"measured_us": 70.0}), ("b", "cpu", 80, 90, {}))
    assert story.measured_us(trace) == pytest.approx({"a": 70, "b": 10})


def test_memory_counts_what_lives_and_shared_bytes_once():
    graph = relus("a", "b", "c")
    x, a, b, c = graph.inputs[0], *(n.output for n in graph.nodes)
    found = story.memory(graph, {x: 0, a: 512, b: 0, c: 512}, 1024)  # c takes over the bytes of a
    assert found["live_bytes"] == [800, 800, 800] and found["sum_bytes"] == 1600
    assert story.memory(graph, {x: 0, a: 0, b: 0, c: 0}, 512)["live_bytes"] == [400, 400, 400]
    assert story.memory(graph, {x: 0, a: 512, b: 1024, c: 1536}, 2048)["live_bytes"] == [800, 800, 800]


def test_shares_are_of_work_and_of_time():
    graph = relus("a")
    trace = trace_of(("a", "cpu", 0, 75, {}), ("a", "gpu", 0, 25, {}))
    told = story.tell(graph, cut_plan(graph), trace=trace)
    assert told["shares"]["operators"] == pytest.approx({"cpu": 0.6, "gpu": 0.4}) == told["shares"]["flops"]
    assert told["shares"]["time"] == pytest.approx({"cpu": 0.75, "gpu": 0.25})


def test_pieces_are_judged_by_the_cost_model():
    graph, profile = classifier(1), board()
    plan = parse_strategy("fixed:gpu=0.5").plan(graph, profile)
    node = graph.nodes[0]
    from coexec.cost.compose import CostModel
    from coexec.partition.plan import pieces

    device, region = next(p for p in pieces(node, plan[node.name]) if p[0] == "gpu")
    cost = CostModel(profile)
    us = cost.kernel(node, region, "gpu").us * cost.busy(node, region, "gpu")
    found = story.predicted_pieces(graph, plan, trace_of((node.name, "gpu", 0, us / 1.5, {"region": str(region)}), run_us=us), profile)
    assert len(found) == 1 and found[0]["error"] == pytest.approx(0.5, abs=0.02)
    judged = story.predictor([{"error": e} for e in (0.05, -0.2, 0.5, -0.5)])
    assert judged == pytest.approx({"count": 4, "within_10pct": 0.25, "within_25pct": 0.5, "median_error": -0.075, "mape": 0.3125})
    assert story.predictor([]) == {}


def test_what_a_run_takes_is_what_it_takes_untraced():
    graph = relus("a")
    rows = [{"strategy": "cpu", "predicted_ms": 1.0, "measured_ms": 3.0}, {"strategy": "test", "predicted_ms": 1.0, "measured_ms": 2.0}]
    told = story.tell(graph, cut_plan(graph), trace=trace_of(("a", "cpu", 0, 60, {})), alternatives=rows)
    assert story.untraced_ms(told) == 2.0 and told["measured_ms"] == pytest.approx(0.1)
    assert "<b>2 ms</b><span>measured, median</span>" in page.render(told)
    only_traced = story.tell(graph, cut_plan(graph), trace=trace_of(("a", "cpu", 0, 60, {})))
    assert story.untraced_ms(only_traced) is None and "<b>100 us</b><span>measured while traced" in page.render(only_traced)


def test_a_profile_of_another_board_is_said(call, place):
    code, _, err = call("tiny.onnx", "--profile", "board.yaml", "--strategy", "cpu", "--iters", 2, "-o", "foreign.html")
    assert code == 0 and "the profile is of another board than this" in err
    assert "measured here, predicted for that other board" in (place / "foreign.html").read_text()
    here = Trace()
    here.facts["devices"] = {"cpu": {"name": board().cpu.name}}
    assert story.foreign(board(), here) == [] and story.foreign(None, here) == [] and story.foreign(board(), None) == []


def test_layers_are_longest_ways():
    graph = tangle()
    layers = story.layers_of(graph)
    assert all(layers[graph.producers[v]] < layers[n] for n in graph.nodes for v in n.inputs if v in graph.producers)


def test_boxes_do_not_overlap_and_cuts_are_in_proportion():
    graph, profile = tangle(), board()
    told = story.tell(graph, parse_strategy("fixed:gpu=0.25").plan(graph, profile), profile=profile)
    drawn = Xml.fromstring(charts.graph(told["nodes"]))
    space = "{http://www.w3.org/2000/svg}"
    boxes = [[float(r.get(k)) for k in ("x", "y")] for r in drawn.iter(f"{space}rect") if "box" in r.get("class").split()]
    assert len(boxes) == len(graph.nodes)
    for i, (x, y) in enumerate(boxes):
        assert all(abs(x - u) >= 168 or abs(y - v) >= 40 for u, v in boxes[i + 1 :])
    split = next(r for r in told["nodes"] if len(set(r["devices"])) > 1 and r["axis"] == "height")
    shape = next(g for g in drawn.iter(f"{space}g") if g.find(f"{space}title").text.startswith(f"{split['name']}: "))
    heights = [float(r.get("height")) for r in shape.iter(f"{space}rect") if "fill" in r.get("class").split()]
    assert heights == pytest.approx([40 * split["share"][d] for d in split["devices"]], abs=0.01)


def test_hostile_names_are_only_text():
    evil = '"><script>alert(1)</script>&'
    graph = relus(evil)
    plan = Plan(evil, graph.digest, evil, (Partition(evil, "Relu", None, (), (evil,), 5.0, note=evil),), profile=evil)
    text = page.render(story.tell(graph, plan, alternatives=[{"strategy": evil, "predicted_ms": 1.0}]))
    assert evil in "".join(Reader(text).said)


def test_ticks_are_round_and_cover():
    assert svg.nice(7.3) == [0, 2, 4, 6, 8] and svg.nice(0) == [0.0, 1.0] and svg.decades(3, 250) == [1, 10, 100, 1000]
    assert svg.microseconds(None) == "-" and svg.microseconds(1240) == "1.24 ms" and svg.size(1_500_000) == "1.5 MB"


# The verb


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    onnx.save(tiny_model(), folder / "tiny.onnx")
    save_profile(board(), folder / "board.yaml")
    return folder


@pytest.fixture
def call(place, capsys, monkeypatch):
    monkeypatch.chdir(place)

    def run(*arguments):
        code = main(["report", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def drawings(text: str) -> list[Xml.Element]:
    return [Xml.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.S)]


def test_a_run_makes_a_whole_page_that_fetches_nothing(call, place):
    code, out, err = call("tiny.onnx", "--profile", "board.yaml", "--strategy", "fixed:gpu=0.5", "--iters", 3, "-o", "page.html", "--json")
    assert code == 0, err
    told, text = json.loads(out), (place / "page.html").read_text()
    reader = Reader(text)
    assert reader.fetched == [] and "default-src 'none'" in text and "width=device-width" in text
    assert {"alternatives", "timeline", "graph", "time", "shares", "agreement", "errors", "roofline", "memory", "nodes"} <= set(reader.ids)
    assert len(drawings(text)) == 9, "the timeline twice, each with its names beside it"
    assert f"<b>{svg.microseconds(story.untraced_ms(told) * 1e3)}</b><span>measured, median" in text and 'class="key enqueue"' in text
    assert told["runs"] == 3 and told["measured_ms"] > 0 and {"cpu", "gpu"} <= {a["strategy"] for a in told["alternatives"] if a["measured_ms"]}
    assert {s["track"] for s in told["timeline"]} >= {"cpu", "host", "gpu"} and told["memory"]["arena_bytes"] >= max(told["memory"]["live_bytes"])
    assert told["predictor"]["count"] == len(told["pieces"]) > 0
    assert not list(place.glob("coexec_profile_*"))


def test_the_command_says_what_the_page_says(call, place):
    code, out, err = call("tiny.onnx", "--profile", "board.yaml", "--strategy", "fixed:gpu=0.5", "--iters", 3, "-o", "said.html")
    assert code == 0, err
    number, unit = re.search(r"<b>([\d.]+) (us|ms)</b><span>measured, median", (place / "said.html").read_text()).groups()
    assert float(re.search(r"tiny: ([\d.]+) ms measured", out)[1]) == pytest.approx(float(number) / (1000 if unit == "us" else 1), abs=0.0051)


def test_a_plan_for_a_board_that_is_not_here_opens_no_device(call, place, monkeypatch):
    monkeypatch.setattr("coexec.api.planning.find_devices", lambda *a, **k: pytest.fail("a device was opened"))
    code, out, err = call("tiny.onnx", "--profile", "board.yaml", "--no-run", "-o", "plan.html")
    assert code == 0 and "predicted" in out and "measured" not in out, err
    reader = Reader((place / "plan.html").read_text())
    assert "timeline" not in reader.ids and {"alternatives", "graph", "nodes"} <= set(reader.ids)


def test_without_a_gpu_the_page_tells_of_the_cpu(call, place):
    with settings.override(opencl="none"):
        code, out, err = call("tiny.onnx", "--strategy", "cpu", "--iters", 2, "-o", "cpu.html", "--json")
    assert code == 0 and {a["strategy"] for a in json.loads(out)["alternatives"]} == {"cpu"}, err
    assert "roofline" in Reader((place / "cpu.html").read_text()).ids


def test_plots_are_pictures(call, place):
    code, _, err = call("tiny.onnx", "--profile", "board.yaml", "--strategy", "fixed:gpu=0.5", "--iters", 2, "-o", "p.html", "--plots", "figures")
    assert code == 0, err
    assert {p.name for p in (place / "figures").iterdir()} == {f"{name}.{kind}" for name in plots.PLOTS for kind in ("png", "svg")}
    assert (place / "figures/roofline.png").read_bytes().startswith(b"\x89PNG") and Xml.parse(place / "figures/timeline.svg")


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["tiny.onnx", "-o", "no/such/page.html"], 2, "no folder 'no/such'"),
        (["tiny.onnx", "-o", "."], 2, "a folder"),
        (["nothing.onnx"], 4, "nothing.onnx"),
        (["tiny.onnx", "--no-run", "--profile", "nothing.yaml"], 2, "nothing.yaml"),
        (["tiny.onnx", "--iters", "0"], 2, "--iters: found '0'"),
        (["tiny.onnx", "--plots", "tiny.onnx"], 2, "'tiny.onnx', a file"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(call, arguments, code, said):
    found, out, err = call(*arguments)
    assert found == code and out == "" and said in err and err.count("\n") == 1, err


def test_plots_without_matplotlib_say_which_extra(call, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    code, _, err = call("tiny.onnx", "--plots", "elsewhere")
    assert code == 2 and "coexec[report]" in err
