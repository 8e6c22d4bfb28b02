"""Cast and CastLike: one element type into another, narrow ones by their bits."""

from __future__ import annotations

import numpy as np

from ...ops.narrow import computed_in
from .builder import Compile, builds, short
from .nd import copy, elementwise


@builds("Cast", "CastLike", narrow=True)
def build(c: Compile) -> None:
    x, y = c.input(0), c.output()
    c.implementation = f"{short(x.dtype)}_cast_{short(y.dtype)}"
    if x.dtype == y.dtype:
        copy(c, x, y)
    elif y.dtype == np.bool_:
        elementwise(c, "a0 != (T)(0)", y, [x], predicate=True)
    else:
        cut = computed_in(x.dtype).kind == "f" and y.dtype.name in _INTEGERS
        elementwise(c, "a0", y, [x], rounding="_rtz" if cut else "", saturate=bool(c.node.attr("saturate", 1)),
                    round_mode=c.node.attr("round_mode", "up"))


#: What real numbers are cut to, not rounded.
_INTEGERS = frozenset(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
