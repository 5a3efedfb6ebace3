"""Clean images from a folder: ``.npy``, ``.nii``, ``.nii.gz``, ``.h5`` and FITS files, real or complex, of any size.

The last two axes of an array are the image (the first two of a NIfTI volume, which is stored x, y, z); all other axes
count slices. FITS stores the lower row first and, on the sky, the eastern column first, unless the signs of CDELT say
otherwise: it is turned so that row 0 is the upper one. Each file is divided by the 99th percentile of its magnitude,
so that a network sees values near one, or each image is brought to a given mean; training takes random crops, flipped
and rescaled a little.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from sciinv.errors import InputError
from sciinv.io.safe_fits import open_fits
from sciinv.io.safe_hdf5 import Hdf5File
from sciinv.io.safe_nifti import read_nifti
from sciinv.io.safe_npy import read_npy

HDF5_NAMES = ("reconstruction_rss", "reconstruction", "image", "images", "data")
"""Datasets looked for in an HDF5 file, in this order, before its only dataset."""

FITS_NAMES = (".fits", ".fit", ".fts")

_TRIES = 8


def _hdf5(path: Path) -> NDArray[np.generic]:
    with Hdf5File(path) as file:
        names = file.children()
        known = [name for name in HDF5_NAMES if name in names]
        if not known and len(names) != 1:
            raise InputError(
                "which dataset holds the images is not clear", where=path.name,
                expected=f"one of {', '.join(HDF5_NAMES)}, or a single dataset", found=", ".join(names[:8]) or "none",
            )  # fmt: skip
        return file.array((known or names)[0])


def _fits(path: Path) -> NDArray[np.generic]:
    """The first image of the file, upper row first."""
    with open_fits(path) as (units, opened):
        for unit, hdu in zip(units, opened, strict=False):
            if unit.kind == "image" and len(unit.shape) >= 2 and unit.nbytes:
                steps = (unit.header.get("CDELT1", -1.0), unit.header.get("CDELT2", 1.0))
                if not all(isinstance(s, int | float) and np.isfinite(s) for s in steps):
                    raise InputError("CDELT is no number", where=path.name, found=str(steps)[:80])
                array = np.asarray(hdu.data)
                array = array[..., ::-1, :] if steps[1] >= 0 else array
                return array[..., ::-1] if steps[0] > 0 else array
    raise InputError("the file holds no image", where=path.name, expected="a FITS image of two axes or more")


def read_images(path: Path, complex_pair: bool = True, mean: float | None = None) -> Tensor:
    """All slices of one file, float32 (slice, channel, height, width), scaled; real images get a zero imaginary part.

    With ``mean`` each image is brought to that mean, without it each file to a 99th percentile of one.

    Raises
    ------
    InputError
        The file cannot be read, has fewer than two axes, is not finite or is empty; of images to be brought to a mean,
        one is not positive in total.
    """
    suffix = path.name.lower()
    if suffix.endswith(".npy"):
        array = read_npy(path)
    elif suffix.endswith(FITS_NAMES):
        array = _fits(path)
    elif suffix.endswith((".nii", ".nii.gz")):
        array = np.moveaxis(read_nifti(path).data, (0, 1), (-2, -1))
    else:
        array = _hdf5(path)
    if array.ndim < 2 or array.dtype.kind not in "iufc":
        raise InputError(
            "this holds no images", where=path.name, expected="numbers with at least two axes",
            found=f"{array.dtype} {array.shape}",
        )  # fmt: skip
    wide = array.astype(np.complex64).reshape(-1, *array.shape[-2:])
    if not np.isfinite(wide).all():
        raise InputError("an image holds NaN or infinity", where=path.name, expected="finite numbers")
    if mean is None:
        scale = float(np.percentile(np.abs(wide), 99))
        if not scale > 0:
            raise InputError(
                "the images are empty", where=path.name, expected="a positive 99th percentile", found=str(scale)
            )
        wide /= scale
    else:
        own = wide.real.mean((1, 2), dtype=np.float64)
        if not (own > 1e-30).all():
            raise InputError(
                "an image has no positive mean", where=path.name, expected="flux above zero", found=str(own.min())
            )
        wide *= (mean / own).astype(np.float32)[:, None, None]
    return torch.from_numpy(
        np.stack((wide.real, wide.imag), 1) if complex_pair else np.ascontiguousarray(wide.real[:, None])
    )


@dataclass
class FolderSource:
    """Random crops of images in memory; a `Source` for `sciinv.training.dsm.train`.

    Attributes
    ----------
    volumes : one tensor (slice, channel, height, width) a file.
    crop : side of the square crops; smaller images are padded with zeros.
    flips : whether to mirror at random.
    jitter : largest relative change of scale.
    """

    volumes: list[Tensor]
    crop: int
    flips: bool = True
    jitter: float = 0.1
    starts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.volumes = [
            F.pad(v, (0, max(0, self.crop - v.shape[-1]), 0, max(0, self.crop - v.shape[-2]))) for v in self.volumes
        ]
        self.starts = np.cumsum([0] + [len(v) for v in self.volumes])

    def image(self, generator: torch.Generator) -> Tensor:
        """One training image (channel, crop, crop); crops with next to nothing in them are drawn again."""
        for _ in range(_TRIES):
            pick = torch.randint(2**31, (5,), generator=generator).tolist()
            index = pick[0] % int(self.starts[-1])
            volume = int(np.searchsorted(self.starts, index, "right")) - 1
            whole = self.volumes[volume][index - int(self.starts[volume])]
            i, j = pick[1] % (whole.shape[-2] - self.crop + 1), pick[2] % (whole.shape[-1] - self.crop + 1)
            x = whole[:, i : i + self.crop, j : j + self.crop]
            if x.square().mean() > 0.01:
                break
        turned = [axis for axis, coin in ((1, pick[3]), (2, pick[4])) if self.flips and coin % 2]
        factor = 1 + self.jitter * (2 * torch.rand((), generator=generator) - 1)
        return x.flip(turned) * factor

    def shares(self, mean: float) -> bool:
        """Whether every image is used whole, is nonnegative and has this mean, with what it was padded by."""
        return all(
            tuple(v.shape[-2:]) == (self.crop, self.crop)
            and float(v.min()) >= 0
            and bool(((v.mean((1, 2, 3)) - mean).abs() <= 1e-4 * mean).all())
            for v in self.volumes
        )

    def deviation(self) -> float:
        """Standard deviation of the images about zero, the ``sigma_data`` of the preconditioning."""
        total = sum(float(v.double().square().sum()) for v in self.volumes)
        return (total / sum(v.numel() for v in self.volumes)) ** 0.5


def read_folder(folder: Path, complex_pair: bool = True, mean: float | None = None) -> tuple[list[Path], list[Tensor]]:
    """Paths and images of every image file under a folder, in alphabetical order.

    Raises
    ------
    InputError
        The folder is missing or holds no image file.
    """
    kinds = (".npy", ".nii", ".nii.gz", ".h5", ".hdf5", *FITS_NAMES)
    paths = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(kinds)) if folder.is_dir() else []
    if not paths:
        raise InputError(
            "there are no images to train on", where=str(folder),
            expected="a folder with .npy, .nii, .nii.gz, .h5 or .fits files",
            found="no such folder" if not folder.is_dir() else "no such files",
        )  # fmt: skip
    return paths, [read_images(path, complex_pair, mean) for path in paths]
