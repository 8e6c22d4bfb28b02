"""Profiles: exact round trips, errors that name line and key, and files that try to do harm."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coexec import profiles, settings
from coexec.errors import ProfileMismatch, UsageError
from coexec.profiles import DeviceProfile, Latency, UnitProfile, default_profile_path, from_yaml, load_profile, save_profile, to_yaml
from tests.partition.boards import board

TEXT = to_yaml(board())


def test_round_trip_through_a_file(tmp_path):
    for profile in (board(), board(gpu=False), board(map_us=1e-9, transfer_gbs=0.1 + 0.2)):
        save_profile(profile, tmp_path / "p.yaml")
        assert load_profile(tmp_path / "p.yaml") == profile
    assert [p.name for p in tmp_path.iterdir()] == ["p.yaml"], "nothing temporary stays"


positive = st.floats(min_value=0, exclude_min=True, max_value=1e12, allow_nan=False)
names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")) | st.just(" "), max_size=20)


@given(names, names, positive, positive, st.booleans(), st.integers(0, 10**6), st.one_of(st.none(), positive), st.lists(names, max_size=4))
def test_round_trip_is_exact(name, driver, rate, us, flag, count, transfer, operators):
    unit = UnitProfile(name, rate, us, driver, flag, count, launch_us=us, transfer_gbs=transfer, operators=tuple(operators),
                       latency={"conv_1x1": Latency({"fixed_us": us, "us_per_mbyte": 0.0}, count, None, "estimated")})
    profile = DeviceProfile(driver, unit, unit if flag else None)
    assert from_yaml(to_yaml(profile)) == profile


def test_both_yaml_parsers_agree(monkeypatch):
    assert profiles._Loader.__name__.startswith("C") == hasattr(yaml, "CSafeLoader")
    monkeypatch.setattr(profiles, "_Loader", yaml.SafeLoader)
    assert from_yaml(TEXT) == board()
    with pytest.raises(ProfileMismatch, match=r"line \d+\] key 'gpu.sync_us' is wrong: found 'soon'"):
        from_yaml(TEXT.replace("sync_us: 30.0", "sync_us: soon"))


def changed(old: str, new: str) -> str:
    assert old in TEXT
    return TEXT.replace(old, new)


def line_of(text: str, part: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if part in line)


@pytest.mark.parametrize("old,new,key,words", [
    ("launch_us: 5.0", "launch_us: -1", "gpu.launch_us", "at least 0"),
    ("launch_us: 5.0", "launch_us: .nan", "gpu.launch_us", "a number of microseconds"),
    ("launch_us: 5.0", "launch_us: 1e999", "gpu.launch_us", "a number of microseconds"),
    ("launch_us: 5.0", "launch_us: [5]", "gpu.launch_us", "a list"),
    ("launch_us: 5.0", "lunch_us: 5", "gpu.lunch_us", "did you mean launch_us"),
    ("peak_gflops: 150.0", "peak_gflops: 0", "gpu.peak_gflops", "above 0"),
    ("threads: 2", "threads: 2.5", "cpu.threads", "a whole number"),
    ("emulated: false", "emulated: maybe", "cpu.emulated", "true or false"),
    ("provenance: measured", "provenance: guessed", "provenance", "measured or datasheet or estimated"),
    ("dtypes: [float32]", "dtypes: float32", "cpu.dtypes", "a list of names"),
    ("fixed_us: 1.0", "fixed_ms: 1.0", "cpu.latency.conv_1x1.fixed_ms", "us_per_<feature>"),
    ("format: 1", "format: 99", "format", "another version"),
    ("format: 1", "form: 1", "form", "did you mean format"),
])
def test_errors_name_line_and_key(old, new, key, words):
    text = changed(old, new)
    with pytest.raises(ProfileMismatch) as caught:
        from_yaml(text, "board.yaml")
    message = str(caught.value)
    assert f"[board.yaml, line {line_of(text, new)}]" in message and key in message and words in message, message
    assert caught.value.exit_code == 7


def test_missing_keys_are_named():
    with pytest.raises(ProfileMismatch, match="key 'gpu.operators' is wrong: found nothing"):
        from_yaml("format: 1\nname: x\ncpu: {name: c, peak_gflops: 1, bandwidth_gbs: 1}\n"
                  "gpu: {name: g, peak_gflops: 1, bandwidth_gbs: 1}\n")
    small = from_yaml("format: 1\nname: x\ncpu: {name: 865, peak_gflops: 1, bandwidth_gbs: 1e1}\ngpu: ~\n")
    assert small.cpu.name == "865" and small.gpu is None and small.cpu.bandwidth_gbs == 10
    with pytest.raises(ProfileMismatch, match="the profile has no 'gpu'"):
        small.unit("gpu")
    with pytest.raises(ProfileMismatch, match="no kernel takes no time"):
        from_yaml(TEXT.replace("fixed_us: 1.0, us_per_mflop: 10.0, us_per_mbyte: 50.0", "fixed_us: 0"))


BOMB = "a: &a [x, x]\n" + "\n".join(f"{n}: &{n} [*{p}, *{p}]" for p, n in zip("abcdefgh", "bcdefghi"))


@pytest.mark.parametrize("text,words", [
    ("", "found nothing"), ("x", "not a device profile"), ("[]", "a list"), ("{", "not YAML"), ("a: b: c", "not YAML"),
    (BOMB, "references"), ("!!python/object/apply:os.system ['touch /tmp/harm']", "tags"), ("a: !secret 1", "tags"),
    ("[" * 100_000, "nested too deep"),
    ("a:\n" + "".join(" " * i + "a:\n" for i in range(1, 400)), "nested too deep"), ("name: x\nname: y", "there twice"),
    ("--- 1\n--- 2", "one document"),
    ("? [a]\n: b", "a key must be"), ("\x00", "not YAML"), ("%YAML 9.9\n---\na", "not YAML"), ("- " * 5000, "nested too deep"),
])
def test_harmful_files_are_refused_quickly(text, words):
    begun = time.perf_counter()
    with pytest.raises(ProfileMismatch, match=words):
        from_yaml(text)
    assert time.perf_counter() - begun < 2


def test_files_that_are_no_profiles(tmp_path):
    with pytest.raises(UsageError, match="cannot read the profile"):
        load_profile(tmp_path / "missing.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(ProfileMismatch, match="too large"):
        load_profile(tmp_path / "large.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ProfileMismatch, match="UTF-8"):
        load_profile(tmp_path / "binary.yaml")


@given(st.text(max_size=200), st.integers(0, len(TEXT)), st.integers(0, 40))
def test_any_damage_is_a_profile_mismatch(inserted, at, removed):
    try:
        from_yaml(TEXT[:at] + inserted + TEXT[at + removed:])
    except ProfileMismatch:
        pass


def test_saving_is_all_or_nothing(tmp_path, monkeypatch):
    save_profile(board(), tmp_path / "p.yaml")
    monkeypatch.setattr(profiles, "to_yaml", lambda profile: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_profile(board(gpu=False), tmp_path / "p.yaml")
    assert load_profile(tmp_path / "p.yaml") == board() and len(list(tmp_path.iterdir())) == 1


def test_a_large_profile_loads_within_a_tenth_of_a_second(tmp_path):
    fits = {f"conv_{i}": Latency({"fixed_us": 1.0 + i, "us_per_mflop": 2.0}, i, 3.0) for i in range(100)}
    profile = replace(board(), cpu=replace(board().cpu, latency=fits), gpu=replace(board().gpu, latency=fits))
    save_profile(profile, tmp_path / "p.yaml")
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        assert load_profile(tmp_path / "p.yaml") == profile
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.1


def test_the_cache_has_a_file_per_machine(tmp_path):
    def facts(name, driver="1"):
        return SimpleNamespace(name=name, kind="gpu", driver=driver, compute_units=2, emulated=False, dtypes={"float32"}, sharing=("svm",))

    with settings.override(cache_dir=Path(tmp_path)):
        first = default_profile_path({"cpu": facts("a"), "gpu": facts("b")})
        assert first.parent == tmp_path / "profiles" and first.suffix == ".yaml"
        assert first == default_profile_path({"gpu": facts("b"), "cpu": facts("a")})
        others = [default_profile_path({"cpu": facts("a")}), default_profile_path({"cpu": facts("a"), "gpu": facts("b", "2")}),
                  default_profile_path({"cpu": facts("a"), "gpu": facts("b")}, threads=4)]
        assert len({first, *others}) == 4


def test_digest_follows_content():
    assert board().digest == board().digest != board(sync_us=31.0).digest
