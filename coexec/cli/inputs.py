"""Files become feeds: .npy, .npz and pictures. Every defect of a file is an InputError that names it."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, UsageError, suggest
from ..graph.ir import Graph, Value

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
#: Bare numbers, without a header.
RAW = (".bin", ".raw")


@dataclass(frozen=True)
class Pixels:
    """How a picture becomes numbers: (pixel * scale - mean) / std, pixel 0..255, channels in `layout` (nchw, nhwc or auto)."""

    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "auto"


def read_feeds(
    graph: Graph,
    files: Iterable[str],
    pictures: Iterable[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    pixels: Pixels | None = None,
    allow_nan: bool = False,
) -> dict[str, np.ndarray]:
    """Feeds from `NAME=file`, or a bare file where the model has one input or the file is an .npz of named arrays.

    Raises InputError for a missing, damaged or unfitting file, or one that holds NaN unless `allow_nan`.
    """
    known = {v.name: v for v in graph.inputs}
    feeds: dict[str, np.ndarray] = {}
    for words, forced in [(w, False) for w in files] + [(w, True) for w in pictures]:
        name, path = _split(words, known)
        for key, array in _read(name, path, forced, known, shapes or {}, pixels or Pixels()).items():
            if key in feeds:
                raise InputError(f"input '{key}' is given twice", where=path)
            if not allow_nan:
                refuse_nan(array, path)
            feeds[key] = array
    return feeds


def _split(words: str, known: Mapping[str, Value]) -> tuple[str, str]:
    """NAME=file, where names and paths may hold `=` themselves; the name is "" for a bare file."""
    cuts = [i for i, letter in enumerate(words) if letter == "="]
    for cut in cuts:
        if words[:cut] in known:
            return words[:cut], words[cut + 1 :]
    if not cuts or Path(words).exists():
        return "", words
    name = words[: cuts[0]]
    raise InputError(
        f"the model has no input '{name}'",
        where=words,
        expected=", ".join(f"'{v.name}' {v.type}" for v in known.values()) or "no inputs",
        hint=suggest(name, known) if known else "drop it",
    )


def _read(
    name: str, path: str, picture: bool, known: Mapping[str, Value], shapes: Mapping[str, Sequence[int]], pixels: Pixels
) -> dict[str, np.ndarray]:
    if picture or Path(path).suffix.lower() in PICTURES:
        name = name or _only(known, path)
        return {name: read_picture(path, known[name], shapes.get(name), pixels)}
    if Path(path).suffix.lower() in RAW:
        name = name or _only(known, path)
        return {name: read_raw(path, known[name], shapes.get(name))}
    loaded = load_arrays(path)
    if isinstance(loaded, np.ndarray):
        return {name or _only(known, path): loaded}
    if name:
        if len(loaded) != 1:
            raise InputError(
                "one input needs one array", where=path, found=f"{len(loaded)}: {', '.join(loaded)}", hint="give the .npz without a name"
            )
        return {name: next(iter(loaded.values()))}
    if set(loaded) == {"arr_0"} and "arr_0" not in known:  # what np.savez calls an array without a name
        return {_only(known, path): loaded["arr_0"]}
    return loaded


def _only(known: Mapping[str, Value], path: str) -> str:
    if len(known) == 1:
        return next(iter(known))
    raise InputError(
        "which input is this?", where=path, expected=f"NAME={path}, NAME one of {', '.join(known)}" if known else "no inputs at all"
    )


def load_arrays(path: str) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an .npy file, or the named arrays of an .npz file, in this machine's byte order. Raises InputError."""
    expected = "an .npy or .npz file that np.save or np.savez wrote"
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return _native(loaded)
        with loaded:
            return {key: _native(loaded[key]) for key in loaded.files}
    except OSError as error:
        raise InputError("cannot read the file", where=path, found=error.strerror or str(error), expected=expected) from None
    except MemoryError:
        raise InputError("the array does not fit into memory, or its header is damaged", where=path, expected=expected) from None
    except (
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        zipfile.BadZipFile,
        zlib.error,
        NotImplementedError,
        RuntimeError,
        OverflowError,
    ) as error:
        found = "pickled objects, or no NumPy file at all" if "allow_pickle" in str(error) else str(error)[:120] or "an empty file"
        raise InputError("not a readable NumPy file", where=path, found=found, expected=expected) from None


def read_raw(path: str, value: Value, shape: Sequence[int] | None = None) -> np.ndarray:
    """A file of bare little-endian numbers as the input's array: its type, and its shape or `shape`, decide how many there must be.

    Where the input leaves one dimension open, the file's size decides it. Raises InputError.
    """
    where, declared = f"{path} for input '{value.name}'", shape if shape is not None else value.type.shape
    dtype = value.type.dtype
    if dtype is None or dtype == object or declared is None:
        raise InputError("this input takes no bare numbers", where=where, found=str(value.type), hint="give an .npy file")
    open_at = [i for i, d in enumerate(declared) if not isinstance(d, int)]
    if len(open_at) > 1:
        raise InputError("bare numbers do not tell a shape", where=where, found=str(value.type), hint=f"give --shape {value.name}:N,N,...")
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError("cannot read the file", where=path, found=error.strerror or str(error), expected="bare numbers") from None
    row = dtype.itemsize * math.prod(d for d in declared if isinstance(d, int))
    count = len(data) // row if row else 0
    if not row or len(data) % row or not count or (not open_at and count != 1):
        raise InputError("the file has the wrong size", where=where, found=f"{len(data)} bytes", hint="a header? then give an .npy file",
                         expected=f"{row} bytes{' or a multiple' if open_at else ''} for {value.type}")  # fmt: skip
    array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)
    return array.reshape([d if isinstance(d, int) else count for d in declared])


def pictures_in(folder: str) -> list[str]:
    """The pictures of a folder, by name. Raises InputError where there is none, or the folder cannot be read."""
    try:
        found = sorted(str(p) for p in Path(folder).iterdir() if p.suffix.lower() in PICTURES and p.is_file())
    except OSError as error:
        raise InputError("cannot read the folder", where=folder, found=error.strerror or str(error)) from None
    if not found:
        raise InputError("the folder holds no picture", where=folder, expected=f"files that end in {', '.join(PICTURES)}")
    return found


def _native(array: np.ndarray) -> np.ndarray:
    if not isinstance(array, np.ndarray):
        raise ValueError(f"a member that is no array: {array[:20]!r}")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def refuse_nan(array: np.ndarray, path: str) -> None:
    """Raises InputError where the array holds NaN: how many, and where the first one is."""
    if array.dtype.kind not in "fc":
        return
    bad = np.isnan(array)
    if bad.any():
        first = [int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape)]
        raise InputError(
            "the input holds NaN",
            where=path,
            found=f"{int(bad.sum())} of {array.size} elements, the first at index {first}",
            expected="numbers",
            hint="mend the file, or pass --allow-nan",
        )


def read_picture(path: str, value: Value, shape: Sequence[int] | None = None, pixels: Pixels | None = None) -> np.ndarray:
    """A picture as the input's array: turned upright, grey or RGB by the channel count, stretched to height x width.

    Raises InputError where the file is no picture or the input does not take one, UsageError without pillow.
    """
    pixels = pixels or Pixels()
    where = f"{path} for input '{value.name}'"
    height_at, width_at, channel_at, dims = _picture_axes(value, shape, pixels.layout, where)
    try:
        from PIL import Image, ImageOps
    except ImportError:
        raise UsageError("reading pictures needs pillow", where=path, hint="pip install 'coexec[image]', or give an .npy file") from None
    channels = 1 if channel_at is None else dims[channel_at]
    if channels not in (1, 3):
        raise InputError("a picture has 1 or 3 channels", where=where, found=f"{value.type} with {channels} channels", hint="see --layout")
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
            size = dims[width_at] or upright.width, dims[height_at] or upright.height
            raw = np.asarray(upright if upright.size == size else upright.resize(size, Image.Resampling.BILINEAR))
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(
            "cannot read the picture",
            where=path,
            found=getattr(error, "strerror", None) or str(error)[:120] or type(error).__name__,
            expected="a JPEG, PNG or another picture that pillow reads",
        ) from None
    array = _numbers(raw.reshape(raw.shape[0], raw.shape[1], channels), value.type.dtype, pixels, where)
    if channel_at is None:
        array = array[:, :, 0]
    elif channel_at < height_at:
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array.reshape((1,) * (len(dims) - array.ndim) + array.shape))


def _picture_axes(value: Value, shape: Sequence[int] | None, layout: str, where: str) -> tuple[int, int, int | None, list[int]]:
    """Positions of height, width and channel (None without one), and the dimensions with 0 for those still open."""
    declared: Any = shape if shape is not None else value.type.shape
    rank = len(declared) if declared is not None else 4
    if not 2 <= rank <= 4 or value.type.dtype is None or value.type.dtype.kind not in "fiu":
        raise InputError(
            "this input takes no picture",
            where=where,
            found=str(value.type),
            expected="numbers of shape [N,C,H,W], [N,H,W,C], [C,H,W] or [H,W]",
        )
    dims = [d if isinstance(d, int) else 0 for d in (declared or (1, 3, 0, 0))]
    if rank == 4:
        dims[0] = dims[0] or 1
        if dims[0] != 1:
            raise InputError(
                "one picture cannot fill a batch", where=where, found=f"batch {dims[0]}", expected="batch 1", hint="give an .npy file"
            )
    if rank == 2:
        return 0, 1, None, dims
    first = rank - 3
    last = layout == "nhwc" or (layout == "auto" and dims[first] not in (1, 3) and dims[rank - 1] in (1, 3))
    axes = (first, first + 1, first + 2) if last else (first + 1, first + 2, first)
    dims[axes[2]] = dims[axes[2]] or 3
    return *axes, dims


def _numbers(raw: np.ndarray, dtype: np.dtype, pixels: Pixels, where: str) -> np.ndarray:
    """[H, W, C] pixels 0..255 as the input's numbers; whole-number inputs take the pixels as they are."""
    if dtype.kind != "f":
        if pixels != Pixels(layout=pixels.layout):
            raise InputError(
                "an input of whole numbers takes pixels as they are",
                where=where,
                found=f"{dtype} and --scale, --mean or --std",
                hint="drop those options",
            )
        return raw.astype(dtype)
    for name, values in (("mean", pixels.mean), ("std", pixels.std)):
        if len(values) not in (1, raw.shape[2]):
            raise InputError(f"--{name} has {len(values)} values", where=where, expected=f"1 or {raw.shape[2]}, one a channel")
    return ((raw.astype(np.float64) * pixels.scale - np.array(pixels.mean)) / np.array(pixels.std)).astype(dtype)


def read_labels(path: str) -> list[str]:
    """One class name a line. Raises InputError."""
    try:
        return [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise InputError("cannot read the labels", where=path, found=error.strerror, expected="a text file with a name a line") from None
    except UnicodeDecodeError:
        raise InputError("the labels are no text", where=path, expected="UTF-8, a name a line") from None
