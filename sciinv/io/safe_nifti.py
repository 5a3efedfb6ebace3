"""NIfTI-1 and NIfTI-2 single files (``.nii``, ``.nii.gz``) read within the bytes that are really there.

The header is parsed by nibabel; the voxels are not, because its reader allocates what the header claims. A compressed
file is unpacked in pieces and stops at the claimed length, so a gzip bomb costs no more than its header says.
"""

from __future__ import annotations

import math
import os
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import check_claim, check_file, reading, starts_with
from sciinv.io.spec import FieldView, HeaderView, dtype_class

_HEADERS: dict[int, Any] = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
_MAGICS = {348: b"n+1\0", 540: b"n+2\0\r\n\x1a\n"}


@dataclass(frozen=True)
class NiftiImage:
    """Voxels in file order (x, y, z[, t...]) with slope and intercept applied, and where they are.

    `affine` is 4 x 4 and maps voxel indices to RAS mm, `voxel` is the voxel size in mm, `oriented` says whether the
    file's q-form or s-form declares an orientation.
    """

    data: NDArray[Any]
    affine: NDArray[np.float64]
    voxel: tuple[float, float, float]
    oriented: bool


def is_nifti(path: str | os.PathLike[str]) -> bool:
    """Say whether the file, unpacked if it is gzip, begins with a single-file NIfTI header; never raises."""
    try:
        head = _Source(check_file(path)).take(352)
    except (InputError, OSError, zlib.error):
        return False
    return head[344:348] == _MAGICS[348] or head[4:12] == _MAGICS[540]


def nifti_view(path: str | os.PathLike[str]) -> HeaderView:
    """Fields ``image`` (shape, dtype), ``pixdim`` and ``affine`` from the header alone."""
    path = check_file(path)
    with reading(path, "NIfTI"):
        header = _header(_Source(path), path)[0]
        shape = tuple(int(size) for size in header.get_data_shape())
        zooms = tuple(float(size) for size in header.get_zooms()[:3])
        return {
            "image": FieldView(shape, dtype_class(header.get_data_dtype())),
            "pixdim": FieldView((len(zooms),), "float", zooms),
            "affine": FieldView((4, 4), "float"),
        }


def read_nifti(path: str | os.PathLike[str], *, max_bytes: int | None = None) -> NiftiImage:
    """Read a NIfTI file; integers and floats come back as float32 (float64 if so stored), complex as complex64."""
    path = check_file(path)
    with reading(path, "NIfTI"):
        source = _Source(path)
        header, offset = _header(source, path)
        shape = tuple(int(size) for size in header.get_data_shape())
        dtype = np.dtype(header.get_data_dtype())
        if dtype.kind not in "iufc" or not shape or min(shape) < 1:
            raise InputError(
                "the image has no scalar voxels",
                where=path.name,
                expected="integers, floats or complex",
                found=f"{dtype} {shape}",
            )
        nbytes = math.prod(shape) * dtype.itemsize
        stored = path.stat().st_size
        check_claim(nbytes, stored, where=path.name, max_bytes=max_bytes)
        if not source.packed and offset + nbytes > stored:
            raise InputError(
                "the file is shorter than its header says",
                where=path.name,
                expected=f"{offset + nbytes:,} bytes",
                found=f"{stored:,} bytes",
                hint="copy the file again from its source",
            )
        source.skip_to(offset)
        raw = source.take(nbytes)
        if len(raw) != nbytes:
            raise InputError(
                "the file ends before its voxels do",
                where=path.name,
                expected=f"{nbytes:,} bytes of voxels",
                found=f"{len(raw):,} bytes",
                hint="copy the file again from its source",
            )
        source.finish()
        data = np.frombuffer(raw, dtype).reshape(shape, order="F")
        slope, inter = header.get_slope_inter()
        wide = np.complex64 if dtype.kind == "c" else np.float64 if dtype.itemsize > 4 else np.float32
        data = data.astype(wide)
        if slope is not None and (slope, inter) != (1.0, 0.0):
            data = (data * slope + inter).astype(wide)
        affine = np.asarray(header.get_best_affine(), np.float64)
        voxel = np.sqrt((affine[:3, :3] ** 2).sum(0))
        if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9 or voxel.max() > 1e4:
            raise InputError(
                "the affine is not a usable geometry",
                where=path.name,
                expected="finite, invertible, in mm",
                found=str(affine.tolist()),
            )
        oriented = bool(int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0)
        return NiftiImage(data, affine, (float(voxel[0]), float(voxel[1]), float(voxel[2])), oriented)


def _header(source: _Source, path: Path) -> tuple[Any, int]:
    head = source.take(348)
    size = {int.from_bytes(head[:4], order): order for order in ("little", "big")}
    kind = next((k for k in _HEADERS if k in size), None)
    if kind is None or len(head) < 348:
        raise InputError(
            "this is no NIfTI header",
            where=path.name,
            expected="348 or 540 as its first number",
            found=str(sorted(size)),
        )
    head += source.take(kind - 348)
    magic = head[344:348] if kind == 348 else head[4:12]
    if magic != _MAGICS[kind]:
        raise InputError(
            "only single-file NIfTI is read",
            where=path.name,
            expected="magic n+1 or n+2",
            found=repr(magic),
            hint="convert the .hdr/.img pair to .nii",
        )
    header = _HEADERS[kind].from_fileobj(BytesIO(head), check=False)
    offset = float(header["vox_offset"])
    if not (kind <= offset < 1 << 26) or offset != int(offset):
        raise InputError(
            "the voxels begin at an impossible place",
            where=path.name,
            expected=f"a byte offset from {kind} on",
            found=str(offset),
        )
    return header, int(offset)


class _Source:
    """Bytes of a plain or gzip-compressed file, in order, never more than asked for."""

    def __init__(self, path: Path):
        self.path, self.packed, self.position = path, starts_with(path, b"\x1f\x8b"), 0
        self._file = open(path, "rb")  # closed when the source is collected, at the end of one read
        self._unzip = zlib.decompressobj(wbits=31)

    def __del__(self) -> None:
        self._file.close()

    def take(self, count: int) -> bytes:
        pieces, missing = [], count
        while missing > 0:
            piece = self._unpack(missing) if self.packed else self._file.read(missing)
            if not piece:
                break
            pieces.append(piece)
            missing -= len(piece)
        self.position += count - missing
        return b"".join(pieces)

    def skip_to(self, position: int) -> None:
        while self.position < position and self.take(min(position - self.position, 1 << 20)):
            pass

    def finish(self) -> None:
        """Run a compressed stream to its checksum, so that a flipped bit in the voxels does not load silently."""
        if not self.packed:
            return
        surplus = 0
        while piece := self._unpack(1 << 16):
            surplus += len(piece)
            if surplus > 1 << 20:
                raise InputError(
                    "the file holds more than its header says",
                    where=self.path.name,
                    hint="copy the file again from its source",
                )
        if not self._unzip.eof:
            raise InputError(
                "the compressed stream is cut short", where=self.path.name, hint="copy the file again from its source"
            )

    def _unpack(self, limit: int) -> bytes:
        while not self._unzip.eof:
            block = self._unzip.unconsumed_tail or self._file.read(1 << 16)
            piece = self._unzip.decompress(block, limit)
            if piece or not block:
                return piece
        return b""
