"""Phase of the maps and of the image.

Eigenvectors fix coil maps up to a phase in every pixel. Setting it by one coil puts a vortex wherever that coil's
sensitivity vanishes: the image then winds by 2 pi around a point where the anatomy does not, and a prior paints a
confident black dot there. The phase of the low-resolution calibration image has no such freedom: with ``S <- S exp(i
arg S^H I_low)`` the maps no longer depend on the first choice, and the unknown image is real and positive up to
detail finer than the calibration.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinv_mri.espirit import lowres_coil_images
from sciinv_mri.fft import crop_centre


def unit(z: Tensor) -> Tensor:
    """``exp(i arg z)``, one where ``z`` is zero."""
    return torch.polar(torch.ones_like(z.real), z.angle())


def reference_phase(maps: Tensor, calibration: Tensor) -> Tensor:
    """Factors ``(sets, h, w)`` that make the projection of the maps on one virtual coil positive.

    The coil is the conjugate sensitivity of a pixel, or a principal coil of the calibration; among these the one is
    taken whose weakest one per cent inside the object is strongest, so that the phase of the output has no vortex
    there if that can be.
    """
    energy = lowres_coil_images(calibration, (maps.shape[-2], maps.shape[-1])).abs().square().sum(0)
    inside = maps[0][:, energy > 0.02 * energy.max()]
    flat = calibration.flatten(1)
    _, principal = torch.linalg.eigh(flat @ flat.mH)
    candidates = torch.cat([principal, inside[:, :: max(1, inside.shape[1] // 64)]], 1)
    candidates = candidates / candidates.norm(dim=0).clamp_min(1e-20)
    weakest = torch.quantile((candidates.mH @ inside).abs(), 0.01, dim=1)
    return unit(torch.einsum("c,mchw->mhw", candidates[:, weakest.argmax()].conj(), maps)).conj().resolve_conj()


def lowres_phase(maps: Tensor, calibration: Tensor) -> Tensor:
    """Phase factors ``exp(i arg S^H I_low)``, ``(sets, h, w)``, with the resolution of the calibration lines."""
    rows, lines = calibration.shape[1:]
    # a whole-readout calibration is cut to the resolution of its few lines: phase is smooth, noise and ringing are not
    square = crop_centre(calibration, (min(rows, max(2 * lines, 16)), lines))
    images = lowres_coil_images(square, (maps.shape[-2], maps.shape[-1]), window=True)
    return unit(torch.einsum("mchw,chw->mhw", maps.conj(), images))
