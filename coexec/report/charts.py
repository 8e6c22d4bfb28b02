"""The drawings of a report: the graph with every node's cut, the timeline, and the plots. Data in (see `story`), SVG or HTML text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from . import svg
from .svg import Axes, microseconds, tag, tip, words

#: Boxes of the graph, in pixels.
_BOX_W, _BOX_H, _GAP_X, _GAP_Y = 168.0, 40.0, 26.0, 24.0
_TRACKS = {"cpu": "CPU", "host": "CPU waits", "gpu": "GPU"}
_TIMELINE_W, _LABEL_W, _LANE_H, _LANE_GAP = 1130.0, 68.0, 34.0, 8.0


def device_class(device: str) -> str:
    """The style of what a device does; devices that have no colour of their own share one."""
    return device if device in ("cpu", "gpu") else "other"


def about(row: Mapping[str, Any]) -> str:
    """All that is known of a node, a line each."""
    cut = "whole" if row["axis"] is None or len(row["devices"]) < 2 else f"{row['axis']} {'|'.join(map(str, row['bounds']))}"
    lines = [f"{row['name']}: {row['op_type']} -> {row['output']}", f"cut: {cut} on {'|'.join(row['devices'])}"]
    if row["predicted_us"] is not None and not row["view"]:
        lines.append(f"predicted {microseconds(row['predicted_us'])}{' (a rough estimate)' if row['estimated'] else ''}")
    if row["measured_us"] is not None:
        lines.append(f"measured {microseconds(row['measured_us'])}")
    lines += [f"{unit} alone: {microseconds(us)} predicted" for unit, us in row["alone_us"].items() if us is not None and not row["view"]]
    return "\n".join([*lines, *([row["note"]] if row["note"] else [])])


def graph(rows: Sequence[Mapping[str, Any]]) -> str:
    """The model from top to bottom, a box per node, filled as it is cut: rows for a cut along the height, columns for any other."""
    places = _places(rows)
    if not places:
        return ""
    width = max(x for x, _ in places.values()) + _BOX_W + 40
    height = max(y for _, y in places.values()) + _BOX_H + 12
    wires = [_wire(places[source], places[row["name"]]) for row in rows for source in row["inputs"] if source in places]
    return svg.drawing(width, height, *wires, *(_box(row, *places[row["name"]]) for row in rows), label="the graph and how each node is cut",
                       class_="graph", fixed=True)


def first_box(rows: Sequence[Mapping[str, Any]]) -> float:
    """Where the middle of the first node's box is, in pixels from the drawing's left edge."""
    return _places(rows)[rows[0]["name"]][0] + _BOX_W / 2 if rows else 0.0


def _places(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """The top left corner of every node's box: a line per layer, in it each node as near to those it reads as there is room."""
    layers: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        layers.setdefault(row["layer"], []).append(row)
    column: dict[str, float] = {}
    for layer in sorted(layers):
        wanted = []
        for row in layers[layer]:
            above = [column[i] for i in row["inputs"] if i in column]
            wanted.append((sum(above) / len(above) if above else 0.0, row["name"]))
        wanted.sort(key=lambda w: w[0])
        placed = [wanted[0][0]] if wanted else []
        for at, _ in wanted[1:]:
            placed.append(max(at, placed[-1] + 1))
        aside = sum(p - at for p, (at, _) in zip(placed, wanted)) / len(wanted)  # what was pushed to the right, shared by the whole line
        column.update((name, at - aside) for at, (_, name) in zip(placed, wanted))
    left = min(column.values(), default=0.0)
    return {row["name"]: (12 + (column[row["name"]] - left) * (_BOX_W + _GAP_X), 8 + row["layer"] * (_BOX_H + _GAP_Y)) for row in rows}


def _wire(source: tuple[float, float], target: tuple[float, float]) -> str:
    x1, y1, x2, y2 = source[0] + _BOX_W / 2, source[1] + _BOX_H, target[0] + _BOX_W / 2, target[1]
    if y2 - y1 <= _GAP_Y + 1 or abs(x1 - x2) > 1:
        bend = min(40.0, (y2 - y1) / 2)
        path = f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"
    else:  # past the boxes between them
        side = x1 + _BOX_W / 2 + 16
        path = (f"M{x1 + 30:.1f} {y1:.1f}C{x1 + 30:.1f} {y1 + 14:.1f} {side:.1f} {y1 + 6:.1f} {side:.1f} {y1 + 30:.1f}"
                f"L{side:.1f} {y2 - 30:.1f}C{side:.1f} {y2 - 6:.1f} {x2 + 30:.1f} {y2 - 14:.1f} {x2 + 30:.1f} {y2:.1f}")
    return tag("path", d=path, class_="wire", fill="none")


def _box(row: Mapping[str, Any], x: float, y: float) -> str:
    parts = [tip(about(row))]
    if row["view"]:
        parts.append(tag("rect", x=x, y=y, width=_BOX_W, height=_BOX_H, rx=5, class_="box view"))
    else:
        at = 0.0
        for device, part in _fills(row):
            along = {"x": x, "y": y + at * _BOX_H, "width": _BOX_W, "height": part * _BOX_H} if row["axis"] == "height" else {
                "x": x + at * _BOX_W, "y": y, "width": part * _BOX_W, "height": _BOX_H}
            parts.append(tag("rect", class_=f"fill {device_class(device)}", **along))
            at += part
        parts.append(tag("rect", x=x, y=y, width=_BOX_W, height=_BOX_H, rx=2, class_="box", fill="none"))
    us = row["measured_us"] if row["measured_us"] is not None else row["predicted_us"]
    said = f"{row['op_type'][:17]}" + ("" if us is None or row["view"] else f" · {microseconds(us)}")
    return tag("g", *parts, words(x + 8, y + 17, said, "name"), words(x + 8, y + 32, cut_words(row), "cut"), class_="node")


def _fills(row: Mapping[str, Any]) -> list[tuple[str, float]]:
    """(device, share) of each piece, in order."""
    bounds = row["bounds"]
    if row["axis"] is None or not bounds or not bounds[-1]:
        return [(d, 1.0) for d in row["devices"][:1]]
    return [(d, (b - a) / bounds[-1]) for d, a, b in zip(row["devices"], bounds, bounds[1:]) if b > a]


def cut_words(row: Mapping[str, Any]) -> str:
    if row["view"]:
        return "in place: no work"
    parts = _fills(row)
    if len({d for d, _ in parts}) < 2:
        return f"whole on {parts[0][0]}" if parts else "empty"
    return f"{row['axis']}: " + " | ".join(f"{d} {100 * p:.0f}%" for d, p in parts)


def timeline(spans: Sequence[Mapping[str, Any]], run_us: float, stretch: float = 1.0) -> str:
    """The median run: a lane per processor, a slice per piece, wait and copy; `stretch` times as wide as a page. Names stay while lanes scroll."""
    if not spans or not run_us:
        return ""
    used = dict.fromkeys(s["track"] for s in spans)
    tracks = [t for t in _TRACKS if t in used] + sorted(t for t in used if t not in _TRACKS and not t.startswith("cpu:"))
    width = _TIMELINE_W * stretch
    left, right, top = 8.0, width - 30, 8.0
    scale = (right - left) / run_us
    bottom = top + len(tracks) * (_LANE_H + _LANE_GAP)
    parts, names = [], []
    for at in svg.nice(run_us, round(8 * stretch)):
        if at <= run_us:
            x = left + at * scale
            parts += [tag("line", x1=x, x2=x, y1=top, y2=bottom, class_="grid"),
                      words(x, bottom + 16, microseconds(at), "tick", "middle" if at else "start")]
    for lane, track in enumerate(tracks):
        y = top + lane * (_LANE_H + _LANE_GAP)
        parts.append(tag("rect", x=left, y=y, width=right - left, height=_LANE_H, class_="lane"))
        names.append(words(0, y + _LANE_H / 2 + 4, _TRACKS.get(track, track), "axis"))
        for span in (s for s in spans if s["track"] == track):
            style = f"fill {device_class(track)}" if span["category"] == "piece" else span["category"]
            more = "\n".join(t for t in (f"{span['category']}, {microseconds(span['duration_us'])} from {microseconds(span['start_us'])} on",
                                         span["kernel"] or "", "" if span["predicted_us"] is None else
                                         f"the node was predicted to take {microseconds(span['predicted_us'])}") if t)
            x, w = left + span["start_us"] * scale, max(0.6, span["duration_us"] * scale)
            said = span["name"][: int((w - 4) / 6.8)] if w > 40 else ""
            label = [words(x + 3, y + _LANE_H / 2 + 4, said, f"slice on-{style.rpartition(' ')[2]}")] if said else []
            parts.append(tag("g", tip(f"{span['name']}\n{more}"), tag("rect", x=x, y=y, width=w, height=_LANE_H, class_=style), *label))
    height = bottom + 22
    drawn = svg.drawing(width, height, *parts, label="what each processor did when", class_="timeline", fixed=True)
    beside = svg.drawing(_LABEL_W, height, *names, label="processors", fixed=True)
    return f'<div class="lanes">{beside}<div class="scroll" tabindex="0">{drawn}</div></div>'


def stacked(rows: Mapping[str, Sequence[tuple[str, float, str]]]) -> str:
    """HTML bars, each 100 % wide: row name -> (style, share of 1, words)."""
    lines = []
    for name, parts in rows.items():
        bar = "".join(f'<i class="{escape(style)}" style="width:{100 * share:.2f}%" title="{escape(said)}"></i>'
                      for style, share, said in parts if share > 0)
        said = "".join(f'<span><b class="key {escape(style)}"></b>{escape(said)}</span>' for style, share, said in parts if share > 0)
        lines.append(f'<div class="bar"><em>{escape(name)}</em><div class="track">{bar}</div><p class="legend">{said}</p></div>')
    return "".join(lines)


def ranked(rows: Sequence[tuple[str, float | None, float | None, bool]]) -> str:
    """HTML bars side by side: (name, predicted ms, measured ms, chosen); as long as their times."""
    longest = max((v for _, *values, _ in rows for v in values if v is not None), default=0.0)
    lines = []
    for name, predicted, measured, chosen in rows:
        bars = "".join(
            f'<div class="measure"><i class="{style}" style="width:calc((100% - 145px) * {value / longest:.4f})"></i>'
            f"<span>{microseconds(value * 1e3)} {what}</span></div>"
            for value, style, what in ((measured, "both" if chosen else "plain", "measured"), (predicted, "ghost", "predicted"))
            if value is not None and longest > 0
        )
        style, more = (" chosen", " (this plan)") if chosen else ("", "")
        lines.append(f'<div class="bar{style}"><em>{escape(name)}{more}</em>{bars}</div>')
    return "".join(lines)


def scatter(pieces: Sequence[Mapping[str, Any]]) -> str:
    """Predicted against measured, a point per piece, on the diagonal where they agree; the band is 25 % around it."""
    if not pieces:
        return ""
    values = [p[key] for p in pieces for key in ("measured_us", "predicted_us")]
    ticks = svg.decades(min(values), max(values))
    axes = Axes(ticks, ticks, ("measured us", "predicted us"), log=True)
    ends = ticks[0], ticks[-1]
    band = [(ends[0], ends[0] * 1.25), (ends[1], ends[1] * 1.25), (ends[1], ends[1] / 1.25), (ends[0], ends[0] / 1.25)]
    shape = tag("polygon", points=" ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in band), class_="band")
    dots = [tag("circle", tip(f"{p['node']} on {p['device']}: {p['op_type']}\npredicted {microseconds(p['predicted_us'])}, "
                              f"measured {microseconds(p['measured_us'])}{', a rough estimate' if p['estimated'] else ''}"),
                cx=axes.x(p["measured_us"]), cy=axes.y(p["predicted_us"]), r=4.0, class_=f"dot {device_class(p['device'])}") for p in pieces]
    return axes.draw(shape, axes.line([(e, e) for e in ends], "diagonal"), *dots, label="predicted against measured time of every piece")


def roofline(data: Mapping[str, Any]) -> str:
    """GFLOP/s reached over flops per byte, a point per piece; the roofs are what the profile says of peak and bandwidth."""
    points, roofs = data["points"], data["roofs"]
    if not points:
        return ""
    xs = svg.decades(min(p["flops_per_byte"] for p in points), max(p["flops_per_byte"] for p in points))
    highs = [p["gflops"] for p in points] + [r["peak_gflops"] for r in roofs.values()]
    axes = Axes(xs, svg.decades(max(1e-3, min(p["gflops"] for p in points)), max(highs)), ("flops per byte", "GFLOP/s"), log=True)
    lines = []
    for unit, roof in roofs.items():
        knee = roof["peak_gflops"] / roof["bandwidth_gbs"]
        way = [(x, min(roof["peak_gflops"], x * roof["bandwidth_gbs"])) for x in sorted({xs[0], min(max(knee, xs[0]), xs[-1]), xs[-1]})]
        lines.append(axes.line(way, f"roof {device_class(unit)}"))
    dots = [tag("circle", tip(f"{p['node']} on {p['device']}: {p['op_type']}\n{p['gflops']:.3g} GFLOP/s at {p['flops_per_byte']:.3g} flops per byte, "
                              f"{microseconds(p['us'])}"), cx=axes.x(p["flops_per_byte"]), cy=axes.y(p["gflops"]), r=4.0,
                class_=f"dot {device_class(p['device'])}") for p in points]
    return axes.draw(*lines, *dots, label="how near each piece comes to its device's limits")


def memory(data: Mapping[str, Any], names: Sequence[str]) -> str:
    """Bytes in use while each node runs, below the arena that was allocated."""
    live = data.get("live_bytes") or []
    if not live:
        return ""
    ys = svg.nice(max(data["arena_bytes"], *live) / 1e6, 4)
    axes = Axes([0.0, *[t for t in svg.nice(len(live), 5)[1:] if t < 0.93 * len(live)], float(len(live))], ys, ("node, in order", "MB in use"))
    edge = [(at + side, nbytes / 1e6) for at, nbytes in enumerate(live) for side in (0, 1)]
    shape = tag("polygon", points=" ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in [(0, 0), *edge, (len(live), 0)]), class_="area")
    hover = [tag("rect", tip(f"{name}: {svg.size(nbytes)}"), x=axes.x(at), y=axes.top, width=axes.x(1) - axes.x(0), height=axes.bottom - axes.top,
                 class_="clear") for at, (name, nbytes) in enumerate(zip(names, live))]
    arena = data["arena_bytes"] / 1e6
    return axes.draw(shape, axes.line([(0, arena), (len(live), arena)], "diagonal"), words(axes.right - 4, axes.y(arena) - 5,
                     f"arena {arena:.2f} MB", "tick", "end"), *hover, label="activation memory while each node runs")


def histogram(pieces: Sequence[Mapping[str, Any]]) -> str:
    """How far the predictions were off: pieces by signed error in steps of 10 %, all beyond 100 % in the last."""
    if not pieces:
        return ""
    bins = [0] * 20
    for piece in pieces:
        bins[min(19, max(0, int((piece["error"] + 1) * 10)))] += 1
    axes = Axes([-100.0, -50.0, 0.0, 50.0, 100.0], svg.nice(max(bins), 4), ("predicted too short  ·  error in %  ·  too long", "pieces"))
    bars = [tag("rect", tip(f"{n} piece(s) from {10 * i - 100} to {10 * i - 90} %"), x=axes.x(10 * i - 100) + 1, y=axes.y(n),
                width=axes.x(10) - axes.x(0) - 2, height=axes.bottom - axes.y(n), class_="fill both") for i, n in enumerate(bins) if n]
    return axes.draw(*bars, label="errors of the predictions")
