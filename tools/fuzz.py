"""Mutated models, profiles, plans, tables and cache files: each must be read, or refused with one of our errors. Anything else is a finding.

    python -m tools.fuzz --count 100000 --seconds 600

A child process does the reading, held to 2 GiB beyond what it starts with; the parent ends it where one file takes more than 10 s, and
goes on with the next. A case is (kind, number): the same number makes the same file on any machine. Findings are written to --found.
Ends with 1 where there are any; prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SEEDS = Path(__file__).resolve().parent.parent / "tests" / "fuzz" / "seeds"
LIMIT_S, LIMIT_BYTES = 10.0, 2 << 30
SUFFIXES = {"model": ".onnx", "profile": ".yaml", "plan": ".json", "table": ".csv", "tuning": ".tuning", "program": ".bin"}
#: Of every hundred cases: models are the slowest to read and have the most to say.
SHARES = {"model": 40, "profile": 20, "plan": 20, "table": 10, "tuning": 5, "program": 5}
NUMBERS = ("0", "-1", "1", "2147483647", "-2147483648", "4294967296", "9223372036854775807", "-9223372036854775809", "1e308", "1e999", "-0.0",
           "nan", "inf", ".nan", ".inf", "0x10", "1_0", "null", "true", '""', "[]", "{}", "1" * 400, "0.1.2")
WORDS = ("", "gpu", "cpu", "\x00", "\ud83d\ude00", "a" * 5000, "../../etc/passwd", "!!python/object/apply:os.system ['true']", "&a [*a]", "*a", "<<",
         "%s%n", "name: {", "- " * 200, "[" * 300, "{" * 300, "\t", "\r\n", "#", "'", '"')
INTEGERS = (0, 1, -1, 2, 3, 7, 255, 2**15, 2**31 - 1, -2**31, 2**32, 2**40, 2**62, -2**63)


def kind_of(number: int) -> str:
    """Which kind of file the case is."""
    at = number % 100
    for kind, share in SHARES.items():
        if at < share:
            return kind
        at -= share
    raise AssertionError(number)


def seeds(kind: str) -> list[bytes]:
    """The sound files that mutants of a kind come from."""
    return [path.read_bytes() for path in sorted(SEEDS.glob(f"*{SUFFIXES[kind]}"))]


def mutant(number: int) -> bytes:
    """The file of that case."""
    kind, rng = kind_of(number), random.Random(number)
    data = rng.choice(seeds(kind))
    if kind == "model" and rng.random() < 0.7:
        return changed_model(data, rng)
    if kind in ("profile", "plan", "table", "tuning") and rng.random() < 0.8:
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = changed_text(data, rng)
        return data
    for _ in range(rng.choice((1, 1, 2, 8))):
        data = changed_bytes(data, rng)
    return data


def changed_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flipped, cut, doubled, spliced: knows nothing of the format."""
    if not data:
        return rng.randbytes(8)
    at, length = rng.randrange(len(data)), rng.choice((1, 1, 2, 4, 16, 256))
    match rng.randrange(7):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1:]
        case 1:
            return data[:at] + rng.randbytes(length) + data[at + length:]
        case 2:
            return data[:at]
        case 3:
            return data[:at] + data[at + length:]
        case 4:
            return data[:at] + data[at:at + length] * rng.choice((2, 3, 50)) + data[at + length:]
        case 5:
            other = rng.randrange(len(data))
            return data[:at] + data[other:other + length] + data[at + length:]
        case _:
            return data[:at] + rng.choice((b"\x00", b"\xff", b"\xff\xff\xff\xff\x0f", b"\x80" * 12, b"\x7f")) + data[at + 1:]


def changed_text(data: bytes, rng: random.Random) -> bytes:
    """Another number, word or line: most of the file still makes sense."""
    text = data.decode("utf-8", "replace")
    numbers = list(re.finditer(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text))
    words = list(re.finditer(r"[A-Za-z_]+", text))
    lines = text.split("\n")
    match rng.randrange(6):
        case 0 | 1 if numbers:
            found = rng.choice(numbers)
            text = text[:found.start()] + rng.choice(NUMBERS) + text[found.end():]
        case 2 if words:
            found = rng.choice(words)
            text = text[:found.start()] + rng.choice((*WORDS, *(w.group() for w in words[:50]))) + text[found.end():]
        case 3:
            at = rng.randrange(len(lines))
            text = "\n".join([*lines[:at], *rng.choice(([], [lines[at]] * 3, [rng.choice(lines)], [" " + lines[at]])), *lines[at + 1:]])
        case 4:
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(WORDS) + text[at:]
        case _:
            marks = [m.start() for m in re.finditer(r"[\[\]{}:,\"]", text)] or [0]
            at = rng.choice(marks)
            text = text[:at] + rng.choice(("", ",", ":", "[", "]", "{", "}", '"', "\n")) + text[at + 1:]
    return text.encode("utf-8", "surrogatepass")


def changed_model(data: bytes, rng: random.Random) -> bytes:
    """A ModelProto that still parses, and says something else."""
    import onnx

    model = onnx.ModelProto.FromString(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        change_message(model, rng)
    return model.SerializeToString()


def change_message(message: object, rng: random.Random) -> None:
    """Walks down to a random field of a protobuf message and gives it another value."""
    fields = message.ListFields()  # type: ignore[attr-defined]
    if not fields:
        return
    field, value = rng.choice(fields)
    repeated = getattr(field, "is_repeated", None)
    repeated = field.label == field.LABEL_REPEATED if repeated is None else repeated
    if field.type == field.TYPE_MESSAGE:
        if not repeated:
            change_message(value, rng)
        elif rng.random() < 0.75:
            change_message(rng.choice(value), rng)
        else:
            change_list(value, rng)
    elif repeated:
        if field.type == field.TYPE_STRING or field.type == field.TYPE_BYTES or rng.random() < 0.3:
            change_list(value, rng)
        else:
            value[rng.randrange(len(value))] = fitting(field, rng)
    else:
        try:
            setattr(message, field.name, fitting(field, rng, value))
        except (ValueError, TypeError):  # out of that field's range
            message.ClearField(field.name)  # type: ignore[attr-defined]


def change_list(items: object, rng: random.Random) -> None:
    """Drops, doubles or swaps elements."""
    at, kept = rng.randrange(len(items)), list(items)  # type: ignore[arg-type, call-overload]
    match rng.randrange(3):
        case 0:
            del items[at]  # type: ignore[attr-defined]
        case 1:
            items.append(kept[at])  # type: ignore[attr-defined]
        case _:
            del items[:]  # type: ignore[attr-defined]
            rng.shuffle(kept)
            items.extend(kept)  # type: ignore[attr-defined]


def fitting(field: object, rng: random.Random, old: object = None) -> object:
    """A value of the field's type."""
    kind = field.type  # type: ignore[attr-defined]
    if kind == field.TYPE_STRING:  # type: ignore[attr-defined]
        return rng.choice(("", "x", "y", "w", "Relu", "Loop", "Reshape", "Expand", "a" * 1000, str(old) + "_"))
    if kind == field.TYPE_BYTES:  # type: ignore[attr-defined]
        return changed_bytes(bytes(old or b""), rng)  # type: ignore[call-overload]
    if kind in (field.TYPE_FLOAT, field.TYPE_DOUBLE):  # type: ignore[attr-defined]
        return rng.choice((0.0, -1.0, float("nan"), float("inf"), 1e30, 1e-30))
    return rng.choice(INTEGERS if kind in (field.TYPE_INT64, field.TYPE_UINT64)  # type: ignore[attr-defined]
                      else [i for i in INTEGERS if abs(i) < 2**31])


def readers(folder: Path) -> dict[str, Callable[[bytes, int], None]]:
    """For each kind: reads a mutant as the program would, and uses what was read a little."""
    import numpy as np

    import coexec
    from coexec import settings
    from coexec.api.models import bind, default_shapes, random_feeds
    from coexec.devices.opencl import program, tuning
    from coexec.devices.registry import gpu_device
    from coexec.partition.plan import Plan
    from coexec.partition.strategies.base import parse_strategy
    from coexec.profiles import from_yaml, load_profile
    from coexec.profiling.table import node_of, read_table

    settings.override(opencl="none", cache_dir=folder).__enter__()
    try:
        with settings.override(opencl=""):
            gpu = gpu_device().facts
    except coexec.errors.CoexecError:
        gpu = None
    good = coexec.load(seeds("model")[0])
    graph = bind(good, default_shapes(good))
    feeds, file = random_feeds(graph), folder / "case"
    with coexec.InferenceSession(graph, strategy="cpu") as session:
        expected = session.run(None, feeds)

    def written(data: bytes) -> Path:
        file.write_bytes(data)
        return file

    def model(data: bytes, number: int) -> None:
        found = coexec.load(data) if number % 3 else coexec.load(str(written(data)))
        bound = bind(found, default_shapes(found))
        if number % 25 == 0 and sum(v.type.nbytes for n in bound.nodes if n.is_static for v in n.outputs if v is not None) < 1 << 24:
            with coexec.InferenceSession(found, coexec.SessionOptions(shapes=default_shapes(found)), strategy="cpu") as session:
                session.run(None, random_feeds(found))

    def used(**more) -> None:
        """A session of the sound model, on both devices where there are two; every plan that is accepted gives the same answer."""
        with settings.override(opencl="none" if gpu is None else "", self_test=False), coexec.InferenceSession(graph, **more) as session:
            for found, right in zip(session.run(None, feeds), expected):
                if not np.allclose(found, right, rtol=1e-3, atol=1e-4):
                    raise AssertionError("a wrong answer")

    def profile(data: bytes, number: int) -> None:
        known = load_profile(written(data))
        parse_strategy("coexec").plan(graph, known, None)
        from_yaml(coexec.profiles.to_yaml(known))
        if number % 5 == 0:
            used(device_profile=known)

    def plan(data: bytes, number: int) -> None:
        made = Plan.load(written(data))
        str(made)
        made.check(graph)
        if number % 5 == 0:
            used(plan=made)

    def table(data: bytes, number: int) -> None:
        for row in read_table(written(data))[:20]:
            node_of(row)

    def tuned(data: bytes, number: int) -> None:
        if gpu is not None:
            tuning._read(written(data), gpu)

    def binary(data: bytes, number: int) -> None:
        program._read(written(data))

    return {"model": model, "profile": profile, "plan": plan, "table": table, "tuning": tuned, "program": binary}


def child(first: int, stop: int) -> None:
    """Reads cases one after the other; a line a case on stdout: `number kind outcome`, an outcome being ok, refused or what went wrong."""
    import logging
    import warnings

    from coexec.errors import CoexecError

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with tempfile.TemporaryDirectory() as folder:
        read = readers(Path(folder))
        for kind in SHARES:  # imports, the driver and the numerics' threads are not the mutants' doing
            try:
                read[kind](seeds(kind)[0], 25)
            except CoexecError:
                pass
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT_BYTES, size + LIMIT_BYTES))
        for number in range(first, stop):
            kind = kind_of(number)
            answers.write(f"{number} ")
            answers.flush()
            try:
                read[kind](mutant(number), number)
                outcome = "ok"
            except CoexecError as error:
                outcome = "refused" if "\n" not in str(error) and str(error) else "finding a message of several lines"
            except BaseException as error:
                last = traceback.extract_tb(error.__traceback__)
                at = next((f for f in reversed(last) if "coexec/" in f.filename), last[-1])
                outcome = " ".join(f"finding {type(error).__name__} at {Path(at.filename).name}:{at.lineno}: {error}".split())[:300]
            answers.write(f"{kind} {outcome}\n")


def drive(count: int, first: int, seconds: float, found: Path | None) -> dict:
    """Children one after the other until `count` cases are done or the time is over."""
    outcomes: Counter[str] = Counter()
    findings: dict[str, list[int]] = {}
    started, number, slowest = time.monotonic(), first, 0.0
    while number < first + count and time.monotonic() - started < seconds:
        process = subprocess.Popen([sys.executable, "-m", "tools.fuzz", "--child", str(number), str(first + count)], stdout=subprocess.PIPE,
                                   stderr=subprocess.DEVNULL)
        begun, pending, last, running = None, b"", time.monotonic(), True
        while running:
            ready, _, _ = select.select([process.stdout], [], [], 0.5)
            now = time.monotonic()
            if ready:
                chunk = os.read(process.stdout.fileno(), 1 << 16)
                if not chunk:
                    break
                slowest, last = max(slowest, now - last if begun is not None else 0.0), now
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    at, kind, outcome = line.decode().split(" ", 2)
                    number = int(at) + 1
                    outcomes[f"{kind} {outcome.split()[0]}"] += 1
                    if outcome.startswith("finding"):
                        findings.setdefault(re.sub(r"\d{3,}", "N", outcome[:160]), []).append(int(at))
                begun = int(pending) if pending.strip().isdigit() else None
            if now - last > (LIMIT_S if begun is not None else 60) or now - started > seconds:
                running = False
        process.kill()
        code = process.wait()
        if begun is not None and begun >= number and time.monotonic() - started < seconds:
            what = f"finding hang over {LIMIT_S:g} s" if code == -9 and not running else f"finding crash, exit code {code}"
            findings.setdefault(f"{kind_of(begun)} {what}", []).append(begun)
            outcomes[f"{kind_of(begun)} finding"] += 1
            number = begun + 1
    if found is not None and findings:
        found.mkdir(parents=True, exist_ok=True)
        for numbers in findings.values():
            (found / f"{numbers[0]}{SUFFIXES[kind_of(numbers[0])]}").write_bytes(mutant(numbers[0]))
    return {"cases": number - first, "seconds": round(time.monotonic() - started, 1), "slowest_s": round(slowest, 2),
            "outcomes": dict(sorted(outcomes.items())),
            "findings": {what: {"count": len(numbers), "first": numbers[:5]} for what, numbers in sorted(findings.items())}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="how many files (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3600, help="stop after this long (default: %(default)s)")
    parser.add_argument("--found", type=Path, help="folder for the first file of each finding")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return 0
    report = drive(options.count, options.first, options.seconds, options.found)
    print(json.dumps(report, indent=1))
    return 1 if report["findings"] else 0


if __name__ == "__main__":
    sys.exit(main())
