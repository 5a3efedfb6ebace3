"""ESPIRiT coil maps by exact eigendecomposition, one or more sets (Uecker et al., MRM 71, 990, 2014).

Patches of calibration k-space span a low-dimensional space with projector ``W``. Averaged over all positions, ``W``
is a convolution in k-space, so a matrix in every pixel q, ``G(q)[c, d] = |patch|^-1 sum_ab W[(c, a), (d, b)] exp(2 pi
i (a - b) q / n)``. It is Hermitian with eigenvalues in [0, 1], and coil images ``S(q) x(q)`` are its eigenvectors of
eigenvalue one: maps are the leading eigenvectors. Power iteration stops short where two eigenvalues are close
(aliased field of view); a batched ``eigh`` does not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sciinv.errors import InputError
from sciinv_mri.fft import fftc, ifftc, pad_centre


class CoilMaps(NamedTuple):
    """Maps ``(sets, coil, h, w)`` of unit power where kept, and their eigenvalues ``(sets, h, w)``."""

    maps: Tensor
    eigenvalues: Tensor


def espirit(
    calibration: Tensor,
    shape: tuple[int, int],
    *,
    kernel: int = 4,
    threshold: float = 0.005,
    noise: float = 0.0,
    sets: int = 1,
    crop: float = 0.0,
    soft: bool = False,
    chunk: int = 4096,
) -> CoilMaps:
    """Coil maps from fully sampled calibration k-space.

    Parameters
    ----------
    calibration : complex ``(coil, kx, ky)``, centred, whitened.
    shape : image size (h, w).
    kernel : patch edge, clipped to the calibration size.
    threshold : singular values of the patch matrix below this share of the largest are noise.
    noise : root mean square ``|n|`` of the calibration's noise: singular values that white noise alone reaches are
        noise.
    sets : number of map sets.
    crop : eigenvalue below which a pixel's map is zero (no signal that the maps explain).
    soft : fade from 0 at ``crop`` to 1 at ``(1 + crop) / 2`` instead of a hard edge.
    chunk : pixels decomposed at once.

    Returns
    -------
    CoilMaps
        The phase of each eigenvector is free; it is set relative to the dominant virtual coil (see `sciinv_mri.phase`).
    """
    coils, *size = calibration.shape
    if min(size) < 2:
        raise InputError(
            "too little calibration data for coil maps", expected="at least 2 x 2 fully sampled central points",
            found=f"{size[0]} x {size[1]}", hint="data with calibration lines in the centre of k-space",
        )  # fmt: skip
    if not 1 <= sets <= coils:
        raise InputError("number of map sets", expected=f"1 to {coils} (the number of coils)", found=str(sets))
    kx, ky = min(kernel, size[0]), min(kernel, size[1])
    lags = _lag_kernel(signal_space(calibration, kx, ky, threshold, noise), coils, kx, ky)
    ex, ey = (_phases(n, k).to(calibration) for n, k in zip(shape, (kx, ky), strict=True))
    partial = torch.einsum("wq,cdpq->wcdp", ey, lags.to(calibration)).contiguous()
    maps = calibration.new_empty((shape[0], shape[1], coils, sets))
    values = torch.empty((*shape, sets), dtype=maps.real.dtype, device=maps.device)
    rows = max(1, chunk // shape[1])
    for lo in range(0, shape[0], rows):
        g = torch.einsum("hp,wcdp->hwcd", ex[lo : lo + rows], partial)
        lam, vec = torch.linalg.eigh(g)
        values[lo : lo + rows], maps[lo : lo + rows] = lam[..., -sets:].flip(-1), vec[..., -sets:].flip(-1)
    values = values.clamp(0, 1).permute(2, 0, 1).contiguous()
    weight = ((values - crop) / (1 - crop) * 2).clamp(0, 1) if soft else (values >= crop).to(values.dtype)
    return CoilMaps(maps.permute(3, 2, 0, 1) * weight[:, None], values)


def signal_space(calibration: Tensor, kx: int, ky: int, threshold: float, noise: float = 0.0) -> Tensor:
    """Orthonormal basis ``(coil * kx * ky, rank)`` of the calibration patches' signal space, complex128."""
    coils = calibration.shape[0]
    patches = calibration.to(torch.complex128).unfold(1, kx, 1).unfold(2, ky, 1)
    patches = patches.permute(0, 3, 4, 1, 2).reshape(coils * kx * ky, -1)
    power, basis = torch.linalg.eigh(patches @ patches.mH)
    # the largest singular value of a rows x columns matrix of white noise (Marchenko and Pastur 1967)
    edge = noise * (patches.shape[0] ** 0.5 + patches.shape[1] ** 0.5)
    return basis[:, power > max(threshold**2 * float(power[-1]), edge**2)]


def _lag_kernel(basis: Tensor, coils: int, kx: int, ky: int) -> Tensor:
    """Sum of the projector ``W`` over equal lags a - b, over the patch size: ``(coil, coil, 2 kx - 1, 2 ky - 1)``."""
    w = (basis @ basis.mH).reshape(coils, kx, ky, coils, kx, ky)
    out = w.new_zeros((coils, coils, 2 * kx - 1, 2 * ky - 1))
    for a in range(kx):
        for b in range(ky):
            # lag index (a - a') + kx - 1 for a' = 0 ... kx - 1 runs downwards from a + kx - 1
            out[:, :, a : a + kx, b : b + ky] += w[:, a, b].flip(2, 3)
    return out / (kx * ky)


def _phases(n: int, k: int) -> Tensor:
    """``exp(2 pi i lag (q - n // 2) / n)`` for lags -(k - 1) ... k - 1, shape ``(n, 2 k - 1)``, complex128."""
    q, lag = torch.arange(n, dtype=torch.float64) - n // 2, torch.arange(1 - k, k, dtype=torch.float64)
    angle = 2 * torch.pi / n * q[:, None] * lag
    return torch.polar(torch.ones_like(angle), angle)


def lowres_coil_images(calibration: Tensor, shape: tuple[int, int], window: bool = False) -> Tensor:
    """Coil images ``(coil, h, w)`` of a centred calibration block; ``window`` tapers it (Hann) against ringing."""
    if window:
        for axis in (1, 2):
            n = calibration.shape[axis]
            taper = torch.hann_window(n + 2, periodic=False, device=calibration.device)[1:-1]
            calibration = calibration * taper.view([-1 if a == axis else 1 for a in range(3)])
    return ifftc(pad_centre(calibration, shape), (-2, -1))


def residual_images(maps: Tensor, images: Tensor) -> Tensor:
    """``(I - S S^+) images``: the part of coil images ``(coil, h, w)`` that no image behind ``maps`` explains."""
    sets = maps if maps.ndim == 4 else maps[None]
    s = sets.permute(2, 3, 1, 0)
    v = images.permute(1, 2, 0)[..., None]
    gram = s.mH @ s
    eye = 1e-6 * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    part = s @ torch.linalg.solve(gram + eye, s.mH @ v)
    return (v - part)[..., 0].permute(2, 0, 1)


def map_residual(maps: Tensor, calibration: Tensor) -> float:
    """Relative size of the calibration image that the maps do not explain, ``|(I - S S^+) I| / |I|``."""
    images = lowres_coil_images(calibration, (maps.shape[-2], maps.shape[-1]))
    return float(residual_images(maps, images).norm() / images.norm())


def calibration_spectrum(maps: Tensor, kspace: Tensor, region: tuple[slice, slice]) -> Tensor:
    """K-space ``(coil, h, w)`` of the calibration region's unexplained part: where in k-space the maps err."""
    calibration = torch.zeros_like(kspace)
    calibration[:, region[0], region[1]] = kspace[:, region[0], region[1]]
    return fftc(residual_images(maps, ifftc(calibration, (-2, -1))), (-2, -1))
