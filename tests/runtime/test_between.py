"""What runs lose between pieces is measured in runs."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from coexec.api.between import LEAST_LOOKS, MOST_COMPANY, RunCosts
from coexec.api.looks import DEPTHS, Look, Looker, LooksElsewhere, Seen, cut_somehow, made_up, plan_on
from coexec.api.observation import between, by_counters, inner_us, usual, waking_us
from coexec.cost.compose import CostModel
from coexec.cost.corrections import Between
from coexec.devices.null.device import NullDevice
from coexec.devices.registry import find_devices
from coexec.profiles import DeviceProfile, UnitProfile, from_yaml, to_yaml
from coexec.profiling.child import ChildLost
from coexec.runtime.edges import Edges, run_at_edges
from coexec.runtime.executor import PreparedRun
from coexec.runtime.trace import Arrow, Span, Trace


def board(**more: object) -> DeviceProfile:
    return DeviceProfile("b", UnitProfile("c", 100.0, 10.0), UnitProfile("g", 100.0, 10.0, operators=("Conv",), launch_us=1.0, sync_us=2.0, **more))


def test_the_made_up_network_uses_both_and_cuts():
    graph = made_up()
    plan = cut_somehow(graph, NullDevice("gpu"))
    plan.check(graph)
    assert plan.devices == {"cpu", "gpu"} and sum(len(p.devices) == 2 for p in plan.partitions) >= 6
    assert len(plan.partitions[-1].devices) == 2, "whose time is all reading weights: it shows what company costs there"
    assert graph.nodes[-1].inputs[1].type.nbytes > 16e6
    assert cut_somehow(graph, NullDevice("gpu", declined={"Conv", "MaxPool", "Sigmoid"})).devices == {"cpu"}


def test_what_a_trace_says():
    trace = Trace()
    start = Span("n", "host", 1.0, 6.0, "enqueue")
    piece = Span("n", "gpu", 17.0, 33.0, "piece")
    wait = Span("n", "host", 20.0, 60.0, "wait")
    trace.spans += [start, piece, wait]
    trace.arrows += [Arrow("enqueue", start, piece), Arrow("join", piece, wait)]
    assert between(trace) == Between(launch_us=6.0, begin_us=10.0, sync_us=30.0, ready_us=None)


def test_what_is_lost_now_and_then_counts_but_for_the_longest_tenth():
    assert usual([6.0] * 18 + [100.0, 400.0]) == pytest.approx(6.0)
    assert usual([400.0, 100.0, *[6.0] * 17, 100.0]) == pytest.approx((17 * 6 + 100) / 18)
    assert usual([7.0]) == 7.0 and usual([1.0, 5.0]) == 3.0


def test_the_flush_behind_a_start_is_part_of_it():
    """Not that of another run, and not the start of another piece."""
    trace = Trace()
    for run in (0, 1):
        at = 1000.0 * run
        start, other = Span("enqueue n", "host", at, 6.0, "enqueue", {"run": run}), Span("enqueue m", "host", at + 6, 6.0, "enqueue", {"run": run})
        trace.spans += [start, other] if run else [start, Span("flush", "host", at + 6, 4.0, "enqueue", {"run": run})]
        trace.arrows += [Arrow("enqueue", one, Span("n", "gpu", at + 20, 9.0, "piece")) for one in ((start, other) if run else (start,))]
    trace.spans.append(Span("flush", "host", 3000.0, 400.0, "enqueue", {"run": 2}))
    assert between(trace, typical=max).launch_us == 10.0 and between(trace, typical=min).launch_us == 6.0


def test_by_counters_no_piece_begins_late_and_naps_are_left_out():
    """A long wait is ended late by a nap; of three, one is such. Where waiting takes longer than by events, there is nothing to gain."""
    trace = Trace()
    for number, late in enumerate((2.0, 3.0, 60.0)):
        at = 1000.0 * number
        start, piece = Span("n", "host", at, 4.0, "enqueue", {"run": 0}), Span("n", "gpu", at + 20, 30.0, "piece", {"run": 0})
        trace.spans += [start, piece]
        trace.arrows += [Arrow("enqueue", start, piece), Arrow("join", piece, Span("w", "host", at + 25, 25 + late, "wait", {"run": 0}))]
    assert by_counters(trace, Between(sync_us=10.0)) == Between(launch_us=4.0, begin_us=0.0, sync_us=pytest.approx(3.0))
    for arrow in trace.arrows[1:2]:  # the first wait is for an operator that both sides worked on
        arrow.source.args["bounds"] = [0, 8, 16]
    assert by_counters(trace, Between(sync_us=10.0)).sync_us == pytest.approx(2.0), "those are what plans wait for"
    assert by_counters(trace, Between(begin_us=1.0, sync_us=0.5)) is None and by_counters(Trace(), Between(sync_us=10.0)) is None


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "elsewhere"])
def test_this_machines_runs_are_asked(elsewhere):
    devices = find_devices(need_gpu=True)
    with closing(RunCosts(devices, 1, LooksElsewhere(1) if elsewhere else None)) as runs:
        runs.look()
        made = runs.told(board())
        assert runs.looks == LEAST_LOOKS, "a single moment says little"
        assert (runs._here is None) == elsewhere
        stepping = devices["gpu"].queue(1).handshake(wanted=True) is not None
        assert all((look.in_step is not None) <= stepping for look in runs.seen)
        counted = runs.told(board(waiting="flag"))
    assert 2 * sum(look.in_step is not None for look in runs.seen) <= LEAST_LOOKS or counted.gpu.begin_us == 0.0, "pieces stand at their gates"
    assert 0 < made.gpu.launch_us < 5000 and made.gpu.launch_us != 1.0 and made.gpu.begin_us >= 0 and made.gpu.sync_us > 0
    assert 0 < made.cpu.run_us < 5000 and made.cpu.copy_gbs > 0.1 and all(
        look.plans[f"gpu {deep}"].beside_gpu_us > 0 for look in runs.seen for deep in DEPTHS)
    assert all(1.0 <= v <= MOST_COMPANY for unit in (made.cpu, made.gpu) for v in unit.busy.values()) and set(made.gpu.busy) == {"compute", "memory"}
    assert from_yaml(to_yaml(made)) == made
    assert [Look.from_dict(json.loads(json.dumps(look.to_dict()))) for look in runs.seen] == runs.seen


def test_of_a_cpu_alone_runs_are_asked():
    with closing(RunCosts({"cpu": find_devices("none")["cpu"]}, 1)) as runs:
        alone = runs.told(replace(board(), gpu=None))
    assert 0 < alone.cpu.run_us < 5000 and alone.gpu is None


def test_a_process_that_is_lost_is_done_without(caplog):
    elsewhere = LooksElsewhere(1)
    elsewhere.command = [sys.executable, "-c", "import sys; sys.exit(3)"]
    with closing(RunCosts({"cpu": find_devices("none")["cpu"]}, 1, elsewhere)) as runs, caplog.at_level("INFO", "coexec"):
        runs.look()
        runs.look()
        assert runs.looks == 2 and runs._here is not None
    (told,) = [r.getMessage() for r in caplog.records if "looked at" in r.getMessage()]
    assert told.startswith("runs are looked at in this process: ") and "exit code 3" in told


def test_ctrl_c_while_the_process_starts_or_answers_leaves_nothing_behind(monkeypatch):
    """Its greeting, or the look that was interrupted, must not be taken for the answer to the next question."""
    hear = LooksElsewhere.hear
    with LooksElsewhere(1) as elsewhere:
        for answers in (0, 1):
            heard = []

            def interrupted(self, seconds, heard=heard, answers=answers):
                if len(heard) == answers:
                    raise KeyboardInterrupt
                heard.append(hear(self, seconds))
                return heard[-1]

            monkeypatch.setattr(LooksElsewhere, "hear", interrupted)
            with pytest.raises(KeyboardInterrupt):
                elsewhere.look()
            assert elsewhere.child is None
        monkeypatch.setattr(LooksElsewhere, "hear", hear)
        assert "cpu" in elsewhere.look().plans


def test_after_a_look_took_its_process_along_nothing_is_run_on_the_gpu(monkeypatch, caplog):
    """Here it would take the profile along."""
    devices = find_devices(need_gpu=True)
    shown = Look({"cpu": seen(1.0), "cut": seen(2.0)}, Between(9.0, 14.0, 2.0, 1.0))
    answers = [shown, ChildLost("the process that looks at runs ended", found="exit code -11")]

    def look(self):
        if isinstance(answers[0], ChildLost):
            raise answers.pop()
        return answers.pop(0)

    monkeypatch.setattr(LooksElsewhere, "look", look)
    with closing(RunCosts(devices, 1, LooksElsewhere(1))) as runs, caplog.at_level("WARNING", "coexec"):
        runs.look()
        made = runs.told(board())
        assert [look.plans.keys() for look in runs.seen] == [{"cpu"}] * LEAST_LOOKS
    assert made.gpu == board().gpu and made.cpu.run_us != board().cpu.run_us
    (told,) = [r.getMessage() for r in caplog.records]
    assert "exit code -11" in told and "bare loops" in told


def seen(run_us: float, taken_us: dict | None = None) -> Seen:
    return Seen(taken_us or {}, run_us, run_us, 50.0)


def test_one_odd_moment_says_nothing():
    """Of five looks one was made while something else had the machine."""
    runs, odd = RunCosts({"cpu": find_devices("none")["cpu"]}, 1), 700.0
    with closing(runs):
        runs.seen += [Look({"cpu": seen(run_us)}) for run_us in (41.0, 40.0, odd, 42.0, 41.0)]
        assert runs.told(replace(board(), gpu=None)).cpu.run_us == 41.0


def test_runs_in_step_tell_a_board_that_keeps_in_step():
    """The middle of what looks showed of runs kept in step; where most showed nothing of such, or the board waits by events, by events it is."""
    runs = RunCosts({"cpu": find_devices("none")["cpu"]}, 1)
    by_events, in_step = Between(9.0, 14.0, 2.0, 1.0), [Between(3.0, 0.0, 5.0, None), Between(4.0, 0.0, 6.0, None), None]
    runs.seen += [Look({"cpu": seen(40.0), "cut": seen(50.0)}, by_events, counted) for counted in in_step]
    with closing(runs):
        told = runs.told(board(waiting="flag", ready_us=7.0)).gpu
        assert (told.launch_us, told.begin_us, told.sync_us, told.ready_us) == (3.5, 0.0, 5.5, 1.0)
        assert runs.told(board()).gpu.launch_us == 9.0
        runs.seen += [Look({"cpu": seen(40.0), "cut": seen(50.0)}, by_events) for _ in range(2)]
        assert runs.told(board(waiting="flag")).gpu.launch_us == 9.0


def test_what_a_run_takes_around_its_pieces():
    trace, graph = Trace(), made_up()
    trace.runs = 1
    for name, track, category, start, stop in (
            ("run 0", "run", "run", 0.0, 1000.0), ("copy inputs", "host", "copy", 10.0, 60.0), ("enqueue n", "host", "enqueue", 70.0, 80.0),
            ("n", "gpu", "piece", 100.0, 900.0), ("wait", "host", "wait", 85.0, 930.0), ("copy outputs", "host", "copy", 940.0, 990.0)):
        trace.spans.append(Span(name, track, start, stop - start, category, {"run": 0, "node": name}))
    edges = [Edges(60.0, 900.0, 40.0, 5.0), Edges(60.0, 904.0, 40.0, 5.0)]
    found = Seen.of(trace, edges)
    assert inner_us(trace, "gpu") == [800] and waking_us(trace) == [0] and found == Seen({("n", "gpu"): 800.0}, 5, 902 + 5 - 800, 60)
    assert Seen.of(trace, [Edges(60.0, 700.0, 40.0, 5.0)]).beside_gpu_us == 5, "a quick moment's runs are no shorter than their own edges"
    # That the others of a team are woken first is before their steps, too: not so later, when they are awake.
    trace.spans += [Span("a", "cpu: team thread 1", at, 20.0, "share", {"run": 0}) for at in (95.0, 500.0)]
    trace.spans += [Span(name, "cpu", at, 40.0, "piece", {"run": 0, "node": name}) for name, at in (("a", 80.0), ("b", 490.0))]
    assert waking_us(trace) == [95 - 80] and Seen.of(trace, edges).around_us == 5 + 15
    run = PreparedRun(graph, plan_on(graph, "cpu"), {"cpu": find_devices("none")["cpu"]})
    with closing(run):
        feeds = {v.name: np.ones(v.shape, np.float32) for v in graph.inputs}
        run.run(feeds)
        edges = run_at_edges(run, feeds)
    assert all(us > 0 for us in edges)
    known = board(run_us=7.0, run_piece_us=2.0)
    known = replace(known, cpu=replace(known.cpu, run_us=100.0, copy_gbs=1.0))
    gpu, cpu, cut = ([p for p in plan.partitions] for plan in (plan_on(graph, "gpu"), plan_on(graph, "cpu"), cut_somehow(graph, NullDevice("gpu"))))
    copies = 2 * sum(v.type.nbytes for v in (*graph.inputs, *graph.outputs)) / 1e3
    bare = replace(known, cpu=replace(known.cpu, run_us=0.0), gpu=replace(known.gpu, run_us=0.0, run_piece_us=0.0))
    for partitions, more in ((gpu, 7.0 + 2.0 * len(graph.nodes)), (cpu, 100.0), (cut, 100.0)):
        assert CostModel(known).total_us(graph, partitions) - CostModel(bare).total_us(graph, partitions) == pytest.approx(more)
        rated = replace(bare, cpu=replace(bare.cpu, copy_gbs=None))
        assert CostModel(bare).total_us(graph, partitions) - CostModel(rated).total_us(graph, partitions) == pytest.approx(0.9 * copies)


def test_an_idle_gpu_begins_later():
    assert CostModel(board(begin_us=12.0)).begin_us == 12.0 and CostModel(board()).begin_us == 0.0
    old = to_yaml(board()).replace("begin_us: 0.0", "")
    assert "begin_us" not in old and from_yaml(old) == board(), "files of earlier versions say nothing of it"
    assert pytest.approx(12.0) == from_yaml(to_yaml(board(begin_us=12.0))).gpu.begin_us
