"""Measurements of an image: counts of a parallel beam with white and dark frames, as a DXchange file with its truth.

The image is projected at twice the resolution of the detector and the transmissions of two cells are averaged, so that
the file does not hold the reconstruction's own model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from sciinv.errors import InputError, UsageError
from sciinv.io.atomic import atomic_path
from sciinv.io.safe_npy import is_npy, read_npy
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.io import read
from sciinv_ct.io.dxchange import PITCH, REFERENCE
from sciinv_ct.io.scan import MU_WATER
from sciinv_ct.phantom import FAMILIES
from sciinv_ct.prepare import resampled, shares, squared
from sciinv_ct.projector import Projector

PHANTOM = "phantom"
SIZES = {"piecewise": (76.0, 0.033), "body": (380.0, MU_WATER)}
"""Field of view in mm and attenuation of the reference material in 1/mm of the two families."""


def simulate(
    source: str | Path,
    out: str | Path,
    *,
    family: Literal["piecewise", "body"] = "piecewise",
    cells: int = 128,
    views: int = 60,
    arc: float = 180.0,
    photons: float = 2e4,
    electronic: float = 5.0,
    dark: float = 100.0,
    fov: float = 0.0,
    mu: float = 0.0,
    slices: int = 1,
    seed: int = 0,
) -> Path:
    """Write simulated counts of an image.

    Parameters
    ----------
    source : ``"phantom"``, a CT image (DICOM, NIfTI), or a square ``.npy`` image in units of ``mu``.
    family : of the phantom.
    cells : detector cells over the field of view, and pixels along a side of the truth.
    views, arc : views over this many degrees.
    photons : blank counts of a cell.
    electronic, dark : read-out noise and dark level, in counts.
    fov, mu : side of the image in mm and attenuation of a value of one in 1/mm, of phantoms and ``.npy`` images; 0
        takes those of the family.
    slices : of the phantom, one object each; or the first slices of a volume.
    seed : of the phantom and the noise.
    """
    for name, value, low, high in (
        ("cells", cells, 16, 2048), ("views", views, 1, 10_000), ("arc", arc, 1, 360), ("photons", photons, 1, 1e9),
        ("electronic", electronic, 0, 1e5), ("dark", dark, 0, 1e6), ("fov", fov, 0, 1e5), ("mu", mu, 0, 100),
        ("slices", slices, 1, 1024), ("seed", seed, 0, 2**32),
    ):  # fmt: skip
        if not low <= value <= high:
            raise UsageError(f"{name} is out of range", expected=f"{low} to {high:g}", found=str(value))
    images, side = _images(source, family, cells, fov, mu, slices, seed)
    n = images.shape[-1]
    fine = Geometry("parallel", np.deg2rad(arc) * np.arange(views) / views, n, side / n, Grid((n, n), side / n))
    with torch.no_grad():
        lines = Projector(fine)(torch.from_numpy(images.astype(np.float32))).double().numpy()
    passed = (np.exp(-lines) @ shares(n, cells).T).transpose(1, 0, 2)  # (view, slice, cell)
    rng = np.random.default_rng([seed, 51])

    def read_out(rate: NDArray[np.float64]) -> NDArray[np.float32]:
        return (rng.poisson(rate) + dark + electronic * rng.normal(size=rate.shape)).astype(np.float32)

    blank = np.full((10, len(images), cells), float(photons))
    truth = np.stack([resampled(image, cells) for image in images]).astype(np.float32)
    with atomic_path(out) as temporary, h5py.File(temporary, "w-") as file:
        group = file.create_group("exchange")
        for name, frames in (
            ("data", read_out(photons * passed)), ("data_white", read_out(blank)), ("data_dark", read_out(0 * blank)),
        ):  # fmt: skip
            group.create_dataset(name, data=frames, compression="gzip", compression_opts=1, shuffle=True)
        theta = group.create_dataset("theta", data=np.rad2deg(fine.angles))
        theta.attrs["units"] = np.bytes_(b"degrees")
        group["data"].attrs[PITCH] = side / cells
        file.create_dataset(REFERENCE, data=truth, compression="gzip", compression_opts=1, shuffle=True)
    return Path(out)


def _images(
    source: str | Path, family: str, cells: int, fov: float, mu: float, slices: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Images ``(slice, n, n)`` in 1/mm and their side in mm."""
    side, unit = fov or SIZES[family][0], mu or SIZES[family][1]
    if str(source) == PHANTOM:
        draw = FAMILIES[family]
        drawn = [draw(np.random.default_rng([seed, 50, k]), 2 * cells) for k in range(slices)]
        return unit * np.stack(drawn).astype(np.float64), side
    path = Path(source)
    if is_npy(path):
        image = np.asarray(read_npy(path), np.float64)
        image = image[None] if image.ndim == 2 else image
        if image.ndim != 3 or image.shape[1] != image.shape[2] or not np.isfinite(image).all() or image.min() < 0:
            raise InputError("this is no image", where=path.name, expected="finite, not negative, (n, n)",
                             found=str(image.shape))  # fmt: skip
        return unit * image[:slices], side
    data = read(path)
    if not data.is_image:
        raise InputError("the file holds projections already", where=path.name, expected="a CT image")
    assert data.place is not None
    made = [squared(image.astype(np.float64), data.place.pixel) for image in data.values[:slices]]
    return np.stack([image for image, _ in made]), made[0][1] * made[0][0].shape[0]
