"""The report in a real Chromium: as wide as a phone and as a desk, in light and in dark, nothing clipped, legible, and nothing fetched."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from PIL import Image

from coexec.cli.main import main
from coexec.profiles import save_profile

from .partition.boards import board

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import make_models  # noqa: E402
from browser import Page, chromium, find_chromium  # noqa: E402

#: A phone and a desk, in CSS pixels.
PHONE, DESK = (390, 844), (1440, 900)
#: What is smaller than this is hard to read, in CSS pixels as drawn.
LEAST_FONT_PX = 10.5
#: Of text to what is behind it, as WCAG 2 asks of text of this size (level AA).
LEAST_CONTRAST = 4.5

#: What the browser is asked, once for a page: everything below works on its answer.
LOOK = """(() => {
  const shown = e => e.checkVisibility() && e.getClientRects().length;
  const drawn = e => e.closest('svg');
  const opaque = c => { const m = c.match(/[\\d.]+/g); return m && (m.length < 4 || +m[3] > 0.5) ? m.slice(0, 3).map(Number) : null; };
  const behind = e => { for (let p = e; p; p = p.parentElement) { const c = opaque(getComputedStyle(p).backgroundColor); if (c) return c; }
    return [255, 255, 255]; };
  const beneath = e => { const b = e.getBoundingClientRect(); let found = null;  // the last shape drawn before a text under its middle
    for (const r of drawn(e).querySelectorAll('rect, text')) { if (r === e) break; if (r.tagName !== 'rect') continue;
      const c = r.getBoundingClientRect(), f = opaque(getComputedStyle(r).fill), x = b.x + Math.min(6, b.width / 2), y = b.y + b.height / 2;
      if (f && +getComputedStyle(r).opacity > 0.5 && c.x <= x && x <= c.right && c.y <= y && y <= c.bottom) found = f; }
    return found || behind(e); };
  const box = e => { const b = e.getBoundingClientRect(); return [b.x, b.y, b.right, b.bottom].map(v => Math.round(v * 10) / 10); };
  const texts = [];
  for (const e of document.body.querySelectorAll('*')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !shown(e) || e.tagName === 'title') continue;
    const s = getComputedStyle(e), scale = drawn(e) ? drawn(e).getScreenCTM().a : 1;
    texts.push({text: e.textContent.trim(), px: parseFloat(s.fontSize) * scale, box: box(e), svg: drawn(e) ? [...document.querySelectorAll('svg')]
      .indexOf(drawn(e)) : -1, ink: opaque(drawn(e) ? s.fill : s.color), paper: drawn(e) ? beneath(e) : behind(e),
      inside: drawn(e) ? box(drawn(e)) : null, scrolls: !!e.closest('.scroll')});
  }
  const wide = [...document.body.querySelectorAll('*')].filter(e => shown(e) && !e.closest('.scroll > *')
    && (e.getBoundingClientRect().right > innerWidth + 0.5 || e.getBoundingClientRect().left < -0.5)).map(e => e.outerHTML.slice(0, 90));
  return JSON.stringify({page: [document.documentElement.scrollWidth, innerWidth], texts, wide,
    paper: behind(document.body), first: (b => b && box(b))(document.querySelector('.graph .box')), graph: box(document.querySelector('.tall')),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id)});
})()"""


def packaged() -> bool:
    """Whether apt could install a Chromium here."""
    return shutil.which("apt-cache") is not None and subprocess.run(["apt-cache", "show", "chromium"], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def browser():
    program = find_chromium()
    if program is None:
        assert not packaged(), "install chromium; tools/test.sh does"
        pytest.skip("a Chromium that can open a test's files is missing, and this distribution packages none (Ubuntu's is a snap): "
                    "put google-chrome or another on PATH")
    with chromium(program) as page:
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of a run and one of a plan, of a network with branches."""
    folder = tmp_path_factory.mktemp("pages")
    onnx.save(make_models.make_model("googlenet", scale="tiny"), folder / "net.onnx")
    save_profile(board(), folder / "board.yaml")
    asked = ["report", str(folder / "net.onnx"), "--profile", str(folder / "board.yaml"), "-q"]
    assert main([*asked, "--strategy", "fixed:gpu=0.5", "--iters", "3", "-o", str(folder / "run.html")]) == 0
    assert main([*asked, "--no-run", "-o", str(folder / "plan.html")]) == 0
    return folder


@pytest.mark.parametrize("kind", ["program", "stand-in", "launcher"])
def test_a_snap_is_no_browser_for_tests(kind, tmp_path, monkeypatch):
    """Ubuntu has a script by that name that asks for a snap, or starts it; snapd links its own program by every name it serves."""
    program, snap = tmp_path / "chromium", tmp_path / "snap"
    said = {"program": "echo 150", "stand-in": "if ! [ -x /snap/bin/chromium ]; then exit 1; fi; echo 150", "launcher": "echo 150"}[kind]
    (snap if kind == "launcher" else program).write_text(f"#!/bin/sh\n{said}\n")
    if kind == "launcher":
        program.symlink_to(snap)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    assert find_chromium() == (str(program) if kind == "program" else None)


def look(browser: Page, file: Path, size: tuple[int, int], dark: bool = False) -> dict:
    browser.open(file.as_uri(), *size, dark=dark)
    browser.value("new Promise(r => setTimeout(r, 400))")
    return json.loads(browser.value(LOOK))


def contrast(a: list[float], b: list[float]) -> float:
    """The ratio of two colours' luminance, as WCAG 2 defines it."""
    def luminance(colour: list[float]) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.03928 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def overlaps(texts: list[dict]) -> list[tuple[str, str]]:
    """Pairs of labels of one drawing that lie on one another by more than their margins."""
    found = []
    for at, a in enumerate(texts):
        for b in texts[at + 1 :]:
            if a["svg"] == b["svg"] >= 0:
                across = min(a["box"][2], b["box"][2]) - max(a["box"][0], b["box"][0])
                down = min(a["box"][3], b["box"][3]) - max(a["box"][1], b["box"][1])
                if across > 1 and down > 4:  # a line's box is taller than its letters
                    found.append((a["text"], b["text"]))
    return found


def faults(seen: dict) -> list[str]:
    """What is wrong with how a page looks, a line each."""
    wrong = [f"the page is {seen['page'][0]} px wide in a window of {seen['page'][1]}"] if seen["page"][0] > seen["page"][1] else []
    wrong += [f"sticks out: {e}" for e in seen["wide"]]
    for text in seen["texts"]:
        if text["px"] < LEAST_FONT_PX:
            wrong.append(f"{text['px']:.1f} px is too small: {text['text']}")
        if contrast(text["ink"], text["paper"]) < LEAST_CONTRAST:
            wrong.append(f"contrast {contrast(text['ink'], text['paper']):.1f}: {text['text']}, {text['ink']} on {text['paper']}")
        if text["inside"] and not (text["inside"][0] - 1 <= text["box"][0] and text["box"][2] <= text["inside"][2] + 1):
            wrong.append(f"is cut off by its drawing: {text['text']}")
    return wrong + [f"lie on one another: {a} and {b}" for a, b in overlaps(seen["texts"])]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("name", ["run", "plan"])
def test_it_reads_well(browser, pages, name, size, dark):
    seen = look(browser, pages / f"{name}.html", size, dark)
    assert faults(seen) == []
    assert len(seen["texts"]) > 150 and (sum(seen["paper"]) < 200) is dark
    wanted = {"alternatives", "graph", "shares", "nodes"}
    assert wanted | ({"timeline", "time", "agreement", "errors", "roofline", "memory"} if name == "run" else set()) <= set(seen["ids"])
    assert seen["graph"][0] <= seen["first"][0] and seen["first"][2] <= seen["graph"][2], "the first node can be seen without scrolling"


@pytest.mark.parametrize("name", ["run", "plan"])
def test_it_asks_for_nothing_and_complains_of_nothing(browser, pages, name):
    look(browser, pages / f"{name}.html", DESK)
    assert [r["request"]["url"] for r in browser.told("Network.requestWillBeSent")] == [(pages / f"{name}.html").as_uri()]
    assert browser.told("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded") == []


def test_the_timeline_opens_wider_inside_the_page(browser, pages):
    look(browser, pages / "run.html", PHONE)
    browser.value("document.querySelector('details').open = true")
    seen = json.loads(browser.value(LOOK))
    assert faults(seen) == []
    widths = browser.value("[...document.querySelectorAll('.timeline')].map(s => s.clientWidth)")
    assert widths[1] == pytest.approx(5 * widths[0])


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_picture_of_the_whole_page(browser, pages, size, tmp_path):
    look(browser, pages / "run.html", size)
    browser.picture(tmp_path / "page.png")
    with Image.open(io.BytesIO((tmp_path / "page.png").read_bytes())) as seen:
        assert seen.width == size[0] and seen.height > 3 * size[1]
        colours = {colour for _, colour in seen.convert("RGB").getcolors(1 << 24)}
    assert {(0x35, 0x73, 0xB1), (0xE0, 0x91, 0x2F)} <= colours, "both processors are drawn"


SPOILT = [
    ('<div style="width:2000px">wide</div>', "the page is"),
    ('<p style="font-size:8px">tiny</p>', "too small: tiny"),
    ('<p style="color:#ccc">pale</p>', "contrast"),
    ('<svg viewBox="0 0 200 40" width="200"><text x="10" y="20">one</text><text x="14" y="22">two</text></svg>', "lie on one another: one and two"),
    ('<svg viewBox="0 0 200 40" width="200"><text x="190" y="20">a long label</text></svg>', "cut off by its drawing: a long label"),
]


@pytest.mark.parametrize("spoilt, said", SPOILT, ids=[s for _, s in SPOILT])
def test_these_tests_see_what_is_wrong(browser, pages, spoilt, said, tmp_path):
    (tmp_path / "page.html").write_text((pages / "plan.html").read_text().replace("<main>", f"<main>{spoilt}"))
    assert any(said in fault for fault in faults(look(browser, tmp_path / "page.html", DESK)))


def test_these_tests_see_requests_and_complaints(browser, pages, tmp_path):
    text = (pages / "plan.html").read_text().replace("<main>", '<main><img src="https://example.invalid/x.png" alt="">')
    (tmp_path / "page.html").write_text(text)
    look(browser, tmp_path / "page.html", DESK)
    assert browser.told("Log.entryAdded"), "the page's own policy forbids it, and the browser says so"
    (tmp_path / "page.html").write_text(text.replace("default-src 'none'", "default-src *"))
    look(browser, tmp_path / "page.html", DESK)
    assert len(browser.told("Network.requestWillBeSent")) == 2
