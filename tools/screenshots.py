#!/usr/bin/env python3
"""Pictures of a report page in a headless Chromium, 1440 (also only its top) and 390 pixels wide: PAGE.html FOLDER. Needs `chromium` on the PATH."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

#: Name, width and height of each picture. A desk's whole page and its top; a phone's first screens.
SIZES = (("1440", 1440, 3700), ("top", 1440, 1450), ("390", 390, 2600))
#: Headless Chromium makes no window narrower than this: a frame of the wanted width stands in for the phone.
NARROWEST = 500


def main(page: str, folder: str) -> None:
    target = Path(page).resolve()
    with tempfile.TemporaryDirectory() as place:
        for name, width, height in SIZES:
            shown = target
            if width < NARROWEST:
                shown = Path(place) / "frame.html"
                style = f"width:{width}px;height:{height}px;border:0"
                shown.write_text(f'<body style="margin:0"><iframe src="{target.as_uri()}" style="{style}"></iframe>')
            file = Path(folder).resolve() / f"{target.stem}-{name}.png"
            subprocess.run(["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},{height}",
                            f"--screenshot={file}", shown.as_uri()], check=True, capture_output=True, timeout=120)
            print(file)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: screenshots.py PAGE.html FOLDER")
    main(*sys.argv[1:])
