"""DeviceProfile: what is known of a board (facts, costs, fitted latencies), and the YAML file it is shared as.

The schema and its units are in profiles/README.md. Reading is data only: nothing in a file can name code, and a file that is too
large, too deep or uses YAML references is refused before it is built.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NoReturn

import yaml

from . import files, settings
from .errors import ProfileMismatch, UsageError, suggest

FORMAT = 1
MAX_BYTES = 1_000_000
MAX_DEPTH = 8
PROVENANCES = ("measured", "datasheet", "estimated")

#: libyaml parses some ten times faster; the pure Python one is there everywhere.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_TERM = re.compile(r"fixed_us|us_per_[a-z0-9_]+")


@dataclass(frozen=True)
class Machine:
    """Which board it was, and when: plain words for people, never compared with the machine at hand."""

    model: str = ""
    os: str = ""
    arch: str = ""
    date: str = ""
    tool_version: str = ""


@dataclass(frozen=True)
class Correction:
    """A smooth factor on a fit, of the logarithms of the sizes `inputs`: exp of `weights` times nearness to `sizes`.

    scale: what each logarithm is multiplied by; sizes: those of each weight, one number an input, one after another. most: the factor
    lies between 1 / most and most.
    """

    inputs: tuple[str, ...]
    scale: tuple[float, ...]
    sizes: tuple[float, ...]
    weights: tuple[float, ...]
    most: float = 1.8


@dataclass(frozen=True)
class Latency:
    """A fitted latency: `terms` are microseconds per unit of a feature (`fixed_us`, `us_per_mflop`, ...), none negative.

    `samples` timings were used; half of them are predicted within `error_pct` percent, and within `held_out_pct` by fits without them.
    `drift`: how closely the kernel follows slower moments, as a power of what the unit's facts say of kernels bound like it.
    """

    terms: Mapping[str, float]
    samples: int = 0
    error_pct: float | None = None
    provenance: str = "measured"
    correction: Correction | None = None
    held_out_pct: float | None = None
    drift: float | None = None


@dataclass(frozen=True)
class UnitProfile:
    """One processor: facts, what starting, waiting and sharing cost, and latencies by family of operators.

    `latency` keys are families (`conv_1x1`), or `family/implementation` (`conv/winograd4`) where one kernel has a fit of its own.
    """

    name: str
    peak_gflops: float
    bandwidth_gbs: float
    driver: str = ""
    emulated: bool = False
    compute_units: int = 1
    #: CPU threads the timings were taken with; 0 for a GPU.
    threads: int = 0
    #: The cores that those threads ran on; empty: every core of the machine, or nobody knows.
    cores: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ("float32",)
    #: Operator types with kernels; empty: every operator (the CPU).
    operators: tuple[str, ...] = ()
    #: How it shares memory with the host and is waited for: the cheapest of the ways whose microseconds are below.
    sharing: str = ""
    waiting: str = ""
    sharing_us: Mapping[str, float] = field(default_factory=dict)
    waiting_us: Mapping[str, float] = field(default_factory=dict)
    #: By kind of kernel (partition.images.KINDS): its time on image2d storage by its time on buffers; empty: not measured, or no images.
    image_shares: Mapping[str, float] = field(default_factory=dict)
    #: A transform from a buffer to an image or back: microseconds of any, and the rate for its bytes (None: as its memory's).
    image_us: float = 0.0
    image_gbs: float | None = None
    launch_us: float = 0.0
    sync_us: float = 0.0
    #: What a wait costs where the work is done already; None: as much as any.
    ready_us: float | None = None
    #: From a piece's start on the host until a GPU that has nothing to do begins with it.
    begin_us: float = 0.0
    #: Of one move between the two memories; 0 where they are one.
    map_us: float = 0.0
    #: None where both processors address one memory, so that nothing moves.
    transfer_gbs: float | None = None
    #: How much longer reading takes where the other unit has just written those bytes, as a rate; None: not measured.
    crossing_gbs: float | None = None
    #: Copying a run's inputs and outputs, reads and writes together, as the host's sections know it; None: as its memory's bandwidth.
    copy_gbs: float | None = None
    #: What a run takes beside pieces, waits and those copies: of the CPU's sections in plans that give it some work; of the GPU where all
    #: work is its own, and the host sleeps meanwhile: of a run, and for each of its pieces.
    run_us: float = 0.0
    run_piece_us: float = 0.0
    #: Watts while it works and while it does not; None: not known.
    power_w: float | None = None
    idle_w: float | None = None
    provenance: str = "measured"
    #: Numbers that decide how kernels cut their work: vector width, cache sizes. profiles/README.md names them.
    facts: Mapping[str, float] = field(default_factory=dict)
    #: How much longer kernels take while the other unit works, by what bounds them: compute, memory.
    busy: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, Latency] = field(default_factory=dict)


@dataclass(frozen=True)
class DeviceProfile:
    """A board: its CPU, its GPU (None where there is none), and where the numbers come from.

    cpu_alone: the CPU as plans without a GPU use it, where that is with more threads than beside the GPU; else None.
    little: a second cluster of CPU cores, which `cpu` does not use and which can work beside it; None where there is none.
    """

    name: str
    cpu: UnitProfile
    gpu: UnitProfile | None = None
    machine: Machine = Machine()
    cpu_alone: UnitProfile | None = None
    little: UnitProfile | None = None

    def unit(self, name: str) -> UnitProfile:
        """The section of that device. Raises ProfileMismatch where the board has none."""
        units = {"cpu": self.cpu, "gpu": self.gpu, "little": self.little}
        found = units.get(name)
        if found is None:
            raise ProfileMismatch(f"the profile has no '{name}'", where=self.name, expected=" or ".join(u for u, known in units.items() if known))
        return found

    def with_threads(self, threads: int) -> DeviceProfile:
        """As a session sees it whose CPU pool has at most that many threads: without the section of a CPU alone that has more. 0, the pool's own
        choice: the profile itself."""
        if not threads or self.cpu_alone is None or threads > (self.cpu.threads or 1):
            return self
        return replace(self, cpu_alone=None)

    @property
    def in_step(self) -> bool:
        """True where words in shared memory were the cheapest way to keep both units in step, so that plans run by counters."""
        return self.gpu is not None and self.gpu.waiting == "flag"

    @property
    def digest(self) -> str:
        """A hash of everything in it."""
        return hashlib.sha256(to_yaml(self).encode()).hexdigest()[:16]


def default_profile_path(facts: Mapping[str, Any], threads: int = 0) -> Path:
    """Where this machine's own profile is kept. `facts` maps device names to their DeviceFacts; other facts, another file."""
    told = [f"format {FORMAT} threads {threads}"]
    for name in sorted(facts):
        f = facts[name]
        told.append(f"{name}|{f.name}|{f.kind}|{f.driver}|{f.compute_units}|{f.emulated}|{sorted(f.dtypes)}|{f.sharing}")
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]
    return settings.get("cache_dir") / "profiles" / f"{digest}.yaml"


# Writing


def to_yaml(profile: DeviceProfile) -> str:
    """The YAML text of a profile; `from_yaml` gives back an equal one."""
    head = "# A device profile of coexec. Times are microseconds, rates GFLOP/s and GB/s; profiles/README.md describes every key.\n"
    body = {"format": FORMAT, "name": profile.name, "machine": _plain(profile.machine), "cpu": _plain(profile.cpu)}
    if profile.gpu is not None:
        body["gpu"] = _plain(profile.gpu)
    for extra in ("cpu_alone", "little"):
        if getattr(profile, extra) is not None:
            body[extra] = _plain(getattr(profile, extra))
    return head + yaml.dump(body, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)


#: Keys that came later: left out where they are empty, so that a profile from before keeps its digest.
_LATER = frozenset({"cores", "waiting", "sharing_us", "waiting_us", "image_shares", "image_us", "image_gbs"})


def _plain(item: Any) -> Any:
    if isinstance(item, Latency):
        body = {**item.terms, "samples": item.samples, "provenance": item.provenance}
        if item.correction is not None:
            body["correction"] = _plain(item.correction)
        return body | {k: v for k in ("error_pct", "held_out_pct", "drift") if (v := getattr(item, k)) is not None}
    if isinstance(item, Correction):  # numbers as one text: a list of thousands would take long to read
        numbers = {k: " ".join(f"{v:.6g}" for v in getattr(item, k)) for k in ("scale", "sizes", "weights")}
        return {"inputs": list(item.inputs), **numbers, "most": item.most}
    if isinstance(item, (Machine, UnitProfile)):
        return {f.name: _plain(value) for f in fields(item) if (value := getattr(item, f.name)) or f.name not in _LATER}
    if isinstance(item, Mapping):
        return {k: _plain(v) for k, v in item.items()}
    return list(item) if isinstance(item, tuple) else item


def save_profile(profile: DeviceProfile, path: str | os.PathLike[str]) -> None:
    """Writes the profile, whole or not at all. Raises OSError where the folder cannot be written."""
    files.write(path, to_yaml(profile))


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """With four significant digits each, as measured numbers are kept in profiles."""
    return {k: float(f"{v:.4g}") for k, v in numbers.items()}


# Reading


def load_profile(path: str | os.PathLike[str]) -> DeviceProfile:
    """Reads a profile. Raises UsageError where there is no such file, ProfileMismatch (with line and key) where it is no profile."""
    where = str(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UsageError("cannot read the profile", where=where, found=error.strerror or str(error), expected="a YAML file",
                         hint="make one with `coexec profile -o FILE`") from None
    if len(data) > MAX_BYTES:
        raise ProfileMismatch("the file is too large for a profile", where=where, found=f"more than {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ProfileMismatch("not a text file", where=where, found=f"byte {data[error.start]:#04x} at {error.start}",
                              expected="UTF-8") from None
    return from_yaml(text, where)


def from_yaml(text: str, where: str = "profile") -> DeviceProfile:
    """The inverse of `to_yaml`. Raises ProfileMismatch naming line, key, what was found and what was expected."""
    return _Reader(where).profile(_tree(text, where))


@dataclass(frozen=True)
class _Scalar:
    text: str
    plain: bool
    line: int


@dataclass(frozen=True)
class _Sequence:
    items: list[Any]
    line: int


@dataclass(frozen=True)
class _Mapping:
    items: dict[str, Any]
    line: int


_KINDS = {_Scalar: "a single value", _Sequence: "a list", _Mapping: "a mapping"}


def _tree(text: str, where: str) -> Any:
    """The document as scalars (still text: the schema knows their types), sequences and mappings, with line numbers."""
    try:
        loader = _Loader(text)
        try:
            return _document(loader, where)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        if "nesting depth" in str(error.problem):  # PyYAML from 6.0.4 counts too, and further than we do
            raise ProfileMismatch("nested too deep for a profile", where=where + line, expected=f"at most {MAX_DEPTH} levels") from None
        raise ProfileMismatch("not YAML", where=where + line, found=error.problem or str(error), expected="a device profile") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ProfileMismatch("not YAML", where=where, found=str(error)[:200], expected="a device profile") from None


def _document(loader: Any, where: str) -> Any:
    open_: list[Any] = []  # the collections we are in; a mapping with its pending key
    root: Any = None
    documents = 0
    while True:
        event = loader.get_event()
        if event is None or isinstance(event, yaml.StreamEndEvent):
            return root
        at = f"{where}, line {event.start_mark.line + 1}"
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise ProfileMismatch("a profile is one document", where=at)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ProfileMismatch("YAML references (& and *) are not allowed", where=at)
        if getattr(event, "tag", None) not in (None, "!"):
            raise ProfileMismatch("YAML tags are not allowed", where=at, found=event.tag)
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            item: Any = _Scalar(event.value, not event.style, line)
        elif isinstance(event, yaml.SequenceStartEvent):
            item = _Sequence([], line)
        elif isinstance(event, yaml.MappingStartEvent):
            item = _Mapping({}, line)
        elif isinstance(event, (yaml.SequenceEndEvent, yaml.MappingEndEvent)):
            open_.pop()
            continue
        else:
            continue
        if not open_:
            root = item
        elif isinstance(open_[-1], _Sequence):
            open_[-1].items.append(item)
        elif isinstance(open_[-1], _Mapping):  # a key: wait for its value
            if not isinstance(item, _Scalar):
                raise ProfileMismatch("a key must be a word", where=at, found=_KINDS[type(item)])
            if item.text in open_[-1].items:
                raise ProfileMismatch(f"key '{item.text}' is there twice", where=at)
            open_.append(item.text)
            continue
        else:
            key = open_.pop()
            open_[-1].items[key] = item
        if not isinstance(item, _Scalar):
            open_.append(item)
            if len(open_) > MAX_DEPTH:
                raise ProfileMismatch("nested too deep for a profile", where=at, expected=f"at most {MAX_DEPTH} levels")


class _Reader:
    """Turns the tree into a DeviceProfile; every complaint names line and key."""

    def __init__(self, where: str):
        self.where = where

    def wrong(self, key: str, item: Any, expected: str, found: str = "", hint: str = "") -> NoReturn:
        line = f", line {item.line}" if item is not None else ""
        if not found:
            found = "nothing" if item is None else repr(item.text) if isinstance(item, _Scalar) else _KINDS[type(item)]
        raise ProfileMismatch(f"key '{key}' is wrong" if key else "not a device profile", where=self.where + line, found=found,
                              expected=expected,
                              hint=hint)

    def profile(self, root: Any) -> DeviceProfile:
        top = self.mapping(root, "", ("format", "name", "machine", "cpu", "gpu", "cpu_alone", "little"), ("format", "name", "cpu"))
        version = self.whole("format", top["format"])
        if version != FORMAT:
            self.wrong("format", top["format"], str(FORMAT), hint="this profile is of another version of coexec: make it again")
        machine = self.mapping(top["machine"], "machine", [f.name for f in fields(Machine)]) if "machine" in top else {}
        return DeviceProfile(
            self.text("name", top["name"]), self.unit("cpu", top["cpu"]),
            self.unit("gpu", top["gpu"]) if not self.null(top.get("gpu")) else None,
            Machine(**{k: self.text(f"machine.{k}", v) for k, v in machine.items()}),
            *(self.unit(extra, top[extra]) if not self.null(top.get(extra)) else None for extra in ("cpu_alone", "little")),
        )

    def unit(self, key: str, item: Any) -> UnitProfile:
        known: dict[str, Callable[[str, Any], Any]] = {
            "name": self.text, "driver": self.text, "emulated": self.flag, "compute_units": self.whole, "threads": self.whole,
            "cores": lambda k, v: tuple(self.whole(k, i) for i in self.sequence(k, v)),
            "dtypes": self.words, "operators": self.words, "sharing": self.text, "waiting": self.text,
            "sharing_us": self.numbers, "waiting_us": self.numbers, "image_shares": self.rates, "image_us": self.number,
            "peak_gflops": self.rate, "bandwidth_gbs": self.rate,
            "launch_us": self.number, "sync_us": self.number, "begin_us": self.number, "map_us": self.number,
            "run_us": self.number, "run_piece_us": self.number,
            "ready_us": lambda k, v: None if self.null(v) else self.number(k, v), "facts": self.numbers, "busy": self.numbers,
            **dict.fromkeys(("transfer_gbs", "crossing_gbs", "image_gbs", "copy_gbs", "power_w"),
                            lambda k, v: None if self.null(v) else self.rate(k, v)),
            "idle_w": lambda k, v: None if self.null(v) else self.number(k, v),
            "provenance": self.provenance, "latency": self.latencies,
        }
        needed = ("name", "peak_gflops", "bandwidth_gbs", *(("operators", "launch_us", "sync_us") if key == "gpu" else ()))
        body = self.mapping(item, key, known, needed)
        return UnitProfile(**{k: known[k](f"{key}.{k}", v) for k, v in body.items()})

    def latencies(self, key: str, item: Any) -> dict[str, Latency]:
        return {name: self.latency(f"{key}.{name}", body) for name, body in self.mapping(item, key).items()}

    def latency(self, key: str, item: Any) -> Latency:
        terms, more = {}, {}
        for name, value in self.mapping(item, key).items():
            at = f"{key}.{name}"
            if _TERM.fullmatch(name):
                terms[name] = self.number(at, value)
            elif name in ("samples", "error_pct", "held_out_pct", "drift", "provenance", "correction"):
                read = {"samples": self.whole, "error_pct": self.number, "held_out_pct": self.number, "drift": self.number,
                        "provenance": self.provenance, "correction": self.correction}
                more[name] = read[name](at, value)
            else:
                self.wrong(at, value, "fixed_us, us_per_<feature>, samples, error_pct, held_out_pct, drift, provenance or correction",
                           found=f"the key '{name}'")
        if not any(terms.values()):
            self.wrong(key, item, "at least one term above 0: no kernel takes no time", found="none")
        return Latency(terms, **more)

    def correction(self, key: str, item: Any) -> Correction:
        needed = ("inputs", "scale", "sizes", "weights")
        old = isinstance(item, _Mapping) and "centres" in item.items  # profiles until November 2026: logarithms, scaled
        needed = tuple("centres" if old and n == "sizes" else n for n in needed)
        body = self.mapping(item, key, (*needed, "most"), needed)
        inputs = self.words(f"{key}.inputs", body["inputs"])
        rest = {n: self.line_of_numbers(f"{key}.{n}", body[n]) for n in needed[1:]}
        if not inputs or len(rest["scale"]) != len(inputs) or len(rest[needed[2]]) != len(inputs) * len(rest["weights"]):
            self.wrong(key, item, "a scale an input, and for each weight as many sizes", found="other counts")
        if old:
            scale = itertools.cycle(rest["scale"])
            rest["sizes"] = tuple(math.exp(min(v / by, 700.0)) if by else 1.0 for v, by in zip(rest.pop("centres"), scale))
        return Correction(inputs, **rest, **({"most": self.number(f"{key}.most", body["most"], 1.0)} if "most" in body else {}))

    def line_of_numbers(self, key: str, item: Any) -> tuple[float, ...]:
        try:
            found = tuple(map(float, self.text(key, item).split()))
        except ValueError:
            found = (math.nan,)
        if not all(map(math.isfinite, found)):
            self.wrong(key, item, "numbers with spaces between them", found="something else")
        return found

    def numbers(self, key: str, item: Any) -> dict[str, float]:
        return {name: self.number(f"{key}.{name}", value) for name, value in self.mapping(item, key).items()}

    def rates(self, key: str, item: Any) -> dict[str, float]:
        return {name: self.rate(f"{key}.{name}", value) for name, value in self.mapping(item, key).items()}

    def mapping(self, item: Any, key: str, known: Any = None, needed: Any = ()) -> dict[str, Any]:
        if not isinstance(item, _Mapping):
            self.wrong(key, item, "a mapping of keys to values")
        dot = f"{key}." if key else ""
        for name, value in item.items.items():
            if known is not None and name not in known:
                self.wrong(dot + name, value, "a key of the schema", found="an unknown key", hint=suggest(name, known))
        for name in needed:
            if name not in item.items:
                self.wrong(dot + name, item, "a value: this key is required", found="nothing")
        return item.items

    def null(self, item: Any) -> bool:
        return item is None or (isinstance(item, _Scalar) and item.plain and item.text in ("", "~", "null", "Null", "NULL"))

    def text(self, key: str, item: Any) -> str:
        if not isinstance(item, _Scalar):
            self.wrong(key, item, "text")
        return "" if self.null(item) else item.text

    def sequence(self, key: str, item: Any, of: str = "numbers") -> list[Any]:
        if not isinstance(item, _Sequence):
            self.wrong(key, item, f"a list of {of}")
        return item.items

    def words(self, key: str, item: Any) -> tuple[str, ...]:
        return tuple(self.text(key, i) for i in self.sequence(key, item, "names"))

    def provenance(self, key: str, item: Any) -> str:
        text = self.text(key, item)
        if text not in PROVENANCES:
            self.wrong(key, item, " or ".join(PROVENANCES))
        return text

    def flag(self, key: str, item: Any) -> bool:
        found = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.get(self.text(key, item).lower())
        if found is None:
            self.wrong(key, item, "true or false")
        return found

    def whole(self, key: str, item: Any) -> int:
        text = self.text(key, item)
        if not re.fullmatch(r"[0-9]{1,9}", text):
            self.wrong(key, item, "a whole number, at least 0")
        return int(text)

    def number(self, key: str, item: Any, at_least: float = 0.0) -> float:
        unit = next((u for suffix, u in (("_us", " of microseconds"), ("_gflops", " of GFLOP/s"),
                                         ("_gbs", " of GB/s")) if key.endswith(suffix)), "")
        try:
            value = float(self.text(key, item))
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < at_least:
            self.wrong(key, item, f"a number{unit}, {'above 0' if 0 < at_least < 1 else f'at least {at_least:g}'}")
        return value

    def rate(self, key: str, item: Any) -> float:
        return self.number(key, item, math.ulp(0.0))
