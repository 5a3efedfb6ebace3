"""Maps as NIfTI-1 in RAS with a JSON beside each; the same input gives the same bytes.

An array (slice, row, column) is stored transposed, (column, row, slice); `affine` maps those indices to RAS mm and is
written as both s-form and q-form, code 1 (scanner). Without an orientation the affine is the voxel size alone, both
codes are 0, and the JSON says so. Keys follow BIDS derivatives (bids-specification 1.9, "Derivatives").
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.atomic import write_bytes, write_json

RESEARCH_USE = (
    "Research use only. Not a medical device, not for diagnosis or treatment. Uncertainty maps hold only if the "
    "forward model, the noise model and the prior do; structures absent from the prior's training data may be "
    "missing or invented."
)
# map name -> what it holds; the names are the stems of the files
MAPS = {
    "mean": "posterior mean of the magnitude",
    "median": "posterior median of the magnitude",
    "phase": "phase of the complex posterior mean, in radians",
    "std": "posterior standard deviation of the magnitude",
    "lower": "lower bound of the credible interval of the magnitude",
    "upper": "upper bound of the credible interval of the magnitude",
    "cov": "coefficient of variation: standard deviation over mean, zero outside the signal",
    "sample": "one posterior sample of the magnitude",
    "reference": "magnitude of the reference in the input file",
}


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


def sidecar(
    kind: str,
    *,
    units: str,
    oriented: bool,
    samples: int | None = None,
    noise_std: float | None = None,
    acceleration: float | None = None,
    prior: str | None = None,
    prior_sha256: str | None = None,
    method: str | None = None,
    calibrated: bool = False,
    coverage: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the JSON of one map; `coverage` states the nominal and the measured coverage of the bounds."""
    about: dict[str, Any] = {
        "Description": MAPS.get(kind, kind),
        "GeneratedBy": [{"Name": "sciinv", "Version": _version()}],
        "Units": "rad" if kind == "phase" else "1" if kind == "cov" else units,
        "NumberOfPosteriorSamples": samples,
        "NoiseStd": noise_std,
        "Acceleration": acceleration,
        "Method": method,
        "PriorName": prior,
        "PriorSha256": prior_sha256,
        "Calibrated": calibrated,
        "Coverage": dict(coverage) if coverage else None,
        "OrientationKnown": oriented,
        "SkullStripped": False,
        "ResearchUseOnly": RESEARCH_USE,
    }
    return {key: value for key, value in about.items() if value is not None} | dict(extra or {})


def write_maps(
    out_dir: str | os.PathLike[str],
    maps: Mapping[str, NDArray[Any]],
    affine: NDArray[np.float64] | None,
    meta: Mapping[str, Any],
    *,
    voxel: Sequence[float] | None = None,
    prefix: str = "recon",
) -> list[Path]:
    """Write each map as ``{prefix}_{name}.nii.gz`` with ``{prefix}_{name}.json`` beside it.

    Parameters
    ----------
    out_dir
        Folder, created if needed.
    maps
        Name to real array (slice, row, column); `MAPS` lists the usual names.
    affine, voxel
        As in `write_nifti`.
    meta
        Keyword arguments of `sidecar` other than `kind` and `oriented`.
    prefix
        First part of the names.

    Returns
    -------
    paths
        Every file written, images and JSON.
    """
    out, paths = Path(out_dir), []
    for name, volume in maps.items():
        if not name.isidentifier():
            raise InputError(
                "a map needs a plain name", where=str(out), expected="letters, digits and _", found=name[:60]
            )
        about = sidecar(name, oriented=affine is not None, **meta)
        paths.append(
            write_nifti(
                out / f"{prefix}_{name}.nii.gz",
                volume,
                affine,
                voxel=voxel,
                description=f"sciinv {name}, research use only",
            )
        )
        paths.append(write_json(out / f"{prefix}_{name}.json", about))
    return paths


def write_dataset_description(out_dir: str | os.PathLike[str], *, name: str = "sciinv reconstruction") -> Path:
    """Write ``dataset_description.json``, which makes the folder a BIDS derivative."""
    about = {
        "Name": name,
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "sciinv", "Version": _version()}],
    }
    return write_json(Path(out_dir) / "dataset_description.json", about)


def _version() -> str:
    try:
        return version("sciinv")
    except PackageNotFoundError:
        return "unknown"
