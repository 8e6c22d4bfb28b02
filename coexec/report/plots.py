"""The report's plots as files, PNG and SVG, and those of sweeps, drawn by matplotlib (the extra `report`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import files
from ..errors import UsageError

_COLOURS = {"cpu": "#3573b1", "gpu": "#e0912f"}
_OTHER = "#5d9a63"


def check_available(option: str = "--plots") -> None:
    """Raises UsageError unless matplotlib is there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("drawing plots needs matplotlib", where=option, hint=f"pip install 'coexec[report]', or leave {option} out") from None


def check_name(path: Path, option: str = "--plot") -> None:
    """Raises UsageError unless a picture can have that name."""
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError("a plot's format follows from its name", where=option, found=f"'{path.name}'", expected="a name in .png, .svg or .pdf")


def save(story: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes every plot that the story has data for, as NAME.png and NAME.svg; makes the folder. Raises UsageError without matplotlib, OSError."""
    check_available()
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, draw in PLOTS.items():
        figure, (axes,) = bare_axes()
        if not draw(story, axes):
            continue
        for suffix in (".png", ".svg"):
            _draw(figure, folder / f"{name}{suffix}")
            written.append(folder / f"{name}{suffix}")
    return written


def bare_axes(width: float = 7.2, height: float = 4.4, panels: int = 1) -> tuple[Any, list[Any]]:
    """A figure that no window shows, and its axes side by side, without the upper and the right spine."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for one in axes:
        for spine in ("top", "right"):
            one.spines[spine].set_visible(False)
    return figure, axes


def sweep(points: Sequence[Sequence[float | None]], names: Sequence[str], lines: Mapping[str, Sequence[float]], title: str, path: Path) -> None:
    """A sweep's milliseconds over its first number, a line a strategy; of further numbers, a line for each of their values.

    Where co-execution is faster than the best single device is shaded. Raises OSError where the file cannot be written.
    """
    figure, (axes,) = bare_axes()
    rest = list(dict.fromkeys(tuple(p[1:]) for p in points))
    for strategy, values in lines.items():
        for at, others in enumerate(rest):
            mine = [(p[0], v) for p, v in zip(points, values) if tuple(p[1:]) == others and p[0] is not None]
            label = strategy + "".join(f", {n} {v:g}" for n, v in zip(names[1:], others) if v is not None)
            axes.plot(*zip(*mine), marker="o", markersize=3, color=_COLOURS.get(strategy, _OTHER if len(lines) <= 3 else None),
                      alpha=1 - 0.7 * at / max(1, len(rest)), label=label)
    single = [s for s in lines if s in _COLOURS]
    both = [s for s in lines if s not in _COLOURS]
    if single and both and len(rest) == 1:
        best = [min(lines[s][i] for s in single) for i in range(len(points))]
        shared = [min(lines[s][i] for s in both) for i in range(len(points))]
        axes.fill_between([p[0] for p in points], shared, best, where=[b > a for a, b in zip(shared, best)], color=_OTHER, alpha=0.2)
    values = [p[0] for p in points if p[0] is not None]
    axes.set(xlabel=names[0], ylabel="simulated ms", title=title, ylim=(0, None))
    if min(values) > 0 and max(values) > 8 * min(values):
        axes.set_xscale("log")
    axes.legend(frameon=False, fontsize="small")
    _draw(figure, path)


def _draw(figure: Any, path: Path) -> None:
    with files.written(path, "wb") as file:
        figure.savefig(file, format=path.suffix[1:].lower())


def _agreement(story: Mapping[str, Any], axes: Any) -> bool:
    rows = story["pieces"]
    if not rows:
        return False
    for unit, colour in _COLOURS.items():
        mine = [r for r in rows if r["device"] == unit]
        axes.plot([r["measured_us"] for r in mine], [r["predicted_us"] for r in mine], "o", color=colour, alpha=0.8, label=unit)
    axes.legend(frameon=False)
    ends = [f([v for r in rows for v in (r["measured_us"], r["predicted_us"])]) for f in (min, max)]
    axes.plot(ends, ends, "--", color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="measured us", ylabel="predicted us", title=f"{story['model']}: predicted against measured")
    return True


def _roofline(story: Mapping[str, Any], axes: Any) -> bool:
    points, roofs = story["roofline"]["points"], story["roofline"]["roofs"]
    if not points:
        return False
    spread = [p["flops_per_byte"] for p in points]
    for unit, colour in _COLOURS.items():
        mine = [p for p in points if p["device"] == unit]
        axes.plot([p["flops_per_byte"] for p in mine], [p["gflops"] for p in mine], "o", color=colour, alpha=0.8, label=unit)
        if unit in roofs:
            peak, wide = roofs[unit]["peak_gflops"], roofs[unit]["bandwidth_gbs"]
            way = sorted({min(spread), min(max(peak / wide, min(spread)), max(spread)), max(spread)})
            axes.plot(way, [min(peak, x * wide) for x in way], color=colour)
    axes.set(xscale="log", yscale="log", xlabel="flops per byte", ylabel="GFLOP/s", title=f"{story['model']}: roofline")
    axes.legend(frameon=False)
    return True


def _timeline(story: Mapping[str, Any], axes: Any) -> bool:
    lanes = [t for t in ("gpu", "host", "cpu") if any(s["track"] == t for s in story["timeline"])]
    for lane, track in enumerate(lanes):
        for category, colour in (("piece", _COLOURS.get(track, _OTHER)), ("wait", "#c9ced4"), ("copy", "#ad578c"), ("enqueue", "#66707a")):
            spans = [(s["start_us"] / 1e3, s["duration_us"] / 1e3) for s in story["timeline"] if s["track"] == track and s["category"] == category]
            axes.broken_barh(spans, (lane - 0.35, 0.7), facecolors=colour)
    axes.set(yticks=range(len(lanes)), yticklabels=lanes, xlabel="ms", title=f"{story['model']}: one run")
    return bool(lanes)


def _memory(story: Mapping[str, Any], axes: Any) -> bool:
    live = story["memory"].get("live_bytes")
    if not live:
        return False
    axes.fill_between(range(len(live)), [b / 1e6 for b in live], step="mid", color=_OTHER, alpha=0.5)
    axes.axhline(story["memory"]["arena_bytes"] / 1e6, linestyle="--", color="grey", linewidth=1)
    axes.set(xlabel="node, in order", ylabel="MB in use", ylim=(0, None), title=f"{story['model']}: activation memory")
    return True


def _errors(story: Mapping[str, Any], axes: Any) -> bool:
    rows = story["pieces"]
    if not rows:
        return False
    edges = [10 * i - 100 for i in range(21)]  # all beyond 100 % in the last, as on the page
    errors = {unit: [min(99.9, 100 * r["error"]) for r in rows if r["device"] == unit] for unit in _COLOURS}
    axes.hist(list(errors.values()), edges, color=list(_COLOURS.values()), stacked=True, label=list(errors))
    axes.set(xlabel="error in %, too long to the right", ylabel="pieces", title=f"{story['model']}: the predictor's error")
    axes.legend(frameon=False)
    return True


def _time(story: Mapping[str, Any], axes: Any) -> bool:
    units = list(story["time"])[::-1]
    left = [0.0] * len(units)
    for key, word, colour in (("compute_us", "compute", None), ("wait_us", "wait", "#c9ced4"), ("transform_us", "transform", "#ad578c"),
                              ("other_us", "start, idle", "#eceff1")):
        widths = [story["time"][u][key] / 1e3 for u in units]
        axes.barh(units, widths, 0.6, left, color=colour or [_COLOURS.get(u, _OTHER) for u in units], label=word)
        left = [at + w for at, w in zip(left, widths)]
    if units:
        axes.set(xlabel="ms of a run", title=f"{story['model']}: where the time goes")
        axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.08), fontsize="small")
    return bool(units)


def _alternatives(story: Mapping[str, Any], axes: Any) -> bool:
    rows = [a for a in story["alternatives"] if a["predicted_ms"] is not None or a.get("measured_ms") is not None][::-1]
    for at, row in enumerate(rows):
        axes.barh(at + 0.2, row.get("measured_ms") or 0, 0.38, color=_COLOURS["cpu"], label="measured" if at == 0 else None)
        axes.barh(at - 0.2, row["predicted_ms"] or 0, 0.38, color="#c9ced4", label="predicted" if at == 0 else None)
    axes.set(yticks=range(len(rows)), yticklabels=[r["strategy"] for r in rows], xlabel="ms", title=f"{story['model']}: the plan's alternatives")
    if rows:
        axes.legend(frameon=False)
    return bool(rows)


#: File name -> what draws it; False where there is nothing to draw.
PLOTS: dict[str, Callable[[Mapping[str, Any], Any], bool]] = {
    "timeline": _timeline,
    "agreement": _agreement,
    "errors": _errors,
    "time": _time,
    "roofline": _roofline,
    "memory": _memory,
    "alternatives": _alternatives,
}
