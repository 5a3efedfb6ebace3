"""LoDoPaB-CT style HDF5: ``data`` (slice, view, cell) of post-log observations over ``MU_MAX``.

Parallel beam of 1000 views over half a turn (midpoints), 513 cells over [-183.8, 183.8] mm around an image of 260 mm,
4096 photons a cell before the object (Leuschner et al., Sci. Data 8, 109, 2021; geometry from the source of DIVal).
Images of that set are stored x first; `reference` is turned to rows of constant y, the highest first.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from sciinv.errors import InputError
from sciinv.io.limits import reading, sha256
from sciinv.io.safe_hdf5 import Hdf5File, is_hdf5
from sciinv.io.spec import HeaderView, check_spec, load_spec
from sciinv_ct.io.scan import Beam, Counts, Scan, check_projections, square

SPEC = "lodopab"
MU_MAX = 81.35858e-3  # 1/mm
PHOTONS = 4096.0
HALF_DETECTOR, HALF_IMAGE = 183.8, 130.0  # mm
FLOOR = 0.1  # counts that the set's authors give to an empty cell


def sniff_lodopab(path: str | os.PathLike[str]) -> bool:
    """Say whether the file holds nothing but ``data`` with three axes, 513 cells wide; never raises."""
    if not is_hdf5(path):
        return False
    try:
        with Hdf5File(path) as file:
            seen = file.view(("/data",)).get("/data")
            return file.children() == ["data"] and seen is not None and len(seen.shape) == 3 and seen.shape[2] == 513
    except InputError:
        return False


def view_lodopab(path: str | os.PathLike[str]) -> HeaderView:
    """Shape and type."""
    with Hdf5File(path) as file:
        return file.view(("/data",))


def read_lodopab(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, reference: Path | None = None, counts: bool = True
) -> Scan:
    """Read observations.

    Parameters
    ----------
    reference : file of the same name with ``ground_truth`` in it, if it is to be compared with.
    counts : turn the observations back into counts, for the likelihood of Poisson.
    """
    path = Path(path)
    with reading(path, "LoDoPaB HDF5"), Hdf5File(path, max_bytes=max_bytes) as file:
        check_spec(file.view(("/data",)), load_spec(SPEC), where=path.name)
        values = MU_MAX * 1e3 * file.array("/data").astype(np.float32)
    views, cells = values.shape[1:]
    angles = (np.arange(views) + 0.5) * math.pi / views
    notes = check_projections(values, angles, path.name, None)
    truth = None if reference is None else _truth(reference, len(values), max_bytes)
    blank = None
    if counts:
        values = (PHOTONS * np.exp(-values)).astype(np.float32)
        values[values < 2 * FLOOR] = 0.0
        one = np.full((len(values), cells), PHOTONS, np.float32)
        blank = Counts(one, np.zeros_like(one), gain=1.0)
    return Scan(
        values, SPEC, path.name, sha256(path), angles, Beam("parallel", 2 * HALF_DETECTOR / cells), blank, truth,
        2 * HALF_IMAGE / truth.shape[-1] if truth is not None else 0.0, warnings=tuple(notes),
    )  # fmt: skip


def _truth(path: Path, count: int, max_bytes: int | None) -> np.ndarray:
    with reading(path, "LoDoPaB HDF5"), Hdf5File(path, max_bytes=max_bytes) as file:
        images = file.array("/data").astype(np.float32)
    if not square(images) or len(images) != count or not np.isfinite(images).all():
        raise InputError(
            "the ground truth does not fit the observations", where=Path(path).name, expected=f"({count}, n, n)",
            found=str(images.shape),
        )  # fmt: skip
    return np.ascontiguousarray(MU_MAX * images.transpose(0, 2, 1)[:, ::-1])
