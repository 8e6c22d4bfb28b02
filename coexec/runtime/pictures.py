"""Images for the values that stay on the GPU: which value lies in which one. The device's queue works in order, so an image is free again
as soon as the last piece that reads it was started, and no host ever waits for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..graph.ir import Graph, Value
from ..partition.images import GPU, PIXEL
from ..regions import Region
from .schedule import Start, Step


class Size(NamedTuple):
    """Pixels of an image."""

    width: int
    height: int

    @property
    def nbytes(self) -> int:
        return self.width * self.height * PIXEL * 4

    @classmethod
    def of(cls, region: Region) -> Size:
        """What holds a (batch, channel, height, width) region."""
        batch, channels, height, width = region.shape
        return cls(-(-channels // PIXEL) * width, batch * height)


class Pictures(NamedTuple):
    """The images' sizes, and which of them each value lies in."""

    sizes: tuple[Size, ...]
    where: Mapping[Value, int]

    @property
    def nbytes(self) -> int:
        return sum(size.nbytes for size in self.sizes)


def place(graph: Graph, steps: Sequence[Step], kept: Mapping[Value, Region]) -> Pictures:
    """An image for every value of `kept`; an image that is large enough is used again. A pure function of the order of the GPU's pieces."""
    turns = {step.node.name: at for at, step in enumerate(s for s in steps if isinstance(s, Start) and s.device == GPU)}
    sizes: list[Size] = []
    busy_until: list[int] = []
    where: dict[Value, int] = {}
    for value, region in sorted(kept.items(), key=lambda item: turns[graph.producers[item[0]].name]):
        first, size = turns[graph.producers[value].name], Size.of(region)
        free = [i for i, s in enumerate(sizes) if s.width >= size.width and s.height >= size.height and busy_until[i] < first]
        found = min(free, key=lambda i: sizes[i].nbytes, default=None)
        if found is None:
            found = len(sizes)
            sizes.append(size)
            busy_until.append(0)
        busy_until[found] = max([first, *(turns[r.name] for r in graph.consumers[value] if r.name in turns)])
        where[value] = found
    return Pictures(tuple(sizes), where)
