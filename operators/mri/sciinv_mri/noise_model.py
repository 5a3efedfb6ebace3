"""Noise that includes the error of the coil maps, for every phase-encoding line or k-space radius.

The data hold ``F (S x + e)`` with ``e`` what the maps do not explain. Inside the calibration region ``r = F (I - S
S^+) I_cal`` shows it, except near that region's edge where the cut itself leaves a residual, so its smallest value
over the lines is the level ``e0``. Outside, the error falls with the signal: ``sigma^2(k) = thermal^2 + e0 min(1,
P(k) / P(edge of calibration))`` with ``P`` the measured power above noise. Checked on real data against the oracle
``F (I - S S^+) I_full``: within a factor of two line by line, within 10 % in total. All levels are variances per real
part.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sciinv_mri.espirit import calibration_spectrum

Kind = Literal["thermal", "scalar", "spectral"]


class NoiseModel(NamedTuple):
    """Standard deviation per real part, ``(kx or 1, ky)``, and its parts for the record."""

    sigma: Tensor
    thermal: float
    map_error: float


def noise_model(
    kind: Kind,
    kspace: Tensor,
    mask: Tensor,
    maps: Tensor,
    region: tuple[slice, slice],
    thermal: float,
    averages: Tensor | None = None,
) -> NoiseModel:
    """Noise of whitened k-space.

    Parameters
    ----------
    kind : ``thermal`` ignores the map error, ``scalar`` adds its mean over measured samples, ``spectral`` lets it
        follow the signal.
    kspace : complex ``(coil, kx, ky)``, zero where not measured.
    mask : bool ``(kx or 1, ky)``; one row means whole readouts and a model of ky alone, else one of the distance from
        the centre.
    maps : complex ``(sets, coil, h, w)`` on the same grid.
    region : calibration region as slices of (kx, ky).
    thermal : thermal standard deviation per real part of one acquisition.
    averages : acquisitions averaged in each line ``(ky,)``; divides the thermal variance.

    Returns
    -------
    NoiseModel
        ``map_error`` is the root mean square of the map error over measured samples, per real part.
    """
    rows, columns = kspace.shape[1:]
    lines = mask.shape[0] == 1
    where = _bins(rows, columns, lines)
    residual = _profile(calibration_spectrum(maps, kspace, region), torch.ones_like(mask), where)
    cal = np.unique(where[(slice(None) if lines else region[0]), region[1]])
    if not lines:  # discs that the calibration rectangle holds whole, away from its edge
        half = min((s.stop - s.start) // 2 for s in region)
        cal = np.arange(max(1, half))
    # the projection that leaves the residual also removes sets/coil of the noise; what is left of noise must not
    # count as map error
    floor = thermal**2 * (1 - maps.shape[0] / maps.shape[1])
    e0 = max(float(np.nanmin(residual[cal])) - floor, 0.0)
    power = np.maximum(_profile(kspace, mask, where) - thermal**2, 1e-3 * thermal**2)
    known = np.flatnonzero(np.isfinite(power))
    power = np.exp(np.interp(np.arange(len(power)), known, np.log(power[known])))
    edge = min(power[cal[0]], power[cal[-1]]) if lines else power[cal[-1]]
    error = e0 * np.minimum(1.0, power / edge)
    error[cal] = e0
    kept = np.broadcast_to(mask.cpu().numpy(), where.shape)
    total = float(np.mean(error[where][kept]))
    added = {"thermal": np.zeros(where.shape), "scalar": np.full(where.shape, total), "spectral": error[where]}[kind]
    variance = thermal**2 / (1.0 if averages is None else averages.cpu().numpy()) + added
    sigma = torch.as_tensor(np.sqrt(variance), dtype=maps.real.dtype, device=maps.device)
    return NoiseModel(sigma, thermal, total**0.5)


def _bins(rows: int, columns: int, lines: bool) -> NDArray[Any]:
    """Bin of every place, ``(1 or rows, columns)``: the line itself, or the rounded distance from the centre."""
    if lines:
        return np.arange(columns)[None]
    kx, ky = np.arange(rows) - rows // 2, np.arange(columns) - columns // 2
    return np.rint(np.hypot(kx[:, None], ky)).astype(int)


def _profile(kspace: Tensor, mask: Tensor, where: NDArray[Any]) -> NDArray[Any]:
    """Mean power per real part over coils and the measured places of each bin; NaN where a bin has none."""
    power = (kspace.abs().square().mean(0) / 2).double().cpu().numpy()
    if len(where) == 1:
        power = power.mean(0, keepdims=True)
    kept = np.broadcast_to(mask.cpu().numpy(), where.shape)
    count = np.bincount(where[kept], minlength=where.max() + 1)
    total = np.bincount(where[kept], power[kept], minlength=where.max() + 1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
