"""What run, bench and validate share: the profile they plan with, session options, and feeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import UsageError
from .console import Console
from .options import count, numbers, wished
from .progress import Progress


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Options that say what goes into the model."""
    group = parser.add_argument_group("inputs")
    group.add_argument(
        "--input",
        metavar="NAME=FILE",
        nargs="+",
        action="extend",
        default=[],
        help="NAME=x.npy, a bare x.npy where the model has one input, x.npz of named arrays, x.bin of bare numbers, or a picture",
    )
    group.add_argument(
        "--image",
        metavar="NAME=PICTURE",
        nargs="+",
        action="extend",
        default=[],
        help="a picture; grey or RGB by the input's channels, stretched to its height and width",
    )
    group.add_argument("--random", action="store_true", help="made-up inputs, the same for the same --seed")
    group.add_argument("--seed", metavar="N", type=count, default=0, help="of --random (default: %(default)s)")
    group.add_argument(
        "--scale", metavar="X", type=_number, default=1 / 255, help="pixels 0..255 are multiplied with this (default: 1/255)"
    )
    group.add_argument(
        "--mean", metavar="M,M,M", type=numbers, default=(0.0,), help="then this is subtracted, one number or one a channel (default: 0)"
    )
    group.add_argument(
        "--std", metavar="S,S,S", type=_divisors, default=(1.0,), help="then this divides, one number or one a channel (default: 1)"
    )
    group.add_argument(
        "--layout", choices=("auto", "nchw", "nhwc"), default="auto", help="where a picture's channels go (default: %(default)s)"
    )
    group.add_argument("--allow-nan", action="store_true", help="accept NaN in input files")


def feeds(graph: Any, options: argparse.Namespace, random_by_default: bool = False) -> dict[str, Any]:
    """The feeds that the options describe, checked against the model. Raises InputError, UsageError."""
    from ..api import random_feeds
    from ..runtime.feeds import check_feeds
    from .inputs import Pixels, read_feeds

    shapes = dict(options.shape)
    given = options.input or options.image
    if options.random and given:
        raise UsageError("--random makes every input up", found="--input or --image beside it", expected="one or the other")
    if given:
        pixels = Pixels(options.scale, options.mean, options.std, options.layout)
        return check_feeds(graph.inputs, read_feeds(graph, options.input, options.image, shapes, pixels, options.allow_nan))
    if graph.inputs and not options.random and not random_by_default:
        wanted = ", ".join(f"'{v.name}' {v.type}" for v in graph.inputs)
        raise UsageError(
            "the model needs input",
            where=options.model,
            expected=wanted,
            hint="give --input NAME=x.npy or --image picture.jpg, or --random to make some up",
        )
    return check_feeds(graph.inputs, random_feeds(graph, shapes, options.seed))


def profile(options: argparse.Namespace, strategies: list[str], console: Console) -> Any:
    """The profile to plan with: the one named, else this machine's (measured now if there is none), None where no strategy needs it."""
    from ..api import cached_profile
    from ..partition.strategies.base import parse_strategy
    from ..profiles import load_profile

    needed = [parse_strategy(s).needs_profile for s in strategies]
    needed.append(options.objective != "latency" or options.memory_limit is not None)
    if options.profile:
        return load_profile(options.profile)
    if not any(needed):
        return None
    with Progress(console, "measuring this machine, once", still=True, seconds=True) as tick:
        return cached_profile(progress=tick)


def session_options(options: argparse.Namespace, shapes: Mapping[str, Any], progress: Callable | None = None, baseline: bool = False) -> Any:
    """SessionOptions of a command line, for a `baseline` those of one device alone; threads and GPU travel by the settings."""
    from ..api import SessionOptions

    return SessionOptions(
        strict=getattr(options, "strict", False),
        device_retries=getattr(options, "retry", 0),
        check=getattr(options, "check", False),
        **wished(options, baseline),
        shapes=shapes,
        tune_budget_s=getattr(options, "tune", 0.0),
        verify=getattr(options, "verify", False),
        adapt=getattr(options, "adapt", False),
        progress=progress,
    )


def shapes_of(given: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every feed that is an array."""
    return {name: tuple(value.shape) for name, value in given.items() if hasattr(value, "shape")}


def _number(text: str) -> float:
    """A number or a fraction, 1/255."""
    above, slash, below = text.partition("/")
    try:
        value = float(above) / (float(below) if slash else 1)
    except (ValueError, ZeroDivisionError):
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"found '{text}', expected a number such as 1 or 1/255")
    return value


def _divisors(text: str) -> tuple[float, ...]:
    values = numbers(text)
    if 0 in values:
        raise argparse.ArgumentTypeError(f"found '{text}', expected numbers other than 0")
    return values
