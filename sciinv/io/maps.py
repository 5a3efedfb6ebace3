"""What domains write: maps as NIfTI-1 in RAS, samples in HDF5, the note that makes a folder a BIDS derivative.

An array (slice, row, column) is stored transposed, (column, row, slice); the affine maps those indices to RAS mm and is
written as both s-form and q-form, code 1 (scanner). Without an orientation the affine is the voxel size alone and both
codes are 0. The same input gives the same bytes.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import h5py
import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.atomic import atomic_path, write_bytes, write_json

Attribute = str | int | float | bool | None
RESEARCH_USE = (
    "Research use only. Not a medical device, not for diagnosis or treatment. Uncertainty maps hold only if the "
    "forward model, the noise model and the prior do; structures absent from the prior's training data may be "
    "missing or invented."
)


def write_nifti(
    path: str | os.PathLike[str],
    volume: NDArray[Any],
    affine: NDArray[np.float64] | None,
    *,
    voxel: Sequence[float] | None = None,
    description: str = "research use only",
) -> Path:
    """Write a real volume as float32 NIfTI-1, compressed when `path` ends in ``.gz``.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``.
    volume
        Real (slice, row, column), or (n, slice, row, column) stored as a 4-D series.
    affine
        4 x 4 mapping (column, row, slice) to RAS mm, or None when the orientation is unknown.
    voxel
        (row, column, slice) spacing in mm, used only without an affine (default 1 mm).
    description
        At most 79 characters for the header; never a name or a date.
    """
    volume = np.asarray(volume)
    if volume.ndim not in (3, 4) or volume.dtype.kind not in "biuf":
        raise InputError(
            "a map must be a real volume",
            where=str(path),
            expected="(slice, row, column)",
            found=f"{volume.dtype} {volume.shape}",
        )
    if not np.isfinite(volume).all():
        raise InputError("a map holds NaN or infinity", where=Path(path).name, expected="finite values")
    data = volume.transpose(range(volume.ndim)[::-1]).astype(np.float32)  # (n, z, y, x) -> (x, y, z, n)
    row, column, thick = voxel or (1.0, 1.0, 1.0)
    matrix = np.diag([column, row, thick, 1.0]) if affine is None else np.asarray(affine, np.float64)
    image = nib.Nifti1Image(data, matrix)
    code = 0 if affine is None else 1
    image.set_sform(matrix, code)
    image.set_qform(matrix, code)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = description.encode("ascii", "replace")[:79]
    raw = image.to_bytes()
    # mtime 0 and no file name: a resumed run must produce the same hash
    return write_bytes(path, gzip.compress(raw, 6, mtime=0) if str(path).endswith(".gz") else raw)


def write_samples(
    path: str | os.PathLike[str], samples: NDArray[Any], attributes: Mapping[str, Attribute] | None = None
) -> Path:
    """Write ``/samples`` (sample, slice, row, column) as they are, compressed, with `attributes` (None is left out)."""
    with atomic_path(path) as temporary, h5py.File(temporary, "w-") as file:
        dataset = file.create_dataset(
            "samples", data=samples, chunks=(1, 1, *samples.shape[2:]), compression="gzip", compression_opts=1,
            shuffle=True,
        )  # fmt: skip
        dataset.attrs["dimensions"] = np.bytes_(b"sample,slice,row,column")
        for name, value in sorted((attributes or {}).items()):
            if value is not None:
                file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value
    return Path(path)


def write_dataset_description(out_dir: str | os.PathLike[str], *, name: str = "sciinv reconstruction") -> Path:
    """Write ``dataset_description.json``, which makes the folder a BIDS derivative."""
    about = {"Name": name, "BIDSVersion": "1.9.0", "DatasetType": "derivative", "GeneratedBy": generated_by()}
    return write_json(Path(out_dir) / "dataset_description.json", about)


def generated_by() -> list[dict[str, str]]:
    """The BIDS key ``GeneratedBy``."""
    try:
        return [{"Name": "sciinv", "Version": version("sciinv")}]
    except PackageNotFoundError:
        return [{"Name": "sciinv", "Version": "unknown"}]
