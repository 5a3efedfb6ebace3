"""NumPy ``.npy`` files without pickles, whose claimed size is checked against the file before anything is allocated."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import check_claim, check_file, reading, starts_with
from sciinv.io.spec import FieldView, dtype_class

MAGIC = b"\x93NUMPY"


def is_npy(path: str | os.PathLike[str]) -> bool:
    """Say whether the file carries the ``.npy`` signature; never raises."""
    return starts_with(path, MAGIC)


def npy_view(path: str | os.PathLike[str]) -> FieldView:
    """Shape and dtype class from the header alone."""
    path = check_file(path)
    with reading(path, "NumPy .npy"), open(path, "rb") as file:
        shape, _, dtype = _header(file, path)
    return FieldView(shape, dtype_class(dtype))


def read_npy(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> NDArray[Any]:
    """Read one array (numbers, or a compound of numbers) in its own dtype; refuse pickles and lying headers."""
    path = check_file(path)
    with reading(path, "NumPy .npy"), open(path, "rb") as file:
        shape, fortran, dtype = _header(file, path)
        if dtype.hasobject:
            raise InputError(
                "the array holds pickled Python objects, which could run code",
                where=path.name,
                expected="numbers",
                hint="save a numeric array",
            )
        count = math.prod(shape)
        claimed, present = count * dtype.itemsize, path.stat().st_size - file.tell()
        if claimed != present:
            raise InputError(
                "the header does not match the length of the file",
                where=path.name,
                expected=f"{claimed:,} bytes for shape {shape} of {dtype}",
                found=f"{present:,} bytes",
                hint="copy the file again from its source",
            )
        check_claim(claimed, present, where=path.name, max_bytes=max_bytes)
        data = np.fromfile(file, dtype=dtype, count=count)
    return data.reshape(shape[::-1]).T if fortran else data.reshape(shape)


def _header(file: BinaryIO, path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    if version == (1, 0):
        shape, fortran, dtype = npy_format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, fortran, dtype = npy_format.read_array_header_2_0(file)
    else:
        raise InputError(
            "the .npy version is not supported",
            where=path.name,
            expected="1.0 or 2.0",
            found=".".join(map(str, version)),
        )
    if any(size < 0 for size in shape):
        raise InputError("the header claims a negative size", where=path.name, found=str(shape))
    return tuple(int(size) for size in shape), bool(fortran), dtype
