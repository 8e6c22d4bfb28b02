"""The CPU's pieces run band by band of rows, so that what one writes is still in the cache when the next reads it.

A convolution, the depthwise one behind it and the one behind that pass over the whole of a map each; where the map between them is
larger than the cache, it goes to memory and comes back. Here every piece is done a few rows at a time, each band of a consumer as soon
as its rows of the producer are there. Nothing is computed twice: what lies between stays where the memory plan put it, so a band finds
the rows above its own where the band before left them. A pure function of the steps.

Whether it pays depends on the caches and on how well kernels do on a few rows: `Plan.band_bytes` says so, a plan checked by measurement
(`--verify`) tries it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..graph.ir import Node
from ..ops import op_for
from ..ops.fallback import is_fallback
from .schedule import Start, Step

#: Pieces that go by bands together. Longer chains keep more maps in the cache at once.
LONGEST = 3
#: Bands are cut so that what is between two pieces takes this share of the cache: weights and the rows read need room too.
SHARE = 3 / 8


def in_bands(steps: Sequence[Step], cache_bytes: int) -> list[Step]:
    """The steps with chains of host pieces cut into bands where what is between them is more than `cache_bytes`; `Start.after` counted anew."""
    out: list[Step] = []
    lies_at: list[int] = []  # where the last band of an old step lies now
    at = 0
    while at < len(steps):
        chain = _chain(steps, at, cache_bytes)
        if len(chain) < 2:
            step = steps[at]
            if isinstance(step, Start) and step.after >= 0:
                step = replace(step, after=lies_at[step.after])
            lies_at.append(len(out))
            out.append(step)
        else:
            out += _cut(chain, cache_bytes)
            lies_at += [len(out) - 1] * len(chain)
        at += len(chain) or 1
    return out


def _chain(steps: Sequence[Step], at: int, cache_bytes: int) -> list[Start]:
    """The host pieces from `at` on of which each reads the one before, as long as what is between them is too large for the cache."""
    chain: list[Start] = []
    for step in steps[at:at + LONGEST]:
        if not (isinstance(step, Start) and step.index < 0 and _by_rows(step.node)):
            break
        if chain:
            between = chain[-1].node.output
            if between is not step.node.inputs[0] or any(v is between for v in step.node.inputs[1:]) or _nbytes(chain[-1]) <= cache_bytes:
                break
        chain.append(step)
    return chain


def _by_rows(node: Node) -> bool:
    """True where any rows of the node's one output can be computed by themselves."""
    if not node.is_static or len(node.outputs) != 1 or len(node.output.shape) != 4 or is_fallback(op_for(node)):
        return False
    return any(axis.name == "height" and axis.multiple == 1 for axis in op_for(node).split_axes(node))


def _nbytes(step: Start) -> int:
    return step.region.size * step.node.output.dtype.itemsize


def _cut(chain: Sequence[Start], cache_bytes: int) -> list[Start]:
    """The chain's pieces in bands, in the order in which they run."""
    rows = [step.region[2] for step in chain]
    bands = min(rows[-1].size, -(-max(map(_nbytes, chain[:-1])) // max(1, int(SHARE * cache_bytes))))
    done = [r.start for r in rows]
    out = []
    for band in range(1, bands + 1):
        stops = [r.stop for r in rows]  # by the last band everything is done, also what nobody on this side reads
        if band < bands:
            stops[-1] = rows[-1].start + rows[-1].size * band // bands
            for n in range(len(chain) - 1, 0, -1):
                step, wanted = chain[n], (done[n], stops[n])
                needed = op_for(step.node).regions_read(step.node, step.region.replace(2, wanted))[0][2].stop if wanted[0] < wanted[1] else 0
                stops[n - 1] = min(rows[n - 1].stop, max(done[n - 1], needed))
        for n, step in enumerate(chain):
            if stops[n] > done[n]:
                out.append(replace(step, region=step.region.replace(2, (done[n], stops[n]))))
                done[n] = stops[n]
    return out
