"""The argument parser: argparse, with near names in its messages, and the options that several verbs share."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError, suggest


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def __init__(self, **facts):
        super().__init__(**{"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter, **facts})

    def error(self, message: str) -> NoReturn:
        choice = re.match(r"argument (\S+?):? ?.*invalid choice: '?([^' ]*)'? \(choose from (.*)\)", message)
        if choice:
            known = re.findall(r"[\w-]+", choice[3])
            raise UsageError(f"'{choice[2]}' is not known here", where=self.prog, hint=suggest(choice[2], known))
        raise UsageError(message, where=self.prog, hint=f"see `{self.prog} --help`")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Raises UsageError for arguments that nobody took, with near option names."""
        known = dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z-]*", self.format_help()))
        first = unknown[0]
        if not first.startswith("-"):
            raise UsageError(f"unexpected argument '{first}'", where=self.prog, hint=f"see `{self.prog} --help`")
        near = suggest(first.split("=")[0], known)
        raise UsageError(f"unknown option '{first}'", where=self.prog, hint=near if near.startswith("did") else f"see `{self.prog} --help`")


def common(parser: argparse.ArgumentParser) -> None:
    """What every verb takes."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object on stdout; notes and progress stay on stderr")
    group.add_argument("-q", "--quiet", action="store_true", help="no notes and no progress")
    group.add_argument("-v", "--verbose", action="count", default=0, help="more notes; twice for one line per operator")


def model(parser: argparse.ArgumentParser, many: bool = False, optional: bool = False) -> None:
    """The model, and sizes of its open dimensions."""
    parser.add_argument("model", metavar="MODEL", nargs="+" if many else "?" if optional else None, help="an ONNX file")
    parser.add_argument(
        "--shape",
        metavar="NAME:N,N,...",
        action="append",
        default=[],
        type=shape,
        help="sizes of an input whose shape the model leaves open; may be given again",
    )


def planning(parser: argparse.ArgumentParser, strategy: bool = True) -> None:
    """How the model is cut, and on what."""
    parser.add_argument("--profile", metavar="P.yaml", help="the board's profile (default: this machine's, made quickly if there is none)")
    if strategy:
        parser.add_argument(
            "--strategy", metavar="S", default="coexec", help="cpu, gpu, fixed:gpu=0.5, flops, greedy, clusters or coexec (default: %(default)s)"
        )
    processors(parser)
    parser.add_argument(
        "--force", metavar="NODE=DEVICE", action="append", default=[], type=pair, help="run a node wholly on cpu or gpu; may be given again"
    )
    parser.add_argument(
        "--max-gpu-share", metavar="X", type=fraction, default=1.0,
        help="the most of any operator that the GPU may compute, from 0 to 1; what is forced is exempt (default: 1)"
    )  # fmt: skip
    parser.add_argument(
        "--objective", choices=("latency", "energy"), default="latency",
        help="what to be best in; energy is modelled, from the watts power_w and idle_w that the profile tells (default: %(default)s)"
    )  # fmt: skip
    parser.add_argument(
        "--memory-limit", metavar="SIZE", type=size, default=None,
        help="plan for at most so much memory, 300M, 2G ...: weights as each side packs them, and activations, as modelled"
    )  # fmt: skip


def asks(options: argparse.Namespace) -> bool:
    """Whether `planning` was told anything besides the strategy."""
    return bool(options.force or options.max_gpu_share < 1 or options.objective != "latency" or options.memory_limit is not None)


def wished(options: argparse.Namespace, baseline: bool = False) -> dict[str, Any]:
    """What `planning` was told besides the strategy, by SessionOptions' names. A `baseline`, one device alone, is compared with as it is:
    nodes may be forced off it, but it has no largest share and no limit. Raises UsageError where a node is forced to two devices.
    """
    force: dict[str, str] = {}
    for name, device in options.force:
        if force.setdefault(name, device) != device:
            raise UsageError(f"node '{name}' is forced to two devices", where="--force", found=f"{force[name]} and {device}", expected="one of them")
    found = {"force": force, "objective": options.objective}
    return found if baseline else {**found, "max_gpu_share": options.max_gpu_share, "memory_limit": options.memory_limit}


def measuring(parser: argparse.ArgumentParser) -> None:
    """Measuring before trusting."""
    parser.add_argument(
        "--tune",
        metavar="TIME",
        type=duration,
        default=0.0,
        help="first try kernel forms for the GPU's pieces, for at most 30s, 5m ...; kept, so that a second time has nothing to do",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="check the plan by measurement first: runs correct the predictions, it is planned again, and the fastest plan is kept, "
        "the CPU's and the GPU's alone among them; remembered for later sessions (takes seconds)",
    )


def processors(parser: argparse.ArgumentParser) -> None:
    """Which processors are used. `coexec.cli.main` puts both into the settings."""
    parser.add_argument("--threads", metavar="N", type=count, default=0,
                        help="CPU threads, beside an emulated GPU at most the cores that it leaves (default: every core that is free)")
    parser.add_argument(
        "--gpu",
        metavar="PLATFORM:DEVICE",
        default="",
        help="which OpenCL device is the GPU, each an index or a part of the name; none for no GPU (default: the best)",
    )


def tolerances(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rtol", type=non_negative, default=1e-3, metavar="X", help="of the tensor's largest magnitude (default: %(default)s)"
    )
    parser.add_argument("--atol", type=non_negative, default=1e-5, metavar="X", help="absolute (default: %(default)s)")


# Types: argparse turns their ArgumentTypeError into its own message, which names the option.


def count(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found '{text}', expected a whole number of at least 0")
    return int(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if count(text) < 1:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a whole number of at least 1")
    return int(text)


def non_negative(text: str) -> float:
    """A number of at least 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number of at least 0")
    return value


def fraction(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number from 0 to 1")
    return value


def size(text: str) -> int:
    """Bytes: 1000, 512K, 300M or 2G."""
    found = re.fullmatch(r"(\d+)([KMG]?)", text.upper())
    if not found or int(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"found '{text}', expected bytes, above 0, or a size such as 300M or 2G")
    return int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]]


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or any(not abs(v) < float("inf") for v in values):
        raise argparse.ArgumentTypeError(f"found '{text}', expected numbers with commas between them")
    return values


def shape(text: str) -> tuple[str, tuple[int, ...]]:
    """NAME:1,3,224,224; a name may hold colons itself."""
    name, colon, sizes = text.rpartition(":")
    if not colon or not name or not re.fullmatch(r"\d+(,\d+)*", sizes):
        raise argparse.ArgumentTypeError(f"found '{text}', expected NAME:1,3,224,224")
    return name, tuple(int(n) for n in sizes.split(","))


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.rpartition("=")
    if not equals or not name or not value:
        raise argparse.ArgumentTypeError(f"found '{text}', expected NAME=VALUE")
    return name, value


def strategies(text: str) -> list[str]:
    """Strategies with commas between them, each once; the options of one have commas too, and an equals sign."""
    joined: list[str] = []
    for part in (p.strip() for p in text.split(",")):
        if joined and "=" in part and ":" not in part:  # the second option of the strategy before it
            joined[-1] += f",{part}"
        elif part:
            joined.append(part)
    if not joined:
        raise argparse.ArgumentTypeError(f"found '{text}', expected strategies with commas between them")
    return list(dict.fromkeys(joined))


def duration(text: str) -> float:
    """Seconds: 90, 90s, 10m or 1h."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"found '{text}', expected a time such as 90s, 10m or 1h")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def writable(path: str | None, option: str = "-o") -> Path | None:
    """That path, checked before long work starts: its folder exists and it is no folder itself. Raises UsageError."""
    if path is None:
        return None
    target = Path(path)
    if target.is_dir():
        raise UsageError("cannot write there", where=option, found=f"'{path}', a folder", expected="a file's name")
    if not target.parent.is_dir():
        raise UsageError(
            "cannot write there",
            where=option,
            found=f"no folder '{target.parent}'",
            expected="a folder that exists",
            hint=f"mkdir -p {target.parent}",
        )
    return target
