"""What drivers say wrongly of themselves: one row a driver, matched by a part of "platform | device | version", lower case."""

from __future__ import annotations

from typing import Any, NamedTuple


class Quirk(NamedTuple):
    """`facts` overrides what the driver answered wherever all of `parts` occur in its names."""

    parts: tuple[str, ...]
    why: str
    facts: dict[str, Any]


QUIRKS: tuple[Quirk, ...] = (
    Quirk(("llvmpipe",), "a software rasteriser, whatever device type it reports", {"emulated": True}),
    Quirk(("softpipe",), "a software rasteriser, whatever device type it reports", {"emulated": True}),
    Quirk(("oclgrind",), "a simulator that reports every device type at once", {"emulated": True}),
    Quirk(("portable computing language",), "compiles everything again to hand out a binary, and has a disk cache of its own",
          {"caches_programs": True}),
    Quirk(("portable computing language",), "keeps a block of 2 MiB for every program, whatever that holds", {"keeps_blocks": True}),
    Quirk(("rusticl", "panfrost"), "half-precision kernels give wrong results", {"without": {"float16"}}),
    Quirk(("mali-t",), "Midgard's double precision is emulated in firmware and may be missing at run time", {"without": {"float64"}}),
)


def overrides(*names: str) -> dict[str, Any]:
    """The facts to override for a device of these names; `without` is the union of element types to leave alone."""
    text = " | ".join(names).lower()
    found: dict[str, Any] = {}
    for quirk in QUIRKS:
        if all(part in text for part in quirk.parts):
            without = found.get("without", set()) | quirk.facts.get("without", set())
            found.update(quirk.facts)
            found["without"] = without
    return found
