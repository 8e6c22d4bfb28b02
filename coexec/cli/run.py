"""Runs a model on the CPU and the GPU at once, and shows its outputs."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import CoexecError, InputError, UsageError
from . import options as shared
from .console import Console, milliseconds
from .progress import Progress
from .session import add_inputs, feeds, profile, session_options, shapes_of

HELP = "run a model"
EXAMPLES = (
    "coexec run model.onnx --random",
    "coexec run model.onnx --input x.npy -o out.npz",
    "coexec run text.onnx --input ids=ids.npy mask=mask.npy",
    "coexec run digits.onnx --image 7.jpg",
    "coexec run model.onnx --image cat.jpg --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225 --labels names.txt",
    "coexec run model.onnx --image pictures/ --labels names.txt --top 3  # every picture of a folder, one after another",
    "coexec run batch.onnx --random --shape x:8,3,224,224 --strategy fixed:gpu=0.4 --check",
    "coexec run model.onnx --random --plan plan.json --repeat 50",
    "coexec run model.onnx --random --verify --repeat 50                 # plan, measure, correct the plan; remembered for the next time",
    "coexec run model.onnx --random --repeat 1000 --adapt                # the plan follows what else the machine does",
    "coexec run model.onnx --random --force conv=cpu --max-gpu-share 0.5 --memory-limit 200M",
    "coexec run model.onnx --random --repeat 3 --trace t.json -v",
)
NOTES = """A picture becomes numbers from 0 to 1; networks trained on ImageNet mostly want --mean and --std. A folder of pictures is run one after
another; those that cannot be read are left out, said, and make the exit code 2. The first run on a machine measures it once and compiles
kernels; both are kept (`coexec cache info`). A GPU that fails or hangs costs its share of the work, not the answer, unless --strict."""


def arguments(parser: argparse.ArgumentParser) -> None:
    shared.model(parser)
    add_inputs(parser)
    group = parser.add_argument_group("how it runs")
    shared.planning(group)
    group.add_argument("--plan", metavar="F.json", help="replay a plan that `coexec plan -o` saved")
    group.add_argument(
        "--check", action="store_true", help="compare every operator with the unsplit reference, stop at the first that differs"
    )
    group.add_argument(
        "--strict", action="store_true", help="fail where an operator cannot run where the plan puts it, instead of using the CPU"
    )
    shared.measuring(group)
    group.add_argument(
        "--adapt",
        action="store_true",
        help="plan again, beside the runs, where they take longer or shorter than predicted: another load, a device that throttles (with --repeat)",
    )
    group.add_argument(
        "--retry", metavar="N", type=shared.count, default=0, help="try a GPU that failed or hung again, up to N times (default: %(default)s)"
    )
    group.add_argument(
        "--repeat", metavar="N", type=shared.positive, default=1, help="run N times and show how long it took (default: %(default)s)"
    )
    group = parser.add_argument_group("what comes out")
    group.add_argument("-o", "--output", metavar="OUT.npz", help="write every output, by name")
    group.add_argument(
        "--trace",
        metavar="T.json",
        help="write what every processor did when, for ui.perfetto.dev or chrome://tracing; with -v also a summary",
    )
    group.add_argument("--labels", metavar="FILE", help="class names, one a line, for the best classes")
    group.add_argument("--top", metavar="N", type=shared.positive, default=5, help="how many of the best classes (default: %(default)s)")


def execute(options: argparse.Namespace, console: Console) -> int:
    from ..api import InferenceSession, load
    from ..runtime.trace import Trace, check_writable, phase
    from . import outputs
    from .inputs import read_labels

    target = shared.writable(options.output)
    outputs.check_name(target)
    trace = None
    if options.trace is not None:
        check_writable(options.trace, "--trace")
        trace = Trace()
    if options.plan and options.verify:
        raise UsageError("a saved plan is replayed as it is", found="--verify beside --plan", expected="one or the other")
    if options.adapt and options.trace is not None:
        raise UsageError("traced runs take longer than others", found="--adapt beside --trace", expected="one or the other")
    if options.plan and options.adapt:
        raise UsageError("a saved plan is replayed as it is", found="--adapt beside --plan", expected="one or the other")
    if options.plan and (options.profile or shared.asks(options)):
        raise UsageError("a saved plan says everything", found="--plan beside --profile, --force, --max-gpu-share, --objective or --memory-limit",
                         expected="one or the other")
    labels = read_labels(options.labels) if options.labels else []
    with phase(trace, "import"):
        graph = load(options.model)
    with phase(trace, "inputs"):
        folder, left_out = _folder(options), {}
        given = _first(graph, folder, options, left_out) if folder else feeds(graph, options)
    with phase(trace, "profile"):
        known = None if options.plan else profile(options, [options.strategy], console)
    started = time.perf_counter()
    with ExitStack() as stack:
        with (preparing := Progress(console, "preparing")):
            settings = replace(session_options(options, shapes_of(given), preparing), enable_profiling=trace or False)
            session = stack.enter_context(
                InferenceSession(graph, settings, device_profile=known, strategy=options.strategy, plan=options.plan)
            )
        prepared_ms = (time.perf_counter() - started) * 1e3
        planned = session.is_prepared  # not where the inputs' values decide shapes: then the first run does
        if planned:
            describe_plan(session, console)
        with _written(session, options.trace, console):
            results, times = _repeat(session, given, options.repeat, preparing)
        if not planned:
            describe_plan(session, console)
        if trace is not None:  # the runs alone, without what it takes to note them down
            times = [s.duration_us / 1e3 for s in trace.of("run")][-len(times):]
        facts = _facts(session, options, prepared_ms)
        for change in session.replans:
            console.note(f"planned again {change}")
        others = _others(session, graph, folder, options, left_out, console)
    found = dict(zip((v.name for v in graph.outputs), results))
    facts["outputs"] = {name: outputs.describe(value, labels, options.top) for name, value in found.items()}
    if folder:
        every = {folder[0]: found, **others}
        facts["pictures"] = {file: {name: outputs.describe(v, labels, options.top) for name, v in one.items()} for file, one in every.items()}
        facts["left_out"] = left_out
        found = {f"{Path(file).name}/{name}": value for file, one in every.items() for name, value in one.items()}
    if len(times) > 1:
        from ..report.timing import summary

        facts["latency"] = summary(times)
    if target is not None:
        outputs.save(target, found)
        facts["written"] = str(target)
    for file, told in facts.get("pictures", {"": facts["outputs"]}).items():
        for name, said in told.items():
            for line in outputs.lines(f"{Path(file).name}: {name}" if file else name, said):
                console.result(line)
    if "latency" in facts:
        timed = facts["latency"]
        console.result(
            f"{options.repeat} runs: median {milliseconds(timed['p50_ms'])} ms, p90 {milliseconds(timed['p90_ms'])} ms, "
            f"p99 {milliseconds(timed['p99_ms'])} ms, least {milliseconds(timed['min_ms'])} ms"
        )
    if trace is not None:
        _tell_trace(trace, options.trace, facts, console)
    if target is not None:
        console.note(f"wrote {target}")
    if options.check:
        console.note("every operator agrees with the unsplit reference")
    for reason in left_out.values():
        console.note(f"left out: {reason}")
    console.emit(facts)
    return InputError.exit_code if left_out else 0


def _folder(options: argparse.Namespace) -> list[str]:
    """The pictures of the folder that --image names; nothing where it names a file."""
    from .inputs import pictures_in

    for words in options.image:
        name, equals, path = words.rpartition("=")
        if Path(words).is_dir():
            name, equals, path = "", "", words
        if Path(path).is_dir():
            if len(options.image) > 1 or options.input:
                raise UsageError("a folder of pictures is the only input", where="--image", found="other inputs beside it", hint="give one file each")
            return [f"{name}{equals}{file}" for file in pictures_in(path)]
    return []


def _first(graph: Any, folder: list[str], options: argparse.Namespace, left_out: dict[str, str]) -> dict[str, Any]:
    """The feeds of the first picture that can be read; those before it go from `folder` to `left_out`, with the reason. InputError where none can."""
    while True:
        try:
            return feeds(graph, _with_image(options, folder[0]))
        except InputError as error:
            left_out[folder[0]] = str(error)
            if len(folder) == 1:
                raise
            del folder[0]


def _with_image(options: argparse.Namespace, image: str) -> argparse.Namespace:
    """The options with that picture as the only one."""
    return argparse.Namespace(**{**vars(options), "image": [image]})


def _others(session: Any, graph: Any, folder: list[str], options: argparse.Namespace, left_out: dict[str, str], console: Console
            ) -> dict[str, dict[str, Any]]:
    """The outputs of every picture of the folder but the first, which was run already; those that cannot be read go to `left_out`."""
    found = {}
    with Progress(console, "pictures") as tick:
        for done, file in enumerate(folder[1:], 2):
            try:
                given = feeds(graph, _with_image(options, file))
            except InputError as error:
                left_out[file] = str(error)
                continue
            found[file] = dict(zip((v.name for v in graph.outputs), session.run(None, given)))
            tick(done, len(folder), Path(file).name)
    return found


@contextmanager
def _written(session: Any, path: str | None, console: Console) -> Iterator[None]:
    """Writes the trace, where there is one, when the block ends: also of runs that an error or Ctrl-C ended."""
    if path is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        try:
            session.end_profiling(path)
            console.note(f"wrote {path}, up to {type(error).__name__}")
        except (CoexecError, OSError) as lost:  # what ended the runs is more worth saying
            console.note(f"the trace is lost: {lost}")
        raise
    session.end_profiling(path)


def _tell_trace(trace: Any, path: str, facts: dict[str, Any], console: Console) -> None:
    """Where the trace is, and with -v what it shows."""
    from ..runtime.trace import summary
    from . import outputs

    facts["trace"], facts["trace_summary"] = path, summary(trace)
    for line in outputs.trace_lines(facts["trace_summary"]):
        console.detail(line)
    if trace.facts["untraced_runs"]:
        console.note(f"the trace is full: the last {trace.facts['untraced_runs']} run(s) are not in it")
    console.note(f"wrote {path}; open it in ui.perfetto.dev or chrome://tracing")


def _repeat(session: Any, given: dict[str, Any], times: int, preparing: Progress) -> tuple[list[Any], list[float]]:
    """The outputs, and the milliseconds of each run; with more than one, the first is a warm-up and not counted."""
    taken = []

    def run() -> list[Any]:
        started = time.perf_counter()
        results = session.run(None, given)
        taken.append((time.perf_counter() - started) * 1e3)
        return results

    with preparing:  # many drivers compile a kernel when it is first started
        results = run()
    if times == 1:
        return results, taken
    taken.clear()
    with Progress(preparing.console, "running", still=True) as tick:
        for turn in range(times):
            results = run()
            tick(turn + 1, times)
    return results, taken


def _facts(session: Any, options: argparse.Namespace, prepared_ms: float) -> dict[str, Any]:
    plan = session.plan
    return {
        "model": options.model,
        "profile": plan.profile,
        "strategy": plan.strategy,
        "threads": session.threads,
        "prepared_ms": prepared_ms,
        "predicted_ms": plan.predicted_ms,
        "peak_memory_bytes": session.peak_memory_bytes,
        "measured_memory_bytes": session.measured_memory_bytes,
        "copied_bytes_per_run": session.copied_bytes_per_run,
        "faults": [str(fault) for fault in session.faults],
        "replans": [asdict(change) for change in session.replans],
        "checked": options.check,
        "devices": {name: device.facts.name for name, device in session.devices.items()},
    }


def describe_plan(session: Any, console: Console) -> None:
    """Where the model runs: always what fell back to the reference, with -v what each device does, with -vv every operator."""
    plan = session.plan
    fallen = sorted({p.op_type for p in plan.partitions if p.note.startswith("fallback")})
    if fallen:
        count = sum(p.note.startswith("fallback") for p in plan.partitions)
        console.note(f"{count} operator(s) have no kernel here and run in ONNX's reference, which is slow: {', '.join(fallen)}")
    kept = [p for p in plan.partitions if p.note.startswith("gpu:")]
    if kept:
        console.detail("not on the gpu: " + "; ".join(sorted({f"{p.op_type}, {p.note[5:]}" for p in kept})[:8]))
    split = sum(len(set(p.devices)) > 1 for p in plan.partitions)
    console.detail(f"strategy {plan.strategy}: {split} of {len(plan.partitions)} operators are split, {session.threads} CPU thread(s)")
    for name, device in session.devices.items():
        console.detail(f"{name}: {device.facts.name}{' (emulated)' if device.facts.emulated else ''}")
    if console.verbose > 1:
        console.detail(str(plan))
