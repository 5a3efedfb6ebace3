"""FITS files whose headers are read as claims: every size is compared with the file before anything is allocated.

The structural keywords (FITS standard 4.0, section 4.4) are parsed here, so that no library sees a file that promises
more than it holds; astropy opens only what has passed, without tile decompression and without memory maps.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import check_claim, check_file, reading, starts_with

BLOCK, CARD = 2880, 80
MAX_HDUS, MAX_HEADER = 256, 2 << 20
_TYPES = {8: ">u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([EeDd][+-]?\d+)?$")


class Unit(NamedTuple):
    """One header-data unit as its header describes it.

    Attributes
    ----------
    kind : ``image``, ``groups``, ``bintable``, or the XTENSION of anything else in lower case.
    name : EXTNAME, or ``""``.
    shape : axes of the array, slowest first; of random groups without the group axis; of a table (rows, row bytes).
    dtype : of the array, big-endian.
    groups, parameters : GCOUNT and PCOUNT.
    start, nbytes : where the data begin, and how long they are.
    header : first value of each keyword.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    groups: int
    parameters: int
    start: int
    nbytes: int
    header: Mapping[str, Any]


def is_fits(path: str | os.PathLike[str]) -> bool:
    """Say whether the file begins as FITS does; never raises."""
    return starts_with(path, b"SIMPLE  =")


def scan_fits(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> tuple[Unit, ...]:
    """Every unit of the file, from headers alone.

    Raises
    ------
    InputError
        Not FITS, compressed as a whole, too many or endless headers, sizes that are impossible or exceed the file.
    """
    path = check_file(path)
    if starts_with(path, b"\x1f\x8b", b"BZh", b"PK\x03\x04"):
        raise InputError("the file is compressed", where=path.name, expected="plain FITS", hint="unpack it first")
    if not is_fits(path):
        raise InputError("this is no FITS file", where=path.name, expected="SIMPLE  = at its beginning")
    size, units = path.stat().st_size, list[Unit]()
    with reading(path, "FITS"), open(path, "rb") as file:
        position = 0
        while position < size:
            file.seek(position)
            header, length = _header(file, path, size)
            if units and "XTENSION" not in header:
                break  # special records after the last unit are allowed, and nobody's business
            unit = _unit(header, position + length, path)
            if unit.start + unit.nbytes > size:
                raise InputError(
                    "the file is shorter than its header says", where=path.name,
                    expected=f"{unit.start + unit.nbytes:,} bytes", found=f"{size:,} bytes",
                    hint="copy it again from its source",
                )  # fmt: skip
            check_claim(unit.nbytes, unit.nbytes, where=path.name, max_bytes=max_bytes)
            units.append(unit)
            if len(units) > MAX_HDUS:
                raise InputError("the file has too many units", where=path.name, expected=f"at most {MAX_HDUS}")
            position = unit.start + -(-unit.nbytes // BLOCK) * BLOCK
    return tuple(units)


@contextlib.contextmanager
def open_fits(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> Iterator[tuple[tuple[Unit, ...], Any]]:
    """Yield the units of `scan_fits` and astropy's HDU list of the same file; whatever fails is one `InputError`."""
    units = scan_fits(path, max_bytes=max_bytes)
    path = Path(path)
    with reading(path, "FITS"):
        from astropy.io import fits  # slow to import, and never needed to print help

        with fits.open(path, memmap=False, lazy_load_hdus=False, disable_image_compression=True) as opened:
            if len(opened) < len(units):
                raise InputError("a unit cannot be read", where=path.name, found=f"{len(opened)} of {len(units)} units")
            yield units, opened


def read_groups(path: str | os.PathLike[str], unit: Unit) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Random groups of a unit: parameters ``(group, parameter)`` scaled in float64, and arrays ``(group, *shape)``.

    Each parameter is ``PSCALn * stored + PZEROn``; arrays are float32 (float64 if stored so) after BSCALE and BZERO.
    """
    width = unit.parameters + math.prod(unit.shape)
    raw = np.fromfile(path, unit.dtype, unit.groups * width, offset=unit.start).reshape(unit.groups, width)
    number = range(1, unit.parameters + 1)
    scale, zero = (
        np.array([float(unit.header.get(f"{key}{i}", default)) for i in number])
        for key, default in (("PSCAL", 1.0), ("PZERO", 0.0))
    )
    parameters = raw[:, : unit.parameters].astype(np.float64) * scale + zero
    wide: Any = np.float64 if unit.dtype.itemsize == 8 else np.float32
    data: NDArray[Any] = raw[:, unit.parameters :].astype(wide)
    factor, shift = float(unit.header.get("BSCALE", 1.0)), float(unit.header.get("BZERO", 0.0))
    if (factor, shift) != (1.0, 0.0):
        data = data * factor + shift
    return parameters, data.reshape(unit.groups, *unit.shape)


def _header(file: Any, path: Path, size: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    for count in range(1, MAX_HEADER // BLOCK + 1):
        block = file.read(BLOCK)
        if len(block) < BLOCK:
            if count > 1 or "SIMPLE" in values or block[:8] in (b"SIMPLE  ", b"XTENSION"):
                raise InputError("a header has no end", where=path.name, hint="copy the file again from its source")
            return {}, len(block)
        text = block.decode("latin-1")
        for start in range(0, BLOCK, CARD):
            card = text[start : start + CARD]
            key = card[:8].rstrip()
            if key == "END":
                return values, count * BLOCK
            if count == 1 and start == 0 and key not in ("SIMPLE", "XTENSION"):
                return {}, size
            if card[8:10] == "= " and key not in values:
                values[key] = _value(card[10:])
    raise InputError("a header is too long", where=path.name, expected=f"at most {MAX_HEADER:,} bytes")


def _value(text: str) -> Any:
    text = text.strip()
    if text.startswith("'"):
        closing = re.match(r"'((?:[^']|'')*)'", text)
        return closing[1].replace("''", "'").rstrip() if closing else text[1:].rstrip()
    text = text.partition("/")[0].strip()
    if text in ("T", "F"):
        return text == "T"
    if not _NUMBER.match(text) or len(text) > 40:
        return text
    return int(text) if text.lstrip("+-").isdigit() else float(text.upper().replace("D", "E"))


def _unit(header: Mapping[str, Any], start: int, path: Path) -> Unit:
    def whole(key: str, low: int, high: int, default: int | None = None) -> int:
        value = header.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(
                f"the header keyword {key} is impossible", where=path.name,
                expected=f"a whole number from {low} to {high:,}",
                found="nothing" if value is None else str(value)[:40], hint="copy the file again from its source",
            )  # fmt: skip
        return value

    bitpix = whole("BITPIX", -64, 64)
    if bitpix not in _TYPES:
        raise InputError("BITPIX is impossible", where=path.name, expected=str(sorted(_TYPES)), found=str(bitpix))
    axes = [whole(f"NAXIS{i}", 0, 2**40) for i in range(1, whole("NAXIS", 0, 32) + 1)]
    grouped = header.get("GROUPS") is True and len(axes) > 1 and axes[0] == 0
    parameters = whole("PCOUNT", 0, 2**40, 0)
    groups = whole("GCOUNT", 0, 2**40, 1)
    shape = tuple(reversed(axes[1:] if grouped else axes))
    cells = math.prod(shape) if shape else 0
    kind = "groups" if grouped else str(header.get("XTENSION", "IMAGE")).strip().lower()[:16]
    nbytes = abs(bitpix) // 8 * groups * (parameters + cells)
    name = str(header.get("EXTNAME", "")).strip()[:68]
    return Unit(kind, name, shape, np.dtype(_TYPES[bitpix]), groups, parameters, start, nbytes, header)
