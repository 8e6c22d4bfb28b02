"""What is kept of temperatures and clocks while a board is measured."""

from __future__ import annotations

from pathlib import Path

from coexec.profiling.climate import Climate


def _put(root: Path, file: str, text: str) -> None:
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(text)


def test_extremes_of_all_zones_and_cores_are_kept(tmp_path: Path) -> None:
    _put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "41250\n")
    _put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "38000\n")
    _put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1800000\n")
    climate = Climate(tmp_path)
    climate.look()
    _put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "72500\n")
    _put(tmp_path, "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "1100000\n")
    climate.look()
    assert climate.facts() == {"temperature_c_low": 38.0, "temperature_c_high": 72.5, "frequency_mhz_low": 1100.0, "frequency_mhz_high": 1800.0}


def test_what_cannot_be_read_tells_nothing(tmp_path: Path) -> None:
    climate = Climate(tmp_path)
    climate.look()
    assert climate.facts() == {}
    _put(tmp_path, "sys/class/thermal/thermal_zone0/temp", "broken\n")
    _put(tmp_path, "sys/class/thermal/thermal_zone1/temp", "-273000\n")
    climate.look()
    assert climate.facts() == {}
