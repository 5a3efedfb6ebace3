"""Magnitude volumes from NIfTI, for retrospective studies: any axis order and type, brought to RAS."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.limits import reading, sha256
from sciinv.io.safe_nifti import is_nifti, nifti_view, read_nifti
from sciinv.io.spec import HeaderView, check_spec, load_spec

SPEC = "nifti-magnitude"


@dataclass(frozen=True)
class Magnitude:
    """A real, non-negative volume.

    Attributes
    ----------
    volume
        float32 (slice, row, column): the reverse of NIfTI's (x, y, z) after turning to RAS, so a column index grows to
        the right, a row index to the front, a slice index upwards.
    affine
        4 x 4, maps (column, row, slice) indices to RAS mm.
    voxel
        (row, column, slice) spacing in mm.
    oriented
        False when the file declares no orientation; the axes are then taken as RAS.
    """

    volume: NDArray[np.float32]
    affine: NDArray[np.float64]
    voxel: tuple[float, float, float]
    oriented: bool
    source: str
    sha256: str
    warnings: tuple[str, ...] = ()

    def info(self) -> dict[str, Any]:
        """Facts for ``sciinv info``, JSON-ready."""
        return {
            "format": SPEC,
            "sha256": self.sha256,
            "shape_slice_row_column": list(self.volume.shape),
            "voxel_mm": [round(size, 4) for size in self.voxel],
            "orientation": "known" if self.oriented else "unknown",
            "maximum": float(self.volume.max()),
            "warnings": list(self.warnings),
        }


def sniff_nifti(path: str | os.PathLike[str]) -> bool:
    """Say whether this is a single-file NIfTI image, compressed or not; never raises."""
    return is_nifti(path)


def view_nifti(path: str | os.PathLike[str]) -> HeaderView:
    """Shape, type and voxel size."""
    return nifti_view(path)


def read_nifti_magnitude(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, volume: int | None = None
) -> Magnitude:
    """Read a 3-D volume, or one `volume` of a 4-D series (default: the first, with a warning).

    Raises
    ------
    InputError
        Lying headers, NaN, an unusable affine, or a volume without any signal.
    """
    path, notes = Path(path), list[str]()
    with reading(path, "NIfTI"):
        check_spec(nifti_view(path), load_spec(SPEC), where=path.name)
        image = read_nifti(path, max_bytes=max_bytes)
        data = image.data.reshape((*image.data.shape[:3], -1)) if image.data.ndim > 3 else image.data
        data = data[..., None] if data.ndim == 2 else data
        if data.ndim == 4:
            index = volume or 0
            if not 0 <= index < data.shape[3]:
                raise InputError(
                    "no such volume", where=path.name, expected=f"0 to {data.shape[3] - 1}", found=str(index)
                )
            if data.shape[3] > 1 and volume is None:
                notes.append(f"the series has {data.shape[3]} volumes: only the first is used")
            data = data[..., index]
        if np.iscomplexobj(data):
            notes.append("the image is complex: its magnitude is used")
            data = np.abs(data)
        if not np.isfinite(data).all():
            raise InputError("the image holds NaN or infinity", where=path.name, expected="finite voxels")
        if data.min() < 0:
            notes.append("negative voxels are set to zero: a magnitude has none")
            data = np.maximum(data, 0)
        if not 1e-30 < data.max() < 1e30:
            raise InputError(
                "the image holds no usable signal",
                where=path.name,
                expected="a maximum between 1e-30 and 1e30",
                found=f"{data.max():.3g}",
            )
        turn = nib.orientations.io_orientation(image.affine)
        if np.isnan(turn).any():
            raise InputError("the affine does not give three axes", where=path.name, expected="an invertible affine")
        canonical = nib.orientations.apply_orientation(data, turn)
        affine = image.affine @ nib.orientations.inv_ornt_aff(turn, data.shape)
    if not image.oriented:
        notes.append("the file declares no orientation: its axes are taken as right, front, up")
    sizes = np.sqrt((affine[:3, :3] ** 2).sum(0))
    return Magnitude(
        volume=np.ascontiguousarray(canonical.transpose(2, 1, 0), np.float32),
        affine=affine,
        voxel=(float(sizes[1]), float(sizes[0]), float(sizes[2])),
        oriented=image.oriented,
        source=path.name,
        sha256=sha256(path),
        warnings=tuple(notes),
    )
