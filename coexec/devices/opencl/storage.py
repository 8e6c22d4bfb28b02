"""How elements lie in memory and what they are in a register: text that loads and stores them.

OpenCL C computes with float, double and the integers. Half is a type of memory alone (vload_half and vstore_half are in every version,
cl_khr_fp16 is not needed), and so are the narrow types of ops/narrow.py, which kernels/narrow.clh takes apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ...ops.narrow import SMALL_FLOATS, SMALL_INTEGERS, computed_in, is_narrow
from .builder import ctype

#: Defines of narrow.clh by the rounding mode of Cast to E8M0.
_ROUND_MODES = {"up": 0, "nearest": 1, "down": 2}


def _name(dtype: np.dtype) -> str:
    """The type in the names of narrow.clh."""
    return np.dtype(dtype).name


def load(dtype: np.dtype, to: str, pointer: str, index: str) -> str:
    """The expression of an element in the scalar type `to`."""
    if dtype == np.float16:
        found, own = f"vload_half({index}, {pointer})", "float"
    elif is_narrow(dtype):
        found, own = f"from_{_name(dtype)}_float({pointer}[{index}])", ctype(computed_in(dtype))
    else:
        found, own = f"{pointer}[{index}]", ctype(dtype)
    return found if own == to else f"convert_{to}({found})"


def load_vector(dtype: np.dtype, to: str, pointer: str, index: str, width: int) -> str:
    """The expression of `width` elements, from element `index` on, as a vector of type `to`."""
    if dtype == np.float16:
        found = f"vload_half{width}(0, {pointer} + {index})"
    elif is_narrow(dtype):
        found = f"from_{_name(dtype)}_float{width}(convert_uint{width}(vload{width}(0, {pointer} + {index})))"
    else:
        found = f"vload{width}(0, {pointer} + {index})"
    return f"convert_{to}{width}({found})"


def store(dtype: np.dtype, source: np.dtype, pointer: str, index: str, value: str, rounding: str = "", width: int = 1) -> str:
    """The statement that stores a value (a vector, where `width` is more than 1) computed in `source` as element `index`."""
    w = "" if width == 1 else str(width)
    put = f"{pointer}[{index}] = {{}};" if width == 1 else f"vstore{w}({{}}, 0, {pointer} + {index});"
    if dtype == np.float16:
        real = value if source == np.float64 else f"convert_float{w}({value})"
        at = (index, pointer) if width == 1 else ("0", f"{pointer} + {index}")
        return f"vstore_half{w}_rte({real}, {at[0]}, {at[1]});"
    if not is_narrow(dtype):
        return put.format(f"convert_{ctype(dtype)}{w}{rounding}({value})")
    inside = ctype(computed_in(dtype))
    cut = "_rtz" if source.kind == "f" and inside == "int" else ""
    return put.format(f"convert_{ctype(dtype)}{w}(to_{_name(dtype)}_float{w}(convert_{inside}{w}{cut}({value})))")


def narrow_parts(dtypes: Iterable[np.dtype], saturate: bool, round_mode: str) -> tuple[dict[str, Any], list[str]]:
    """The defines and files that a kernel needs which loads or stores these types; none where they are not narrow."""
    names = sorted({_name(t) for t in dtypes if is_narrow(t)})
    if not names:
        return {}, []
    forms = []
    for name in names:
        if name in SMALL_FLOATS:
            f = SMALL_FLOATS[name]
            beyond = f.largest if saturate or (f.nan is None and not f.unsigned_zero) else f.nan if f.infinite is None else f.infinite
            first_nan = 256 if f.nan is None else (f.infinite or f.nan - 1) + 1
            tiniest = float(2.0 ** (1 - f.bias - f.mantissa)).hex()
            forms.append(f"SMALL_FLOAT_({name}, {f.sign}u, {f.mantissa}, {f.bias}, {f.largest}u, {-1 if beyond is None else beyond}, "
                         f"{256 if f.infinite is None else f.infinite}u, {first_nan}u, {0 if f.nan is None else f.nan}u, "
                         f"{int(f.unsigned_zero)}, {tiniest}f, F, U, I)")
        elif name in SMALL_INTEGERS:
            forms.append(f"{'UNSIGNED' if name[0] == 'u' else 'SIGNED'}_({name}, {SMALL_INTEGERS[name]}, F, U, I)")
        else:
            forms.append(f"{name.upper()}_({name}, F, U, I)")
    return {"NARROW_TYPES(F, U, I)": " ".join(forms), "SATURATE": int(saturate), "ROUND_MODE": _ROUND_MODES[round_mode]}, ["narrow.clh"]
