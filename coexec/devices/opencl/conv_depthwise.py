"""Depthwise convolutions: down strips of columns or by planes where a work-item owns a core, a few outputs a work-item elsewhere."""

from __future__ import annotations

from .builder import Compile
from .conv_shape import Shape, operands, plane_args, strides
from .nd import local_along
from .program import Forms
from .strips import Strip, share
from .tail import i32, late_tail
from .tiles import Tiles


def build_depthwise(c: Compile, s: Shape, tiles: Tiles) -> None:
    w = c.packed(1, "plain", lambda w: w)
    defines, tail = operands(c, s)
    size = {"KH": s.kernel[1], "KW": s.kernel[2]}
    defines |= size
    batch, channels, _, height, width = s.y.shape
    if not tiles.panels:
        c.implementation = f"f32_conv_depthwise_items_{tiles.item_width}"
        items = -(-width // tiles.item_width) * height
        c.launch("conv_depthwise.cl", "conv_depthwise_items", {**defines, "PER": tiles.item_width, **tiles.fma_define()},
                 (items, channels, batch), local_along(c, items), s.x, strides(s.x), w, s.y, strides(s.y), *plane_args(s), *tail)
        return
    if can_rows(s):
        wide = min(tiles.width, max(4, 1 << (width - 1).bit_length()))
        rows, many = share(batch, channels, height, width, tiles)
        c.implementation = f"f32_conv_depthwise_rows_{s.kernel[1]}x{s.kernel[2]}"
        inside, outside, *_, pad = s.args()
        late, chosen = late_tail(c)
        defines = {**late, **{name: 1 for name in ("BIAS", "RESIDUAL") if name in defines}, "VW": wide}
        both = Forms(["conv_depthwise_rows.cl"], {**size, "SH": s.strides[1], "SW": s.strides[2]}, [{**size, "SH": n, "SW": n} for n in (1, 2)])
        c.launch("vectors.clh", "conv_depthwise_rows", defines, (-(-height // rows), -(-channels // many), batch), (1, 1, 1), s.x, strides(s.x), w,
                 s.y, strides(s.y), inside, outside, pad, *i32(rows, many, channels), *tail, *chosen, forms=both,
                 in_step=True)
        return
    strip = Strip.of(s.y.shape, s.kernel, s.strides, s.dilations, tiles)
    c.implementation = f"f32_conv_depthwise_strip_{s.kernel[1]}x{s.kernel[2]}"
    c.launch(["vectors.clh", "strip.clh", "conv_depthwise.cl"], "conv_depthwise_strip", {**defines, **strip.defines()}, strip.groups, (1, 1, 1),
             s.x, strides(s.x), w, s.y, strides(s.y), *plane_args(s), *strip.args(), *tail)


def can_rows(s: Shape) -> bool:
    """True for a small depthwise filter without dilation, of stride 1 or 2: it runs down the rows with its sums in registers."""
    return max(s.kernel) <= 5 and max(s.strides) <= 2 and set(s.dilations) == {1}
