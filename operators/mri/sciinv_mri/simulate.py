"""Measurements from an image: ``y = M F S x + n`` with synthetic coils, written as a fastMRI file with its truth.

``x`` is the phantom or a NIfTI magnitude with a smooth phase. The coils are circular loops around the head;
the sensitivity of a loop is its transverse field ``B_x - i B_y`` by the law of Biot and Savart, with the loops' sum of
squares normalised to one, so that the noise-free root-sum-of-squares is ``|x|`` and its noise level that of k-space.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sciinv.errors import InputError, UsageError
from sciinv_mri.fft import fftc
from sciinv_mri.io.fastmri_out import write_fastmri
from sciinv_mri.io.kspace import KSpace
from sciinv_mri.io.nifti_in import read_nifti_magnitude
from sciinv_mri.masks import Kind, undersample
from sciinv_mri.phantom import HEAD_MM, head, resample, smooth_phase

Array = NDArray[Any]
PHANTOM = "phantom"
SCANNER_UNITS = 3e-4  # raw scanner data are small numbers; a reader that forgets to scale shows it here
_PROTOCOL = {"t1": "AXT1", "t2": "AXT2", "pd": "AXT2", "flair": "AXFLAIR"}


def simulate(
    source: str | Path,
    out: str | Path,
    *,
    acceleration: float = 4.0,
    calib_lines: int = 10,
    pattern: Kind = "random",
    coils: int = 8,
    snr: float = 40.0,
    noise_correlation: float = 0.0,
    seed: int = 0,
    slices: int | Sequence[int] = 2,
    matrix: tuple[int, int] | None = None,
    contrast: str = "t1",
) -> Path:
    """Write simulated multi-coil k-space with its truth as ``reconstruction_rss``.

    Parameters
    ----------
    source : ``"phantom"``, or a NIfTI magnitude volume.
    out : the HDF5 file to write.
    acceleration : net acceleration, calibration included; 1 keeps everything.
    calib_lines : fully sampled central lines.
    pattern : sampling pattern, see `sciinv_mri.masks.undersample`.
    coils : number of receive loops.
    snr : mean magnitude of the object over the noise standard deviation per real component of a fully sampled image.
    noise_correlation : correlation of the noise of neighbouring coils, 0 to 0.9.
    seed : of the head, phase, coils, mask and noise.
    slices : how many slices, spread over the middle of the head; or, for a NIfTI file, their indices.
    matrix : rows (anterior to posterior, the readout) and columns; default the file's own, 128 x 108 for the phantom.
    contrast : of the phantom: t1, t2, pd or flair.

    Raises
    ------
    UsageError : a setting is out of its range.
    InputError : the NIfTI file is unusable.
    """
    number = slices if isinstance(slices, int) else len(slices)
    for name, value, low, high in (
        ("acceleration", acceleration, 1, 1000), ("calib_lines", calib_lines, 0, 1024), ("coils", coils, 1, 128),
        ("snr", snr, 0.1, 1e6), ("noise_correlation", noise_correlation, 0, 0.9), ("seed", seed, 0, 2**32),
        ("slices", number, 1, 512), *(("matrix", side, 16, 1024) for side in matrix or ()),
    ):  # fmt: skip
        if not low <= value <= high:  # also refuses NaN
            raise UsageError(f"{name} is out of range", expected=f"{low} to {high}", found=str(value))
    if str(source) == PHANTOM:
        heights = _spread(slices if isinstance(slices, int) else len(slices), 8.0, 40.0)
        matrix = matrix or (128, 108)
        image = head(matrix, heights, contrast=contrast, seed=seed)
        fov, protocol = HEAD_MM, _PROTOCOL[contrast]
    else:
        image, heights, fov, protocol = *_from_nifti(Path(source), slices, matrix, seed), "AXT1"
    size = (image.shape[1], image.shape[2])
    image = SCANNER_UNITS * image
    maps = loop_maps(coils, size, heights, fov, seed)
    clean = fftc(torch.from_numpy(maps * image[:, None]), (-2, -1)).numpy()
    magnitude = np.abs(image)
    sigma = float(magnitude[magnitude > 0.1 * np.quantile(magnitude, 0.99)].mean()) / snr
    kspace = (clean + sigma * _noise(clean.shape, noise_correlation, seed)).astype(np.complex64)
    full = np.ones((1, 1, size[1]), bool)
    data = KSpace(kspace=kspace, mask=full, ky_range=(0, size[1]), target=size, format="fastmri")
    data = undersample(data, acceleration, calib_lines, pattern, seed)
    step = abs(heights[1] - heights[0]) if len(heights) > 1 else 5.0
    voxel = (fov[0] / size[0], fov[1] / size[1], step)
    return write_fastmri(
        out, data.kspace, mask=data.mask, reference=magnitude.astype(np.float32), voxel=voxel, acquisition=protocol
    )


def loop_maps(
    coils: int, matrix: tuple[int, int], heights_mm: Sequence[float], fov_mm: tuple[float, float], seed: int = 0
) -> Array:
    """Sensitivities of loops on an ellipse around the field of view, sum of squares one.

    Parameters
    ----------
    coils : number of loops; 12 or more form two rings.
    matrix : rows and columns.
    heights_mm : slice positions; the loops are centred on their middle.
    fov_mm : field of view of rows and columns in mm.
    seed : of the small displacements of the loops.

    Returns
    -------
    complex64 array ``(slice, coil, rows, columns)``.
    """
    rng = np.random.default_rng([seed, 22])
    rows, columns = ((np.arange(n) - n // 2) * (f / n) for n, f in zip(matrix, fov_mm, strict=True))
    y, x = np.meshgrid(-rows, columns, indexing="ij")
    rings = 2 if coils >= 12 else 1
    number = np.arange(coils)
    around = 2 * np.pi * (number // rings + 0.5 * (number % rings)) / np.ceil(coils / rings)
    around = around + 0.1 * rng.normal(size=coils)
    axes = 0.66 * np.array([fov_mm[1], fov_mm[0]])  # outside the field of view
    radius = 0.6 * 2 * np.pi * axes.mean() / max(np.ceil(coils / rings), 6)  # neighbours overlap
    lift = np.mean(heights_mm) + (radius * (2 * (number % rings) - 1) if rings == 2 else np.zeros(coils))
    turn = 2 * np.pi * (np.arange(32) + 0.5) / 32
    maps = np.empty((len(heights_mm), coils, *matrix), np.complex64)
    for c in range(coils):
        normal = np.array([np.cos(around[c]), np.sin(around[c])])
        centre = axes * normal * (1 + 0.04 * rng.normal())
        # points and line elements of a loop whose axis points at the head
        across = np.array([-normal[1], normal[0]])
        px, py = (centre[i] + radius * np.cos(turn) * across[i] for i in range(2))
        pz = lift[c] + radius * np.sin(turn)
        dx, dy = (-np.sin(turn) * across[i] for i in range(2))
        dz = np.cos(turn)
        for s, z in enumerate(heights_mm):
            rx, ry, rz = x[..., None] - px, y[..., None] - py, z - pz
            r3 = (rx * rx + ry * ry + rz * rz) ** 1.5
            maps[s, c] = ((dy * rz - dz * ry) / r3).sum(-1) - 1j * ((dz * rx - dx * rz) / r3).sum(-1)
    return maps / np.sqrt((np.abs(maps) ** 2).sum(1, keepdims=True))


def _noise(shape: tuple[int, ...], correlation: float, seed: int) -> Array:
    """Complex noise of unit variance per real component, neighbouring coils (axis 1) correlated."""
    rng = np.random.default_rng([seed, 23])
    white = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    if correlation == 0:
        return white
    number = np.arange(shape[1])
    root = np.linalg.cholesky(correlation ** np.abs(number[:, None] - number))
    return np.einsum("dc,scxy->sdxy", root, white)


def _from_nifti(
    path: Path, slices: int | Sequence[int], matrix: tuple[int, int] | None, seed: int
) -> tuple[Array, list[float], tuple[float, float]]:
    """Complex slices (rows from front to back), their heights in mm, and the field of view."""
    data = read_nifti_magnitude(path)
    count = len(data.volume)
    if isinstance(slices, int):
        used = np.flatnonzero(data.volume.max((1, 2)) > 0.1 * data.volume.max())
        middle = used[len(used) // 4 : max(3 * len(used) // 4, len(used) // 4 + 1)]
        index = [int(middle[round(i)]) for i in _spread(min(slices, len(middle)), 0, len(middle) - 1)]
    else:
        index = list(slices)
    if not index or not all(0 <= i < count for i in index):
        raise InputError("no such slice", where=path.name, expected=f"0 to {count - 1}", found=str(index))
    magnitude = data.volume[index][:, ::-1] / np.quantile(data.volume[data.volume > 0], 0.99)
    fov = (data.voxel[0] * magnitude.shape[1], data.voxel[1] * magnitude.shape[2])
    heights = [i * data.voxel[2] for i in index]
    shape = (magnitude.shape[1], magnitude.shape[2])
    phases = np.stack([smooth_phase(shape, seed, z, fov) for z in heights])
    return resample(magnitude * np.exp(1j * phases), matrix or shape), heights, fov


def _spread(count: int, first: float, last: float) -> list[float]:
    """``count`` numbers over an interval; its middle when there is one."""
    return [(first + last) / 2] if count == 1 else [float(v) for v in np.linspace(first, last, count)]
