"""The element types that NumPy itself lacks: bfloat16, the 8- and 4-bit floats, the 4- and 2-bit integers; and casts to them.

In memory an element takes whole bytes: two of bfloat16, one of every other, whose value lies in the lowest bits. The formats are those
of ONNX ("Float stored in 8 bits", "4 bit types"); E4M3 and E5M2 are described in "FP8 Formats for Deep Learning" (Micikevicius et al.,
2022), the forms without negative zero (FNUZ) in "8-bit Numerical Formats for Deep Neural Networks" (Noune et al., 2022), E8M0 and E2M1
in the OCP Microscaling Formats specification 1.0.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class SmallFloat(NamedTuple):
    """A sign, `exponent` bits biased by `bias`, `mantissa` bits. Codes are given without the sign.

    `largest`: of the largest number; `infinite`: of infinity, None where there is none; `nan`: of the NaN that a cast yields, None
    where there is none; `unsigned_zero`: the code of -0 is the only NaN.
    """

    exponent: int
    mantissa: int
    bias: int
    largest: int
    infinite: int | None
    nan: int | None
    unsigned_zero: bool = False

    @property
    def sign(self) -> int:
        """The sign's bit."""
        return 1 << (self.exponent + self.mantissa)

    @property
    def maximum(self) -> float:
        """The largest number."""
        power, fraction = divmod(self.largest, 1 << self.mantissa)
        return (1 + fraction / (1 << self.mantissa)) * 2.0 ** (power - self.bias)


SMALL_FLOATS: dict[str, SmallFloat] = {
    "float8_e4m3fn": SmallFloat(4, 3, 7, 0x7E, None, 0x7F),
    "float8_e4m3fnuz": SmallFloat(4, 3, 8, 0x7F, None, None, True),
    "float8_e5m2": SmallFloat(5, 2, 15, 0x7B, 0x7C, 0x7E),
    "float8_e5m2fnuz": SmallFloat(5, 2, 16, 0x7F, None, None, True),
    "float4_e2m1fn": SmallFloat(2, 1, 1, 0x7, None, None),
}
#: Powers of two alone, without zero and sign: code c is 2**(c - 127), 255 is NaN.
SCALE = "float8_e8m0fnu"
#: Bits of the integers.
SMALL_INTEGERS: dict[str, int] = {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}
NARROW = frozenset({"bfloat16", SCALE, *SMALL_FLOATS, *SMALL_INTEGERS})


def is_narrow(dtype: np.dtype | None) -> bool:
    """True for the element types of this module."""
    return dtype is not None and np.dtype(dtype).name in NARROW


def is_bfloat16(dtype: np.dtype | None) -> bool:
    return dtype is not None and np.dtype(dtype).name == "bfloat16"


def computed_in(dtype: np.dtype) -> np.dtype:
    """The type of arithmetic with such elements: float32 for half and narrow floats, int32 for narrow integers, else the type itself."""
    name = np.dtype(dtype).name
    if name in SMALL_INTEGERS:
        return np.dtype(np.int32)
    return np.dtype(np.float32) if name == "float16" or name in NARROW else np.dtype(dtype)


def cast(x: np.ndarray, dtype: np.dtype, saturate: bool = True, round_mode: str = "up") -> np.ndarray:
    """x in another element type, as ONNX's Cast has it.

    `saturate` concerns 8-bit floats alone: what is larger than their largest number becomes that number, else infinity or NaN.
    `round_mode` (up, down, nearest) concerns E8M0.
    """
    dtype = np.dtype(dtype)
    with np.errstate(all="ignore"):
        if dtype.name == SCALE:
            return _scales(np.asarray(x).astype(np.float32), saturate, round_mode).view(dtype)
        limits = SMALL_FLOATS.get(dtype.name)
        if limits is None or not saturate:
            return np.asarray(x).astype(dtype, copy=False)
        wide = np.asarray(x).astype(np.float64 if x.dtype == np.float64 else np.float32, copy=False)
        return np.clip(wide, wide.dtype.type(-limits.maximum), wide.dtype.type(limits.maximum)).astype(dtype)


def _scales(x: np.ndarray, saturate: bool, round_mode: str) -> np.ndarray:
    """Codes of E8M0: the exponent, one more where it is rounded up; the sign is ignored, infinity becomes NaN."""
    bits = np.ascontiguousarray(x).view(np.uint32).reshape(x.shape)
    exponent, fraction = bits >> 23 & 0xFF, bits & 0x7FFFFF
    if round_mode == "nearest":  # halves to even, which is up, but for the smallest exponent
        more = (fraction > 0x400000) | ((fraction == 0x400000) & (exponent > 0))
    elif round_mode == "up":
        more = fraction > 0
    else:
        more = np.zeros(x.shape, bool)
    more &= exponent < (0xFE if saturate else 0xFF)
    return (exponent + more).astype(np.uint8)
