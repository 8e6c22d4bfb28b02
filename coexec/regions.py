"""Half-open integer boxes of a tensor, and the arithmetic of halos.

The bottom of the house: operators describe what they need in these terms, and everything above cuts with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


#: A named tuple of a tuple of as many fields, in half the time: planners make a hundred thousand of them.
_made = tuple.__new__


class Interval(NamedTuple):
    """The integers start <= i < stop; empty where stop <= start."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start if self.stop > self.start else 0

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)

    def __and__(self, other: Interval) -> Interval:
        return Interval(max(self.start, other.start), min(self.stop, other.stop))

    def hull(self, other: Interval) -> Interval:
        """The smallest interval that holds both."""
        if not self.size:
            return other
        return self if not other.size else Interval(min(self.start, other.start), max(self.stop, other.stop))

    def __contains__(self, other: object) -> bool:
        return isinstance(other, Interval) and (not other.size or (self.start <= other.start and other.stop <= self.stop))

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


class Region(tuple):
    """A box: one Interval per axis of a tensor. `Region.whole(shape)` is the tensor itself."""

    __slots__ = ()

    def __new__(cls, intervals: Sequence[Interval | tuple[int, int]] = ()):
        return super().__new__(cls, [i if type(i) is Interval else Interval(*i) for i in intervals])

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Region:
        return tuple.__new__(cls, [_made(Interval, (0, n)) for n in shape])

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(i.size for i in self)

    @property
    def size(self) -> int:
        """Number of elements; 1 for a scalar's region."""
        count = 1
        for start, stop in self:
            if stop <= start:
                return 0
            count *= stop - start
        return count

    @property
    def slices(self) -> tuple[Any, ...]:
        """The index of this region in an array of everything. It ends in `...`, with which NumPy shows a number, too, in place."""
        return (*(slice(i.start, i.stop) for i in self), ...)

    def replace(self, dim: int, interval: Interval | tuple[int, int]) -> Region:
        return tuple.__new__(Region, (*self[:dim], interval if type(interval) is Interval else Interval(*interval), *self[dim + 1:]))

    def __and__(self, other: Region) -> Region:
        return tuple.__new__(Region, [a & b for a, b in zip(self, other)])

    def covers(self, other: Region) -> bool:
        return not other.size or all(b in a for a, b in zip(self, other))

    def minus(self, other: Region) -> Iterator[Region]:
        """Disjoint boxes that together are this region without `other`."""
        common = self & other
        if not common.size:
            if self.size:
                yield self
            return
        rest = self
        for dim, (mine, cut) in enumerate(zip(self, common)):
            for piece in (Interval(mine.start, cut.start), Interval(cut.stop, mine.stop)):
                if piece.size:
                    yield rest.replace(dim, piece)
            rest = rest.replace(dim, cut)

    def __str__(self) -> str:
        return f"[{', '.join(map(str, self))}]"


def subtract(regions: Sequence[Region], holes: Sequence[Region]) -> list[Region]:
    """What of `regions` is in none of `holes`, as disjoint boxes (if `regions` are disjoint)."""
    rest = [r for r in regions if r.size]
    for hole in holes:
        rest = [piece for r in rest for piece in r.minus(hole)]
    return rest


class Window(NamedTuple):
    """The input of a piece of a sliding-window operator along one axis: the part that exists, and the padding around it."""

    interval: Interval
    pad_begin: int
    pad_end: int


def window_input(out: Interval, size: int, kernel: int, stride: int = 1, dilation: int = 1, pad_begin: int = 0) -> Window:
    """Input rows that output rows `out` of a convolution or pooling read, from an input of `size` rows.

    Output row o reads rows o*stride - pad_begin + k*dilation for k in 0..kernel-1; rows outside the input are padding,
    counted so that pad_begin + interval.size + pad_end is exactly what `out` needs. A piece that reads nothing but padding gets
    one real row all the same (every kernel's addressing stays valid), and a negative pad: crop instead of padding.
    """
    if not out.size:
        return Window(Interval(0, 0), 0, 0)
    first = out.start * stride - pad_begin
    stop = (out.stop - 1) * stride - pad_begin + (kernel - 1) * dilation + 1
    inside = Interval(min(max(first, 0), size), max(min(stop, size), 0))
    if not inside.size:
        at = min(max(first, 0), size - 1) if size else 0
        inside = Interval(at, min(at + 1, size))
    return Window(inside, inside.start - first, stop - inside.stop)


def even_cuts(size: int, parts: int, multiple: int = 1) -> tuple[int, ...]:
    """Bounds that cut `size` into `parts` near-equal pieces at multiples of `multiple`; trailing pieces may be empty."""
    units = -(-size // multiple)
    return tuple(min(size, (units * p // parts) * multiple) for p in range(parts)) + (size,)
