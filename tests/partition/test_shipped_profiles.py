"""The profiles that ship: they load, say where each number is from, and plans can be made with them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coexec.cost.compose import CostModel
from coexec.partition.strategies.base import parse_strategy
from coexec.profiles import DeviceProfile, from_yaml, load_profile, to_yaml
from tests.partition.boards import classifier

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "profiles").glob("*.yaml"))
#: What a datasheet, or an estimate, must account for.
NUMBERS = re.compile(r"^  (peak_gflops|bandwidth_gbs|launch_us|sync_us|map_us|transfer_gbs|facts):")


def test_the_boards_that_were_asked_for_are_there():
    assert {p.stem for p in SHIPPED} >= {"snapdragon-855", "snapdragon-865", "snapdragon-888", "kirin-990", "rk3588", "raspberry-pi-5"}
    readme = (ROOT / "profiles" / "README.md").read_text()
    assert all(p.name in readme for p in SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_number_has_its_source_beside_it(path):
    lines = path.read_text().splitlines()
    numbers = [line for line in lines if NUMBERS.match(line)]
    assert len(numbers) >= 3
    for line in numbers:
        assert re.search(r"# .{1,}", line), f"{path.name}: {line}"
    named = {m for line in numbers for m in re.findall(r"\b([A-Z])\b(?=[:);,]| |$)", line.partition("#")[2]) if m in "ABCZ"}
    legend = "\n".join(line for line in lines if line.startswith("#"))
    assert all(f"{letter}: " in legend for letter in named), f"{path.name} names {named}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_plans_are_made_with_it_and_say_that_all_is_estimated(path):
    profile: DeviceProfile = load_profile(path)
    sections = [s for s in (profile.cpu, profile.gpu, profile.little) if s is not None]
    assert all(s.provenance == "datasheet" and not s.emulated for s in sections)
    assert from_yaml(to_yaml(profile)) == profile
    graph = classifier()
    plan = parse_strategy("coexec").plan(graph, profile)
    assert plan.predicted_ms > 0 and all(p.estimated for p in plan.partitions if p.predicted_us)
    cpu = parse_strategy("cpu").plan(graph, profile)
    assert plan.predicted_ms <= cpu.predicted_ms and (profile.gpu is not None or plan.devices == {"cpu"})


def test_a_phones_memory_is_one_where_its_driver_says_so():
    assert all(CostModel(load_profile(ROOT / "profiles" / f"snapdragon-{n}.yaml")).shared for n in (855, 865, 888))
    assert not CostModel(load_profile(ROOT / "profiles" / "rk3588.yaml")).shared


def test_what_is_known_of_boards_is_in_order():
    """Newer phones are faster than older ones, in every rate."""
    boards = [load_profile(ROOT / "profiles" / f"snapdragon-{n}.yaml") for n in (855, 865, 888)]
    for older, newer in zip(boards, boards[1:]):
        assert newer.cpu.peak_gflops >= older.cpu.peak_gflops and newer.gpu.peak_gflops > older.gpu.peak_gflops
        assert newer.cpu.bandwidth_gbs > older.cpu.bandwidth_gbs
