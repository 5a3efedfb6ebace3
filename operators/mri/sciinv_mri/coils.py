"""Coil noise and coil compression.

From a noise scan ``eta`` (coil, samples), ``N = eta eta^H / n`` and ``y <- L^-1 y`` with ``N = L L^H`` make the noise
white with ``E|n|^2 = 1`` for a complex sample, that is sigma = 1/sqrt(2) per real part (Pruessmann et al., MRM 46,
638, 2001). Without a noise scan the level of every coil is read off samples that hold next to no signal.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sciinv.errors import InputError
from sciinv_mri.fft import ifftc


def whitening(noise: Tensor, jitter: float = 1e-6) -> Tensor:
    """``L^-1`` of a noise scan.

    Parameters
    ----------
    noise : complex ``(coil, samples)``; its mean (receiver offset) is removed.
    jitter : added to the diagonal, relative to its mean, so that dead or identical coils stay invertible.

    Returns
    -------
    Tensor
        Complex ``(coil, coil)``, for `apply`.
    """
    coils, samples = noise.shape
    if samples < 2 * coils:
        raise InputError(
            "noise scan too short to whiten with", expected=f"at least {2 * coils} samples a coil", found=str(samples)
        )
    eta = noise.to(torch.complex128)
    eta = eta - eta.mean(1, keepdim=True)
    cov = eta @ eta.mH / (samples - 1)
    level = cov.diagonal().real.mean()
    if not bool(level > 0):
        raise InputError("the noise scan is zero", expected="noise", found="0")
    eye = torch.eye(coils, dtype=cov.dtype, device=cov.device)
    lower = torch.linalg.cholesky(cov + jitter * level * eye)
    return torch.linalg.solve_triangular(lower, eye, upper=False).to(noise.dtype)


def apply(matrix: Tensor, kspace: Tensor) -> Tensor:
    """``(new, coil)`` matrix on k-space ``(..., coil, kx, ky)``."""
    return torch.einsum("vc,...cxy->...vxy", matrix, kspace)


def noise_levels(kspace: Tensor, mask: Tensor) -> Tensor:
    """Noise of each coil, ``sqrt(E|n|^2)`` of a complex sample, from imaging data.

    The median of ``|n|^2`` over samples without signal is ``s^2 ln 2``. Such samples are the outermost measured
    k-space and, when whole readouts are measured, the outermost sixteenth of the field of view along the readout in
    the outer half of the measured lines. Both can only err upwards, so the smaller counts.

    Parameters
    ----------
    kspace : complex ``(coil, kx, ky)``, zero where not measured.
    mask : bool ``(kx or 1, ky)``.

    Returns
    -------
    Tensor
        Real ``(coil,)``.
    """
    rows, columns = kspace.shape[1:]
    full = mask.expand(rows, columns)
    ky, kx = (torch.arange(n, device=kspace.device) - n // 2 for n in (columns, rows))
    radius = torch.hypot(kx[:, None] / rows, ky / columns)[full]
    outer = kspace[:, full][:, radius >= torch.quantile(radius, 0.9)]
    found = [_level(outer)]
    if mask.shape[0] == 1:
        lines = ky.abs()[mask[0]]
        edge = max(2, rows // 16)
        hybrid = ifftc(kspace[:, :, mask[0]], 1)[:, :, lines >= lines.median()]
        found.append(_level(torch.cat([hybrid[:, :edge], hybrid[:, -edge:]], 1).flatten(1)))
    level = torch.stack(found).amin(0)
    if not bool((level > 0).all()):
        bad = torch.nonzero(level <= 0).flatten().tolist()
        # a noiseless simulation or a dead coil: a floor far below any signal keeps the whitening finite
        peak = kspace.abs().amax()
        if not bool(peak > 0):
            raise InputError(
                "k-space is zero everywhere", expected="measured samples", found=f"{len(bad)} silent coils"
            )
        level = level.clamp_min(1e-6 * float(peak))
    return level


def _level(samples: Tensor) -> Tensor:
    return (samples.abs().square().median(1).values / math.log(2)).sqrt()


def compression(kspace: Tensor, n: int) -> Tensor:
    """Matrix ``(n, coil)`` onto the ``n`` virtual coils of most energy (Buehrer et al., MRM 57, 1131, 2007), dominant
    first.

    Its rows are orthonormal, so white noise stays white. With ``n`` equal to the number of coils it is a rotation.
    """
    coils = kspace.shape[0]
    if not 1 <= n <= coils:
        raise InputError("number of virtual coils", expected=f"1 to {coils}", found=str(n))
    flat = kspace.flatten(1).to(torch.complex128)
    _, vectors = torch.linalg.eigh(flat @ flat.mH)
    return vectors[:, -n:].flip(1).mH.to(kspace.dtype).resolve_conj()
