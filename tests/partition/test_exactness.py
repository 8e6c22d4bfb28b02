"""The search of `coexec` finds the best of the plans that it is offered: held against every plan of small graphs, and against SciPy's MILP."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import prod

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from coexec.graph.ir import Graph
from coexec.graph.onnx_import import load_model
from coexec.graph.passes import prepare
from coexec.partition.strategies import parse_strategy
from coexec.partition.strategies.base import Situation
from coexec.partition.strategies.frontier import Search
from coexec.partition.strategies.offers import Limits, Offers
from coexec.profiles import DeviceProfile
from tests.partition.boards import Net, board
from tests.partition.exhaustive import Tables, best, tables
from tests.runtime.random_graphs import random_model

TENTHS = "coexec:steps=10,chains=false,fewer_waits=0"


def random_board(rng: np.random.Generator, speed: float = 1.0, **more: object) -> DeviceProfile:
    """Any two units, near and far apart in speed; waits dear and cheap; reading across dear and cheap."""
    made = board(float(rng.uniform(20, 200)) * speed, float(rng.uniform(20, 200)) * speed, float(rng.uniform(0, 8)), float(rng.choice([1, 10, 60])),
                 ready_us=rng.choice([None, 0.5, 20.0]), crossing_gbs=float(rng.choice([5, 50, 1000])), busy={"compute": 1.1, "memory": 1.3}, **more)
    return replace(made, cpu=replace(made.cpu, crossing_gbs=float(rng.choice([5, 50, 1000]))))


def random_dag(rng: np.random.Generator, size: int, chain: bool = False, high: int = 40) -> Graph:
    """Convolutions, poolings and additions with forks and joins; every output is read, or is the graph's."""
    net = Net(1, 8, int(rng.integers(6, high)), 12)
    tensors = ["x"]
    while len(net.nodes) < size:
        source = tensors[-1] if chain else str(rng.choice(tensors[-3:]))
        kind = rng.choice(["1x1", "3x3", "depthwise", "pool", "sigmoid"] if chain else ["1x1", "3x3", "depthwise", "pool", "sigmoid", "add", "add"])
        match kind:
            case "1x1":
                tensors.append(net.conv(source, 8, 8, 1))
            case "3x3":
                tensors.append(net.conv(source, 8, 8))
            case "depthwise":
                tensors.append(net.conv(source, 8, 8, group=8))
            case "pool":
                tensors.append(net("MaxPool", source, kernel_shape=[3, 3], pads=[1] * 4))
            case "sigmoid":
                tensors.append(net("Softmax", source, axis=1))
            case "add":
                tensors.append(net("Mul", source, str(rng.choice(tensors[-4:]))))
    read = {i for n in net.nodes for i in n.input}
    return net.graph(*[t for t in tensors[1:] if t not in read])


def searched(graph: Graph, profile: DeviceProfile, spec: str):
    strategy = parse_strategy(spec)
    situation = Situation(graph, profile)
    settled = [situation.settled(n) for n in graph.nodes]
    ways = [[w.partition for w in mine]
            for mine in Offers(situation.cost, graph, settled, Limits(strategy.steps, strategy.axis, strategy.chains)).ways]
    return strategy.search(situation, settled), ways, situation.cost


@pytest.mark.parametrize("seed", range(12))
def test_no_plan_is_better_in_tenths(seed):
    """Twenty graphs a seed, of up to 8 operators; those of up to 4 without leaving anything out."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        graph, profile = random_dag(rng, int(rng.integers(1, 9))), random_board(rng)
        found, ways, cost = searched(graph, profile, TENTHS)
        numbers = tables(graph, cost, ways)
        us, chosen, looked = best(numbers, prune=len(graph.nodes) > 4)
        if len(graph.nodes) <= 4:
            assert looked >= prod(map(len, ways))
        assert us == pytest.approx(cost.total_us(graph, [w[c] for w, c in zip(ways, chosen)]), rel=1e-9), "the tables play what the cost model plays"
        assert found.value == pytest.approx(us, rel=1e-9), "regret 0"
        assert found.bound == pytest.approx(found.value, rel=1e-9), "and it is known to be the best"
        assert found.value == pytest.approx(cost.total_us(graph, [w.partition for w in found.ways]), rel=1e-9)


def test_no_plan_is_better_where_there_are_views_joins_and_halos():
    """Every operator of the random models, each plan priced by the cost model itself; halos are among what is offered."""
    rng = np.random.default_rng(3)
    tried = twice = 0
    while tried < 60:
        graph = prepare(load_model(random_model(rng, int(rng.integers(2, 6))))) if tried % 2 else random_dag(rng, int(rng.integers(2, 4)), high=26)
        profile = random_board(rng, 1.0 if tried % 2 else 0.03,
                               operators=("Conv", "Sigmoid", "Tanh", "Relu", "Abs", "Add", "Mul", "Max", "MaxPool", "Softmax", "Transpose", "Concat"))
        if not graph.nodes or not all(n.is_static for n in graph.nodes):
            continue
        situation = Situation(graph, profile)
        settled = [situation.settled(n) for n in graph.nodes]
        offered = Offers(situation.cost, graph, settled).ways
        few = max(2, int(300 ** (1 / len(offered))))
        ways = [mine if len(mine) <= few else [mine[i] for i in sorted(rng.choice(len(mine), few, replace=False))] for mine in offered]
        search = Search(situation.cost, graph, ways)
        found = search.run(10_000)
        totals = {}
        for plan in product(*ways):
            if all(_legal(graph, plan)):
                totals[plan] = situation.cost.total_us(graph, [w.partition for w in plan])
        if not totals:
            assert found.ways is None
            continue
        tried += 1
        twice += any(any(w.partition.halo) for w in found.ways)
        assert min(totals.values()) == pytest.approx(found.value, rel=1e-9)
    assert twice, "halos are chosen where waits are dear"


def _legal(graph: Graph, plan) -> list[bool]:
    """Nobody reads what the other side computed of a value that both computed a part of."""
    from coexec.partition.chains import access

    made = {v: dict(w.parts) for n, w in zip(graph.nodes, plan) if any(w.partition.halo) for v in n.outputs}
    return [made[value][device].covers(region) for n, w in zip(graph.nodes, plan) for device, piece in w.parts
            for value, region in access(n, piece).reads if value in made]


@pytest.mark.parametrize("seed", range(6))
def test_a_mixed_integer_program_finds_nothing_better_for_chains(seed):
    rng = np.random.default_rng(100 + seed)
    for _ in range(4):
        graph, profile = random_dag(rng, int(rng.integers(2, 6)), chain=True), random_board(rng)
        found, ways, cost = searched(graph, profile, TENTHS)
        us = program(tables(graph, cost, ways))
        assert found.value == pytest.approx(us, rel=1e-4), "HiGHS proves its optimum to 1e-6 of the objective"


def program(t: Tables) -> float:
    """The chain problem as a mixed-integer program. Variables: x[i, o], node i goes way o; y[i, q, o], and its input way q; the clocks after
    each node; p[i], whether a GPU piece is still not waited for; the end.
    """
    n, launch, sync, ready, copies = len(t.count), *t.fixed
    x, y, at = {}, {}, 0
    for i in range(n):
        for o in range(t.count[i]):
            x[i, o], at = at, at + 1
    for i in range(1, n):
        for q, o in product(range(t.count[i - 1]), range(t.count[i])):
            y[i, q, o], at = at, at + 1
    host, gpu, pending, end = (np.arange(at + k * n, at + (k + 1) * n) for k in range(4))
    end, size = end[0], at + 3 * n + 1
    big = float(np.nansum(t.gpu_us) + np.nansum(t.cpu_us) + n * (launch + sync + ready)) / min(t.count)
    rows, low, high = [], [], []

    def add(terms: list, least: float = -np.inf, most: float = np.inf) -> None:
        row = np.zeros(size)
        for k, v in terms:
            row[k] += v
        rows.append(row)
        low.append(least)
        high.append(most)

    def has(us: np.ndarray, i: int) -> list:
        return [(x[i, o], 1.0) for o in range(t.count[i]) if not np.isnan(us[i, o])]

    for i in range(n):
        add([(x[i, o], 1.0) for o in range(t.count[i])], 1, 1)
        pairs = [(q, o) for q, o in product(range(t.count[i - 1]), range(t.count[i]))] if i else []
        for o in range(t.count[i]) if i else ():
            add([(y[i, q, o], 1.0) for q in range(t.count[i - 1])] + [(x[i, o], -1.0)], 0, 0)
        for q in range(t.count[i - 1]) if i else ():
            add([(y[i, q, o], 1.0) for o in range(t.count[i])] + [(x[i - 1, q], -1.0)], 0, 0)
        wait = [(y[i, q, o], 1.0) for q, o in pairs if t.needs[i, _input(t, i), q, o]]
        gpu_work = [(x[i, o], t.gpu_us[i, o]) for o in range(t.count[i]) if not np.isnan(t.gpu_us[i, o])]
        gpu_work += [(y[i, q, o], t.longer_gpu[i, _input(t, i), q, o]) for q, o in pairs]
        cpu_work = [(x[i, o], t.cpu_us[i, o]) for o in range(t.count[i]) if not np.isnan(t.cpu_us[i, o])]
        cpu_work += [(y[i, q, o], t.longer_cpu[i, _input(t, i), q, o]) for q, o in pairs]
        started = [(k, launch) for k, _ in has(t.gpu_us, i)]
        before = [(host[i - 1], 1.0)] if i else []
        _at_least(add, host[i], before + started + cpu_work + [(k, ready) for k, _ in wait])
        if i:
            # The wait ends when the GPU's piece of the node before does; both it and the GPU's own order bind only where they apply.
            _at_least(add, host[i], [(gpu[i - 1], 1.0), *cpu_work, *((k, sync + big) for k, _ in wait)], -big)
            _at_least(add, gpu[i], [(gpu[i - 1], 1.0), *gpu_work])
        _at_least(add, gpu[i], before + started + gpu_work + [(k, big) for k, _ in has(t.gpu_us, i)], -big)
        _at_least(add, pending[i], has(t.gpu_us, i))
        if i:
            _at_least(add, pending[i], [(pending[i - 1], 1.0), *((k, -1.0) for k, _ in wait)])
    _at_least(add, end, [(host[n - 1], 1.0), (pending[n - 1], ready)])
    _at_least(add, end, [(gpu[n - 1], 1.0), (pending[n - 1], sync + big)], -big)
    objective, whole = np.zeros(size), np.zeros(size)
    objective[end] = 1
    whole[list(x.values())] = 1
    limits = Bounds(np.zeros(size), np.where(np.isin(np.arange(size), [*host, *gpu, end]), np.inf, 1.0))
    solved = milp(objective, constraints=LinearConstraint(np.array(rows), low, high), integrality=whole, bounds=limits,
                  options={"mip_rel_gap": 1e-6})
    assert solved.success, solved.message
    return solved.fun + copies


def _at_least(add, variable: int, terms: list, constant: float = 0.0) -> None:
    add([(variable, 1.0), *((k, -v) for k, v in terms)], constant)


def _input(t: Tables, i: int) -> int:
    return int(np.flatnonzero(t.made_by[i] == i - 1)[0]) if i else 0
