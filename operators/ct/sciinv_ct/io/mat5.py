"""MATLAB v5 files, read element by element in plain Python.

A v5 file is a list of elements, each a type, a length and that many bytes; compressed ones hold one more element, and a
matrix holds flags, dimensions, a name and its values or further matrices ("MAT-File Format", MathWorks, version 7.x).
Lengths and dimensions are claims: here every element must lie inside its parent, a matrix may not have more entries
than bytes, and a compressed element unpacks within a limit. Objects, functions, sparse and complex matrices are
refused. scipy's compiled reader, which does the same job, reads out of bounds when a type code is damaged.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import MAX_EXPANSION, SMALL, check_file, default_max_bytes, reading, starts_with

MAGIC = b"MATLAB 5.0"
COMPRESSED, MATRIX = 15, 14
STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""NumPy types of the element types that hold numbers."""
TEXT = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
CELL, STRUCT, CHAR = 1, 2, 4
NUMBERS = range(6, 16)  # double ... uint64
COMPLEX = 0x800
MAX_DEPTH, MAX_ELEMENTS = 8, 20_000


def is_mat5(path: str | os.PathLike[str]) -> bool:
    """Say whether the file carries the v5 signature; never raises."""
    return starts_with(path, MAGIC)


def load_mat5(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> dict[str, Any]:
    """All variables: arrays of numbers, strings, dictionaries (structs of one entry) and lists (cells, structs)."""
    path = check_file(path)
    limit = default_max_bytes() if max_bytes is None else max_bytes
    if path.stat().st_size > limit:
        raise InputError("the file is larger than allowed", where=path.name, expected=f"at most {limit:,} bytes")
    with reading(path, "MATLAB v5"):
        return _Reader(path, limit).variables()


class _Reader:
    """Walks a file once."""

    def __init__(self, path: Path, limit: int):
        self.name, self.data, self.limit, self.left = path.name, path.read_bytes(), limit, MAX_ELEMENTS
        if len(self.data) < 136 or not self.data.startswith(MAGIC):
            raise self._refuse("this is no MATLAB v5 file")
        mark = self.data[126:128]
        if mark not in (b"IM", b"MI"):
            raise self._refuse("the byte order is not marked")
        self.order = "<" if mark == b"IM" else ">"

    def variables(self) -> dict[str, Any]:
        found, place, total = dict[str, Any](), 128, 0
        while place + 8 <= len(self.data):
            kind, size = struct.unpack_from(self.order + "II", self.data, place)
            if kind not in (COMPRESSED, MATRIX) or size > len(self.data) - place - 8:
                raise self._refuse("an element is cut short or of an unknown type")
            piece = self.data[place + 8 : place + 8 + size]
            place += 8 + size
            if kind == COMPRESSED:
                piece = self._inflate(piece)
                kind, size = struct.unpack_from(self.order + "II", piece, 0) if len(piece) >= 8 else (0, 0)
                if kind != MATRIX or size != len(piece) - 8:
                    raise self._refuse("a compressed element does not hold one whole matrix")
                piece = piece[8:]
            total += len(piece)
            if total > self.limit:
                raise self._refuse("the variables are larger than allowed", f"at most {self.limit:,} bytes")
            name, value = self._matrix(memoryview(piece), 0)
            found[name] = value
        return found

    def _inflate(self, packed: bytes) -> bytes:
        limit = min(self.limit, max(SMALL, MAX_EXPANSION * len(packed)))
        stream = zlib.decompressobj()
        out = stream.decompress(packed, limit)
        if not stream.eof:
            raise self._refuse("a compressed variable is damaged or larger than allowed", f"at most {limit:,} bytes")
        return out

    def _element(self, body: memoryview, place: int) -> tuple[int, memoryview, int]:
        """Type and bytes of the element at ``place``, and where the next one begins."""
        self.left -= 1
        if self.left < 0 or place + 8 > len(body):
            raise self._refuse("an element is cut short, or there are too many")
        (first,) = struct.unpack_from(self.order + "I", body, place)
        if first >> 16:  # small element: length and type in one word, the value in the next
            kind, size = first & 0xFFFF, first >> 16
            if size > 4:
                raise self._refuse("a small element is too long")
            return kind, body[place + 4 : place + 4 + size], place + 8
        (size,) = struct.unpack_from(self.order + "I", body, place + 4)
        if size > len(body) - place - 8:
            raise self._refuse("an element is longer than what holds it")
        end = place + 8 + size
        return first, body[place + 8 : end], end if first == MATRIX else place + 8 + (size + 7 & ~7)

    def _matrix(self, body: memoryview, depth: int) -> tuple[str, Any]:
        """Name and value of a matrix."""
        if len(body) == 0 and depth:
            return "", np.zeros((0, 0))  # an empty matrix may leave everything out
        if depth > MAX_DEPTH:
            raise self._refuse("the variables are nested too deeply")
        kind, flags, place = self._element(body, 0)
        if kind != 6 or len(flags) < 8:
            raise self._refuse("a matrix has no flags")
        (word,) = struct.unpack_from(self.order + "I", flags, 0)
        form = word & 0xFF
        kind, sizes, place = self._element(body, place)
        if kind != 5 or not 4 <= len(sizes) <= 32 * 4 or len(sizes) % 4:
            raise self._refuse("a matrix has no dimensions")
        dims = struct.unpack(self.order + "i" * (len(sizes) // 4), sizes)
        count = math.prod(dims)
        if min(dims) < 0 or count > len(body):
            raise self._refuse("a matrix claims more entries than bytes", f"at most {len(body):,}", f"{dims}"[:60])
        _, raw_name, place = self._element(body, place)
        name = bytes(raw_name).decode("ascii", "replace")
        if form == CHAR:
            kind, raw, place = self._element(body, place) if count else (1, memoryview(b""), place)
            if kind not in TEXT:
                raise self._refuse("text is of an unknown type")
            wide = (
                {"utf-16": "utf-16-le", "utf-32": "utf-32-le"}
                if self.order == "<"
                else {"utf-16": "utf-16-be", "utf-32": "utf-32-be"}
            )
            return name, bytes(raw).decode(wide.get(TEXT[kind], TEXT[kind]), "replace")
        if form in NUMBERS:
            return name, self._numbers(body, place, dims, bool(word & COMPLEX))
        if form not in (CELL, STRUCT):
            raise self._refuse("a variable is neither numbers, text, cell nor struct", "those", f"class {form}")
        keys = [""]
        if form == STRUCT:
            _, length, place = self._element(body, place)
            width = struct.unpack(self.order + "i", length)[0] if len(length) == 4 else 0
            _, names, place = self._element(body, place)
            if not 1 <= width <= 128 or len(names) % width:
                raise self._refuse("the names of a struct are damaged")
            keys = [
                bytes(names[i : i + width]).split(b"\0")[0].decode("ascii", "replace")
                for i in range(0, len(names), width)
            ]
        if 8 * count * len(keys) > len(body):
            raise self._refuse("a struct or cell claims more entries than bytes")
        entries = []
        for _ in range(count):
            entry = {}
            for key in keys:
                kind, inside, place = self._element(body, place)
                if kind != MATRIX:
                    raise self._refuse("a struct or cell holds something that is no matrix")
                entry[key] = self._matrix(inside, depth + 1)[1]
            entries.append(entry[""] if form == CELL else entry)
        return name, entries[0] if form == STRUCT and count == 1 else entries

    def _numbers(self, body: memoryview, place: int, dims: tuple[int, ...], is_complex: bool) -> NDArray[Any]:
        """An array, column-major in the file; one number becomes a 0-dim array, a row or column loses its axis."""
        if is_complex:
            raise self._refuse("complex numbers are not read")
        kind, raw, _ = self._element(body, place) if math.prod(dims) else (9, memoryview(b""), place)
        if kind not in STORED:
            raise self._refuse("a matrix of numbers holds something else")
        values = np.frombuffer(raw, np.dtype(self.order + STORED[kind]))
        if len(values) != math.prod(dims):
            raise self._refuse("a matrix does not have the entries that it claims", f"{dims}"[:60], f"{len(values):,}")
        return np.squeeze(values.reshape(dims, order="F").astype(values.dtype.newbyteorder("=")))

    def _refuse(self, what: str, expected: str = "", found: str = "") -> InputError:
        return InputError(
            what, where=self.name, expected=expected or "a complete MATLAB v5 file", found=found,
            hint="copy the file again from its source",
        )  # fmt: skip
