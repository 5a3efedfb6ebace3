"""NIfTI volumes in Hounsfield units or 1/mm, for retrospective studies: axial slices of a volume brought to LPS order.

After turning to RAS a slice is stored with its first row at the front of the patient and its first column on the
patient's right, as a radiologist looks at it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from sciinv.errors import InputError
from sciinv.io.limits import reading, sha256
from sciinv.io.safe_nifti import is_nifti, nifti_view, read_nifti
from sciinv.io.spec import HeaderView, check_spec, load_spec
from sciinv_ct.io.scan import MU_WATER, Placement, Scan, one_of

SPEC = "nifti-ct"
Unit = Literal["auto", "hu", "1/mm"]
sniff_nifti = is_nifti


def view_nifti(path: str | os.PathLike[str]) -> HeaderView:
    """Shape, type and voxel size."""
    return nifti_view(path)


def read_nifti_ct(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, unit: Unit = "auto", mu_water: float = MU_WATER
) -> Scan:
    """Read a volume.

    Parameters
    ----------
    unit : ``auto`` takes values below -200 for Hounsfield units and values in [0, 1] for 1/mm.
    mu_water : in 1/mm, for Hounsfield units.
    """
    path = Path(path)
    one_of(unit, ("auto", "hu", "1/mm"), "unit")
    with reading(path, "NIfTI"):
        check_spec(nifti_view(path), load_spec(SPEC), where=path.name)
        image = read_nifti(path, max_bytes=max_bytes)
        data = image.data.reshape(image.data.shape[:3]) if image.data.ndim > 3 else image.data
        data = data[..., None] if data.ndim == 2 else data
        if np.iscomplexobj(data) or not np.isfinite(data).all():
            raise InputError("the volume is not finite and real", where=path.name)
        turn = nib.orientations.io_orientation(image.affine)
        if np.isnan(turn).any():
            raise InputError("the affine does not give three axes", where=path.name, expected="an invertible affine")
        volume = nib.orientations.apply_orientation(data, turn)
        affine = image.affine @ nib.orientations.inv_ornt_aff(turn, data.shape)
        flip = np.eye(4)
        flip[1, 1], flip[1, 3] = -1, volume.shape[1] - 1  # rows from front to back
        values, affine = volume.transpose(2, 1, 0)[:, ::-1].astype(np.float32), affine @ flip
        low, high = float(values.min()), float(values.max())
        kind = ("hu" if low < -200 else "1/mm" if low >= 0 and high <= 1 else "") if unit == "auto" else unit
        if not kind or (kind == "1/mm" and not 1e-6 < high < 10) or (kind == "hu" and not -900 < high < 1e5):
            raise InputError(
                "the unit of the values is not clear", where=path.name,
                expected="Hounsfield units or 1/mm",
                found=f"{low:.4g} to {high:.4g}", hint="--set input.unit=hu or 1/mm",
            )  # fmt: skip
        if kind == "hu":
            values = mu_water * (1 + values / 1000)
        place = Placement.of_affine(affine, len(values), image.oriented)
    notes = () if image.oriented else ("the file declares no orientation: its axes are taken as right, front, up",)
    return Scan(
        np.ascontiguousarray(np.maximum(values, 0), np.float32), SPEC, path.name, sha256(path), place=place,
        units="HU" if kind == "hu" else "1/mm", mu_water=mu_water, warnings=notes,
    )  # fmt: skip
