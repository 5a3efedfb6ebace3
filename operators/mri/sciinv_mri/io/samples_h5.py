"""Posterior samples and fastMRI predictions in HDF5, written atomically; equal input gives equal bytes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io import maps
from sciinv.io.atomic import atomic_path
from sciinv.io.limits import reading
from sciinv.io.maps import Attribute
from sciinv.io.safe_hdf5 import Hdf5File


def write_samples(
    path: str | os.PathLike[str], samples: NDArray[np.complex64], attributes: Mapping[str, Attribute] | None = None
) -> Path:
    """Write ``/samples`` (sample, slice, row, column) complex64, compressed, with `attributes` (None is left out)."""
    samples = np.asarray(samples)
    if samples.ndim != 4 or samples.dtype.kind != "c":
        raise InputError(
            "samples must be complex (sample, slice, row, column)",
            where=Path(path).name,
            found=f"{samples.dtype} {samples.shape}",
        )
    return maps.write_samples(path, samples.astype(np.complex64), attributes)


def read_samples(
    path: str | os.PathLike[str], *, max_bytes: int | None = None
) -> tuple[NDArray[np.complex64], dict[str, Attribute]]:
    """Read what `write_samples` wrote: the samples and the attributes."""
    with reading(path, "samples HDF5"), Hdf5File(path, max_bytes=max_bytes) as file:
        samples = file.array("/samples")
        if samples.ndim != 4 or samples.dtype.kind != "c":
            raise InputError(
                "the file holds no posterior samples", where=Path(path).name, found=f"{samples.dtype} {samples.shape}"
            )
        return samples.astype(np.complex64, copy=False), {
            name: file.attribute("/", name) for name in file.attribute_names("/")
        }


def write_reconstruction(path: str | os.PathLike[str], volume: NDArray[np.floating]) -> Path:
    """Write ``/reconstruction`` (slice, row, column) float32, as fastMRI's evaluator reads predictions."""
    volume = np.asarray(volume, np.float32)
    if volume.ndim != 3 or not np.isfinite(volume).all():
        raise InputError(
            "a reconstruction must be a finite volume",
            where=Path(path).name,
            expected="(slice, row, column)",
            found=str(volume.shape),
        )
    with atomic_path(path) as temporary, h5py.File(temporary, "w-") as file:
        file.create_dataset("reconstruction", data=volume)
    return Path(path)
