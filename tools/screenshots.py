#!/usr/bin/env python3
"""Pictures of a report page in a headless Chromium, 1440 (also only its top) and 390 pixels wide: PAGE.html FOLDER. Needs Pillow."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))

from browser import chromium, find_chromium  # noqa: E402

#: Name, width, and height of each picture; None for the whole page.
SIZES = (("1440", 1440, None), ("top", 1440, 1400), ("390", 390, None))


#: As many as a page of flat colours and smooth letters shows.
COLOURS = 256


def main(page: str, folder: str) -> None:
    program = find_chromium()
    if program is None:
        sys.exit("there is no Chromium here: apt install chromium")
    target = Path(page).resolve()
    with chromium(program) as browser:
        for name, width, height in SIZES:
            browser.open(target.as_uri(), width, 900)
            file = Path(folder) / f"{target.stem}-{name}.png"
            browser.picture(file, height)
            with Image.open(file) as seen:  # flat colours: a palette of those farthest apart says it all
                seen.convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)
            print(file)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: screenshots.py PAGE.html FOLDER")
    main(*sys.argv[1:])
