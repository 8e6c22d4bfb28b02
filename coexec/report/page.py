"""The report as one HTML file: no script, nothing fetched (the page's own policy forbids it), readable on a phone and on a desk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from . import charts
from .story import untraced_ms
from .svg import microseconds, size

#: Nodes in the table; the graph shows all.
TABLE_ROWS = 40
#: How many times as wide as the page the timeline is offered, too.
CLOSER = 5.0

_STYLE = """
:root{--paper:#fbfaf7;--card:#fff;--ink:#1d2329;--soft:#66707a;--line:#dfe2e5;--cpu:#3573b1;--gpu:#e0912f;--both:#5d9a63;--best:#37763e;
--other:#8c7fb5;--wait:#c9ced4;--copy:#ad578c;--idle:#eceff1;--cpu-soft:#bcd7f0;--gpu-soft:#f8d7a6;--other-soft:#d8d1ea}
@media (prefers-color-scheme:dark){:root{--paper:#15181c;--card:#1e2227;--ink:#e8eaed;--soft:#9aa4ae;--line:#353b42;--wait:#4b535c;
--idle:#2a2f35;--best:#8fce96;--cpu-soft:#27496b;--gpu-soft:#6b4a1c;--other-soft:#453c63}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
main{max-width:1320px;margin:0 auto;padding:20px 16px 60px}
h1{font-size:1.6rem;line-height:1.2;margin:.2em 0;overflow-wrap:anywhere}h2{font-size:1.1rem;margin:0 0 .3em}
p{margin:.3em 0 .8em;max-width:75ch}.soft,figcaption{color:var(--soft);font-size:.87rem;overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;margin:16px 0;min-width:0}
.grid2{display:grid;grid-template-columns:1fr;gap:16px}.grid2 section{margin:0}
@media (min-width:900px){.grid2{grid-template-columns:1fr 1fr}main{padding:32px 32px 80px}}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(140px,1fr));gap:12px;margin:16px 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 14px}
.tile b{display:block;font-size:clamp(1.15rem,5.2vw,1.45rem);line-height:1.2;white-space:nowrap;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.82rem}
.scroll{overflow:auto;max-width:100%;-webkit-overflow-scrolling:touch}.tall{max-height:680px;border:1px solid var(--line);border-radius:6px}
.tall{position:relative;scroll-snap-type:x mandatory}.tall svg{margin:0 auto}
.start{position:absolute;top:0;width:2px;height:2px;animation:start .3s}@keyframes start{from,to{scroll-snap-align:center}}
.lanes{display:flex;gap:4px}.lanes>svg{flex:none}.lanes .scroll{flex:1;min-width:0}
details{margin:8px 0 0}summary{cursor:pointer;color:var(--soft);font-size:.87rem}
svg{display:block;max-width:none}section>svg{width:100%;height:auto;max-width:640px;margin:0 auto}
svg text{font-size:12px;fill:var(--ink);font-family:inherit}svg .tick,svg .cut{fill:var(--soft);font-size:11px}svg .axis{fill:var(--soft)}
@media (max-width:640px){section>svg text,section>svg .tick{font-size:16px}}
.node .name{font-weight:600}.node .cut{fill:var(--ink);opacity:.75}svg .slice{font-size:11px;pointer-events:none}
svg .on-gpu,svg .on-other{fill:#1d2329}svg .on-cpu,svg .on-copy{fill:#fff}svg .on-enqueue{fill:var(--card)}
svg .grid{stroke:var(--line)}
.wire{stroke:var(--soft);stroke-opacity:.55}.box{stroke:var(--soft);stroke-opacity:.5}.box.view{fill:none;stroke-dasharray:4 3}
.lane{fill:var(--idle)}.clear{fill:transparent}.diagonal{stroke:var(--soft);stroke-dasharray:5 4}.band{fill:var(--both);opacity:.3}
.area{fill:var(--both);opacity:.45}
.graph .fill.cpu{fill:var(--cpu-soft)}.graph .fill.gpu{fill:var(--gpu-soft)}.graph .fill.other{fill:var(--other-soft)}
.fill.cpu,.dot.cpu{fill:var(--cpu)}.fill.gpu,.dot.gpu{fill:var(--gpu)}.fill.both,.dot.both{fill:var(--both)}.fill.other,.dot.other{fill:var(--other)}
.timeline .fill{stroke:var(--card);stroke-width:.4}.dot{opacity:.8}.roof.cpu{stroke:var(--cpu)}.roof.gpu{stroke:var(--gpu)}.roof{stroke-width:2}
rect.wait{fill:var(--wait)}rect.copy{fill:var(--copy)}rect.enqueue{fill:var(--soft)}
.bar{margin:0 0 14px}.bar em{font-style:normal;font-weight:600;font-size:.9rem;overflow-wrap:anywhere}
.track{display:flex;height:20px;border-radius:4px;overflow:hidden;background:var(--idle);margin:3px 0}.track i{display:block}
.measure{display:flex;align-items:center;gap:8px;margin:2px 0}.measure i{height:14px;border-radius:3px;min-width:2px;flex:none}
.measure span{font-size:.82rem;color:var(--soft);white-space:nowrap;font-variant-numeric:tabular-nums}.chosen em{color:var(--best)}
i.cpu,b.cpu{background:var(--cpu)}i.gpu,b.gpu{background:var(--gpu)}i.both,b.both{background:var(--both)}i.other,b.other{background:var(--other)}
i.plain{background:var(--soft);opacity:.6}i.wait,b.wait{background:var(--wait)}b.enqueue{background:var(--soft)}\
i.copy,b.copy{background:var(--copy)}i.idle,b.idle{background:var(--idle)}
b.idle{border:1px solid var(--line)}i.ghost{background:transparent;border:1.5px dashed var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:4px 14px;margin:0 0 6px;font-size:.82rem;color:var(--soft);max-width:none}
.key{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:5px;vertical-align:-1px}
table{border-collapse:collapse;font-size:.85rem;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:4px 10px 4px 0;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--soft);font-weight:600}th:first-child,td:first-child,.left{text-align:left}
td.left:last-child,th.left:last-child{padding-left:14px}td:first-child{max-width:260px;overflow:hidden;text-overflow:ellipsis}
@media (max-width:640px){th,td{padding-right:6px}}
@media print{.tall{max-height:none}section{break-inside:avoid}}
"""
_KEYS = ('<p class="legend"><span><b class="key cpu"></b>CPU</span><span><b class="key gpu"></b>GPU</span>{more}</p>')


def render(story: Mapping[str, Any]) -> str:
    """The whole page of what `story.tell` gives. Every word of a model, profile or driver is escaped."""
    title = f"{story['model']}: how it is cut, and what it takes"
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    body = "".join(_sections(story))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{body}</main></body></html>\n"
    )


def _sections(story: Mapping[str, Any]) -> Iterator[str]:
    rows, ran = story["nodes"], bool(story["timeline"])
    yield _head(story)
    yield _tiles(story)
    if story["alternatives"]:
        yield _section("alternatives", "The plan and its alternatives", "Whole runs. "
                       "Solid bars were measured here, in turns; dashed ones are the cost model's.",
                       charts.ranked([(a["strategy"], a["predicted_ms"], a.get("measured_ms"), a["strategy"] == story["strategy"])
                                      for a in story["alternatives"]]))
    if ran:
        keys = (("wait", "wait"), ("copy", "copy"), ("enqueue", "starting the GPU"))
        more = "".join(f'<span><b class="key {k}"></b>{word}</span>' for k, word in keys)
        yield _section("timeline", "Both processors in one run",
                       "The traced run of median length; tracing adds a little. Rest the pointer on a slice for its kernel and prediction.",
                       _KEYS.format(more=more) + charts.timeline(story["timeline"], story["measured_ms"] * 1e3)
                       + f"<details><summary>{CLOSER:g} times as wide, to scroll through</summary>"
                       + charts.timeline(story["timeline"], story["measured_ms"] * 1e3, CLOSER) + "</details>")
    yield _section("graph", "The graph, and where every node is cut",
                   "A box is the node's output: cut into rows along the height, into columns along any other axis, "
                   "in proportion. Times are " + ("measured." if ran else "predicted.") + " Dashed boxes are done in place and cost nothing.",
                   _KEYS.format(more="") + '<div class="scroll tall" tabindex="0">'  # a page that is narrower is scrolled to the first node
                   + f'<i class="start" style="left:{charts.first_box(rows):.0f}px"></i>' + charts.graph(rows) + "</div>")
    cards = [c for c in (_time(story), _shares(story), _agreement(story), _errors(story), _roofline(story), _memory(story)) if c]
    if cards:
        yield f'<div class="grid2">{"".join(cards)}</div>'
    yield _table(story)
    yield _foot(story)


def _section(name: str, title: str, said: str, body: str) -> str:
    return f'<section id="{name}"><h2>{escape(title)}</h2><p class="soft">{escape(said)}</p>{body}</section>'


def _head(story: Mapping[str, Any]) -> str:
    shapes = ", ".join(f"{k} {'x'.join(map(str, v)) or 'scalar'}" for k, v in story["shapes"].items())
    board = f"profile {story['profile']}" if story["profile"] else "no profile"
    ran = "" if story["timeline"] else " · planned, not run"
    if story["foreign"]:
        ran += " · measured here, predicted for that other board: the two are not of one machine"
    return f'<h1>{escape(story["model"])}</h1><p class="soft">strategy {escape(story["strategy"])} · {escape(board)} · {escape(shapes)}{ran}</p>'


def _tiles(story: Mapping[str, Any]) -> str:
    rows = story["nodes"]
    split = sum(len(set(r["devices"])) > 1 for r in rows)
    tiles: list[tuple[str, str]] = []
    untraced = untraced_ms(story)
    if untraced is not None:
        tiles.append((microseconds(untraced * 1e3), "measured, median"))
    elif story["measured_ms"] is not None:
        tiles.append((microseconds(story["measured_ms"] * 1e3), f"measured while traced, median of {story['runs']}"))
    if story["predicted_ms"] is not None:
        tiles.append((microseconds(story["predicted_ms"] * 1e3), "predicted"))
    found = {a["strategy"]: a.get("measured_ms") or a["predicted_ms"] for a in story["alternatives"]}
    single = [found[name] for name in ("cpu", "gpu") if found.get(name)]
    if single and found.get(story["strategy"]) and story["strategy"] not in ("cpu", "gpu"):
        tiles.append((f"{min(single) / found[story['strategy']]:.2f}x", "as fast as the best device"))
    tiles.append((f"{split} of {len(rows)}", "operators split"))
    tiles.append((_work_words(sum(r["flops"] for r in rows)), "floating-point work"))
    if story["memory"]:
        tiles.append((size(story["memory"]["arena_bytes"]), "activation memory"))
    return '<div class="tiles">' + "".join(f'<div class="tile"><b>{escape(v)}</b><span>{escape(w)}</span></div>' for v, w in tiles) + "</div>"


def _work_words(flops: float) -> str:
    """Floating-point operations in words."""
    return f"{flops / 1e9:.3g} GFLOP" if flops >= 1e9 else f"{flops / 1e6:.3g} MFLOP"


def _time(story: Mapping[str, Any]) -> str:
    if not story["time"]:
        return ""
    bars = {}
    for unit, spent in story["time"].items():
        total = sum(spent.values()) or 1.0
        kinds = (("compute", charts.device_class(unit), "compute_us"), ("wait", "wait", "wait_us"), ("transform", "copy", "transform_us"),
                 ("start, idle", "idle", "other_us"))
        bars[unit.upper()] = [(style, spent[key] / total, f"{word} {microseconds(spent[key])} ({100 * spent[key] / total:.0f} %)")
                              for word, style, key in kinds]
    return _section("time", "Where the time goes", "Per processor, mean over the traced runs. Transform is copying in, out, and between memories.",
                    charts.stacked(bars))


def _shares(story: Mapping[str, Any]) -> str:
    names = {"flops": "Arithmetic", "operators": "Operators", "time": "Busy time"}
    bars = {names[what]: [(charts.device_class(d), part, f"{d} {100 * part:.0f} %") for d, part in by.items()]
            for what, by in story["shares"].items()}
    return _section("shares", "Share per device", "Of the floating-point operations, of the operators, and of the time that either was busy.",
                    charts.stacked(bars)) if bars else ""


def _agreement(story: Mapping[str, Any]) -> str:
    drawn = charts.scatter(story["pieces"])
    return _section("agreement", "Predicted against measured", "A point per piece, both axes logarithmic; the band is 25 % around agreement. "
                    "A node's time in the plan also holds starting and waiting, which are predicted apart.", drawn) if drawn else ""


def _errors(story: Mapping[str, Any]) -> str:
    facts, drawn = story["predictor"], charts.histogram(story["pieces"])
    if not drawn:
        return ""
    return _section("errors", "The predictor's error", f"{facts['count']} pieces: {100 * facts['within_10pct']:.0f} % within 10 %, "
                    f"{100 * facts['within_25pct']:.0f} % within 25 %, mean absolute error {100 * facts['mape']:.0f} %, median "
                    f"{100 * facts['median_error']:+.0f} %. Measured in place, tracing included; coexec evaluate judges more carefully.", drawn)


def _roofline(story: Mapping[str, Any]) -> str:
    drawn = charts.roofline(story["roofline"])
    roofs = "; ".join(f"{u} {r['peak_gflops']:.3g} GFLOP/s, {r['bandwidth_gbs']:.3g} GB/s" for u, r in story["roofline"]["roofs"].items())
    return _section("roofline", "Roofline", "A point per piece. Roofs are the profile's: " + (roofs or "none is known")
                    + ". Winograd kernels multiply less than the convolution they compute, so they may rise above.", drawn) if drawn else ""


def _memory(story: Mapping[str, Any]) -> str:
    facts = story["memory"]
    drawn = charts.memory(facts, [r["name"] for r in story["nodes"]]) if facts else ""
    if not drawn:
        return ""
    said = ("Activations in use while each node runs, one after another. The arena is larger, since what a GPU piece touches is kept until it was "
            f"waited for; without any sharing it would be {size(facts['sum_bytes'])}. Weights are not counted.")
    return _section("memory", "Memory over time", said, drawn)


def _table(story: Mapping[str, Any]) -> str:
    rows = [r for r in story["nodes"] if not r["view"]]
    rows = sorted(rows, key=lambda r: -(r["measured_us"] or r["predicted_us"] or 0))
    units = list(dict.fromkeys(u for r in rows for u in r["alone_us"]))
    head = ["node", "operator", "measured", "predicted", *(f"{u} alone" for u in units), "cut"]
    lines = []
    for r in rows[:TABLE_ROWS]:
        mark = "~" if r["estimated"] and r["predicted_us"] is not None else ""
        cells = [r["name"], r["op_type"], microseconds(r["measured_us"]), mark + microseconds(r["predicted_us"]),
                 *(microseconds(r["alone_us"].get(u)) for u in units), charts.cut_words(r)]
        styles = ("", " class=left", *[""] * (len(cells) - 3), " class=left")
        lines.append("<tr>" + "".join(f'<td{s} title="{escape(c)}">{escape(c)}</td>' for s, c in zip(styles, cells)) + "</tr>")
    cut = f"The {TABLE_ROWS} slowest of {len(rows)}. " if len(rows) > TABLE_ROWS else ""
    header = "".join(f'<th{" class=left" if i in (1, len(head) - 1) else ""}>{escape(h)}</th>' for i, h in enumerate(head))
    return _section("nodes", "Node by node", f"{cut}Times of one device alone are predicted; ~ marks a rough estimate.",
                    f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>')


def _foot(story: Mapping[str, Any]) -> str:
    facts = story["facts"]
    devices = "; ".join(f"{n}: {d['name']}{' (emulated on the CPU)' if d.get('emulated') else ''}, {d['driver']}"
                        for n, d in facts.get("devices", {}).items())
    threads = f"{facts['threads']} CPU thread(s)" if "threads" in facts else ""
    said = " · ".join(str(w) for w in (devices, threads, facts.get("host"), facts.get("started"),
                                       f"coexec {story.get('coexec') or facts.get('coexec', '')}", f"model {story['model_digest']}") if w)
    return f'<p class="soft">{escape(said)}</p>'
