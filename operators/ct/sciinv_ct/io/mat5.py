"""MATLAB v5 files checked element by element before scipy reads them.

A v5 file is a list of elements, each a type, a length and that many bytes; compressed ones hold one more element, and a
matrix holds flags, dimensions, a name and its values or further matrices ("MAT-File Format", MathWorks, version 7.x).
Lengths and dimensions are claims: here every element must lie inside its parent, a matrix may not have more entries
than bytes, and a compressed element unpacks within a limit. Objects, functions and sparse matrices are refused.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import scipy.io

from sciinv.errors import InputError
from sciinv.io.limits import MAX_EXPANSION, SMALL, check_file, default_max_bytes, reading, starts_with

MAGIC = b"MATLAB 5.0"
COMPRESSED, MATRIX = 15, 14
CONTAINERS = {1: "cell", 2: "struct"}
PLAIN = {4: "char", 6: "double", 7: "single", 8: "int8", 9: "uint8", 10: "int16", 11: "uint16", 12: "int32",
         13: "uint32", 14: "int64", 15: "uint64"}  # fmt: skip
MAX_DEPTH, MAX_ELEMENTS = 8, 20_000


def is_mat5(path: str | os.PathLike[str]) -> bool:
    """Say whether the file carries the v5 signature; never raises."""
    return starts_with(path, MAGIC)


def load_mat5(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> dict[str, Any]:
    """All variables of a checked file, as `scipy.io.loadmat` gives them (structs as objects with attributes)."""
    path = check_file(path)
    limit = default_max_bytes() if max_bytes is None else max_bytes
    if path.stat().st_size > limit:
        raise InputError("the file is larger than allowed", where=path.name, expected=f"at most {limit:,} bytes")
    with reading(path, "MATLAB v5"):
        raw = _Checker(path, limit).unpacked()
        found = scipy.io.loadmat(
            io.BytesIO(raw), struct_as_record=False, squeeze_me=True, verify_compressed_data_integrity=False
        )
    return {name: value for name, value in found.items() if not name.startswith("__")}


class _Checker:
    """Walks a file once and returns it without compression."""

    def __init__(self, path: Path, limit: int):
        self.name, self.data, self.limit, self.left = path.name, path.read_bytes(), limit, MAX_ELEMENTS
        if len(self.data) < 136 or not self.data.startswith(MAGIC):
            raise self._refuse("this is no MATLAB v5 file")
        mark = self.data[126:128]
        if mark not in (b"IM", b"MI"):
            raise self._refuse("the byte order is not marked")
        self.order = "<" if mark == b"IM" else ">"

    def unpacked(self) -> bytes:
        pieces, place, total = [self.data[:128]], 128, 128
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
            self._matrix(memoryview(piece), 0)
            total += 8 + len(piece)
            if total > self.limit:
                raise self._refuse("the variables are larger than allowed", f"at most {self.limit:,} bytes")
            pieces += [struct.pack(self.order + "II", MATRIX, len(piece)), piece]
        return b"".join(pieces)

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

    def _matrix(self, body: memoryview, depth: int) -> None:
        if len(body) == 0 and depth:
            return  # an empty matrix may leave everything out
        if depth > MAX_DEPTH:
            raise self._refuse("the variables are nested too deeply")
        kind, flags, place = self._element(body, 0)
        if kind != 6 or len(flags) < 8:
            raise self._refuse("a matrix has no flags")
        form = struct.unpack_from(self.order + "I", flags, 0)[0] & 0xFF
        kind, sizes, place = self._element(body, place)
        if kind != 5 or not 4 <= len(sizes) <= 32 * 4 or len(sizes) % 4:
            raise self._refuse("a matrix has no dimensions")
        dims = struct.unpack(self.order + "i" * (len(sizes) // 4), sizes)
        count = math.prod(dims)
        if min(dims) < 0 or count > len(body):
            raise self._refuse("a matrix claims more entries than bytes", f"at most {len(body):,}", f"{dims}"[:60])
        _, _, place = self._element(body, place)
        if form in PLAIN:
            while place < len(body):
                kind, _, place = self._element(body, place)
                if kind in (MATRIX, COMPRESSED):
                    raise self._refuse("a matrix of numbers holds something else")
            return
        if form not in CONTAINERS:
            raise self._refuse("a variable is neither numbers, text, cell nor struct", "those", f"class {form}")
        per_entry = 1
        if form == 2:
            _, length, place = self._element(body, place)
            width = struct.unpack(self.order + "i", length)[0] if len(length) == 4 else 0
            _, names, place = self._element(body, place)
            if not 1 <= width <= 128 or len(names) % width:
                raise self._refuse("the names of a struct are damaged")
            per_entry = len(names) // width
        if 8 * count * per_entry > len(body):
            raise self._refuse("a struct or cell claims more entries than bytes")
        for _ in range(count * per_entry):
            kind, inside, place = self._element(body, place)
            if kind != MATRIX:
                raise self._refuse("a struct or cell holds something that is no matrix")
            self._matrix(inside, depth + 1)

    def _refuse(self, what: str, expected: str = "", found: str = "") -> InputError:
        return InputError(
            what, where=self.name, expected=expected or "a complete MATLAB v5 file", found=found,
            hint="copy the file again from its source",
        )  # fmt: skip
