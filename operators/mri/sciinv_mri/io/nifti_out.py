"""The magnitude maps of MRI as NIfTI with a JSON beside each.

Without an orientation the JSON says so. Keys follow BIDS derivatives (bids-specification 1.9, "Derivatives").
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.atomic import write_json
from sciinv.io.maps import RESEARCH_USE, generated_by, write_nifti

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
        "GeneratedBy": generated_by(),
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
