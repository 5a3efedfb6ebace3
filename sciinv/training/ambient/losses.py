"""Losses that need no clean image; each row of a batch gets one number.

Ambient Diffusion (Daras et al., NeurIPS 2023, arXiv 2305.19256), noise before the further corruption:
``|A (h(A~^H A~ x_t, A~) - x_0)|^2`` with ``A~ x_t = B (y + sigma A n)``. If ``E[A^T A | A~]`` is regular for every
``A~``, the minimiser is ``E[x_0 | A~ x_t, A~]``, which is NOT ``E[x_0 | x_t]``.

Mask and noise, ``y = A x_0 + sigma_y n``: the data are brought to level sigma in the space they were measured in,
``v = y + sqrt(sigma^2 - sigma_y^2) n'``, the network sees ``B v``. What B keeps shares its noise with the input, so
there Tweedie's formula corrects the target, ``a A h + (1 - a) v - y`` with ``a = 1 - sigma_y^2 / sigma^2``; what B
drops has noise of its own and is a plain target, ``A h - y``.

Tweedie (Daras et al., Consistent Diffusion Meets Tweedie, ICML 2024, arXiv 2404.10177) is the case of whole images:
``|a h(x_t) + (1 - a) x_t - y|^2`` for ``sigma > sigma_y``, whose minimiser is ``E[x_0 | x_t]`` exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sciinv.operator import power
from sciinv.training.ambient.items import Batch, rows_like

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``(input, sigma) -> image``: what the network sees, ``(n, channel, *space)``, and the noise level, ``(n,)``."""


def measured_mean(residual: Tensor, measured: Tensor) -> Tensor:
    """Mean square per real component over what is measured, ``(n,)``."""
    count = measured.expand_as(residual).flatten(1).sum(1) * (2 if residual.is_complex() else 1)
    return (power(residual) * measured).flatten(1).sum(1) / count.clamp_min(1)


def ambient_input(batch: Batch, keep: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """``A~^H B (y + sigma A n)`` with n white in image space, ``(n, channel, *space)``."""
    kept = keep & batch.measured
    return batch.operator.adjoint((batch.y + rows_like(sigma, batch.y) * batch.operator(noise)) * kept)


def ambient(denoise: Denoiser, batch: Batch, keep: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Loss through A of a network that sees ``A~ x_t``; the noise of the data is neglected."""
    estimate = denoise(ambient_input(batch, keep, sigma, noise), sigma)
    return measured_mean(batch.operator(estimate) - batch.y, batch.measured)


def ambient_noisy(denoise: Denoiser, batch: Batch, keep: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """The same with noise in the data; ``noise`` is white in the data's shape, ``sigma`` above the data's."""
    kept = keep & batch.measured
    level, floor = rows_like(sigma, batch.y), rows_like(batch.sigma, batch.y)
    v = (batch.y + (level.square() - floor.square()).sqrt() * noise) * batch.measured
    estimate = batch.operator(denoise(batch.operator.adjoint(v * kept), sigma))
    a = 1 - (floor / level).square()
    corrected = torch.where(kept, a * estimate + (1 - a) * v, estimate)
    return measured_mean(corrected - batch.y, batch.measured)


def tweedie(denoise: Denoiser, noisy: Tensor, floor: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Loss of a denoiser from noisy images ``(n, channel, *space)`` of level ``floor`` at ``sigma`` above it."""
    level, low = rows_like(sigma, noisy), rows_like(floor, noisy)
    x = noisy + (level.square() - low.square()).sqrt() * noise
    a = 1 - (low / level).square()
    return (a * denoise(x, sigma) + (1 - a) * x - noisy).square().flatten(1).mean(1)
