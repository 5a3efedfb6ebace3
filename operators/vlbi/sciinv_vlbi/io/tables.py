"""Columns of FITS binary tables as plain arrays, checked before they are believed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.safe_fits import Unit

MAX_ROWS = 1 << 20


def unit_named(units: tuple[Unit, ...], name: str) -> list[int]:
    """Positions of the tables with this EXTNAME."""
    return [i for i, unit in enumerate(units) if unit.kind == "bintable" and unit.name.upper() == name]


def rows_of(unit: Unit) -> int:
    """Number of rows a table claims."""
    return unit.shape[0] if len(unit.shape) == 2 else 0


def numbers(hdu: Any, name: str, where: str, default: float | None = None) -> NDArray[np.float64]:
    """A numeric column as float64 ``(row, ...)``.

    Raises
    ------
    InputError
        The column is missing (and has no default), of variable length, or not numeric.
    """
    found = _column(hdu, name)
    if found is None:
        if default is None:
            raise InputError(f"the table {hdu.name} has no column {name}", where=where)
        return np.full(len(hdu.data), default)
    values = np.asarray(hdu.data[found])
    if values.dtype.kind not in "iufb":
        raise InputError(
            f"the column {name} of {hdu.name} is not numeric", where=where, found=str(values.dtype), expected="numbers"
        )
    return values.astype(np.float64)


def texts(hdu: Any, name: str, where: str) -> list[str]:
    """A text column, trimmed, without anything that cannot be printed."""
    found = _column(hdu, name)
    if found is None:
        raise InputError(f"the table {hdu.name} has no column {name}", where=where)
    return [clean(str(value)) for value in np.asarray(hdu.data[found]).reshape(len(hdu.data), -1)[:, 0]]


def flags(hdu: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A logical column of this shape; false where there is none."""
    found = _column(hdu, name)
    return np.zeros(shape, bool) if found is None else np.asarray(hdu.data[found]).astype(bool).reshape(shape)


def clean(text: str, most: int = 32) -> str:
    """Printable ASCII of a name from a file, at most `most` characters."""
    return re.sub(r"[^ -~]", "", text).strip()[:most]


def _column(hdu: Any, name: str) -> str | None:
    names = {str(n).strip().upper(): n for n in (hdu.columns.names or [])}
    found = names.get(name.upper())
    if found is not None and str(hdu.columns[found].format).lstrip("0123456789")[:1] in ("P", "Q"):
        raise InputError(f"the column {name} has rows of varying length", where=hdu.name, expected="a fixed length")
    return found
