"""GSURE diffusion (Kawar et al. 2023, arXiv 2305.13128): Stein's unbiased estimate of the error on what was measured.

In spectral coordinates ``u = U^H y / s = V^H x_0 + (sigma_y / s) n``. Coordinates with ``sigma_y / s <= sigma`` are
topped up to level sigma, the others are pure noise of that level; ``x_t = V v``. With P the first kind,

``E |P (V^H h(x_t) - V^H x_0)|^2 = E |P (V^H h - u)|^2 + 2 E sum_P (sigma_y / s)^2 d(V^H h) / dv - sum_P (sigma_y /
s)^2``

exactly (lambda = 1; the published code uses 1e-4, which nearly switches the divergence off). The divergence is one
Hutchinson probe, differentiated again by the optimiser. The network is not told P: where P is not the identity it
learns ``E[x_0 | P x_t and noise]``, not ``E[x_0 | x_t]``. The published weights 1 / E[P] are left out: they do not move
the minimiser of any coordinate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciinv.errors import Unsupported
from sciinv.operator import inner, power
from sciinv.training.ambient.items import Batch, rows_like
from sciinv.training.ambient.losses import Denoiser


def spectral_shape(batch: Batch) -> torch.Size:
    """Shape of the batch in spectral coordinates, refused where they are redundant (their noise is not white)."""
    if not batch.operator.has_svd():
        raise Unsupported(
            "gsure needs the singular value decomposition of the operators", found=type(batch.operator).__name__,
            hint="--method ambient-noisy or em, which need none",
        )  # fmt: skip
    space = batch.operator.svd().V.domain
    if space.size != batch.operator.domain.size:
        raise Unsupported(
            "the spectral coordinates are redundant, so their noise is not white", hint="--method ambient-noisy or em"
        )
    return torch.Size((len(batch.y), *space.shape))


def gsure(denoise: Denoiser, batch: Batch, sigma: Tensor, noise: Tensor, probe: Tensor) -> Tensor:
    """Estimated mean square error per measured real coordinate, ``(n,)``.

    ``noise`` and ``probe`` (of +-1 per real component) have the spectral shape; see `spectral_shape`.
    """
    svd = batch.operator.svd()
    u = svd.Uh(batch.y)
    level = rows_like(batch.sigma, u) / svd.s.to(u.real.dtype).clamp_min(torch.finfo(u.real.dtype).tiny)
    top = rows_like(sigma, u).expand(u.shape)
    level = level.expand(u.shape)
    kept = level <= top
    variance = torch.where(kept, level, 0).square()
    extra = torch.where(kept, top.square() - variance, top.square()).sqrt()
    with torch.enable_grad():
        v = (torch.where(kept, u, 0) + extra * noise).requires_grad_()
        estimate = svd.V.adjoint(denoise(svd.V(v), sigma))
        (pulled,) = torch.autograd.grad(estimate, v, variance * probe, create_graph=True)
    axes = u.ndim - 1
    error = (power(estimate - u) * kept).flatten(1).sum(1) + 2 * inner(pulled, probe, axes)
    reals = 2 if u.is_complex() else 1
    count = kept.flatten(1).sum(1).clamp_min(1) * reals
    return (error - reals * variance.flatten(1).sum(1)) / count


def signs(uniform: Tensor) -> Tensor:
    """+-1 from uniform numbers; complex where they are (real and imaginary parts apart)."""
    if uniform.is_complex():
        return torch.view_as_complex(signs(torch.view_as_real(uniform)))
    return 1 - 2 * (uniform < 0.5).to(uniform.dtype)


def floors(batch: Batch) -> Tensor:
    """The widest noise of a coordinate of each row, ``sigma_y / s``, ``(n,)``; infinite where one is not measured."""
    smallest = batch.operator.svd().s.expand(spectral_shape(batch)).flatten(1).amin(1)
    return batch.sigma / smallest.to(batch.sigma.dtype)
