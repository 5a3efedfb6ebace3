"""Comparison with a known truth: coverage, error-uncertainty correlation, PSNR, SSIM, NMSE.

Every function reduces the image axes and keeps the batch. SSIM follows Wang et al. 2004 with a uniform 7 x 7 window,
sample covariances and only whole windows, the convention of scikit-image.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from sciinv.errors import MismatchError


def coverage(lower: Tensor, upper: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fraction of ``truth`` inside ``[lower, upper]``, over all entries or those where ``mask`` is true; 0-dim."""
    inside = (lower <= truth) & (truth <= upper)
    return (inside if mask is None else inside[mask.expand(inside.shape)]).to(torch.float64).mean()


def error_correlation(std: Tensor, error: Tensor, mask: Tensor | None = None) -> Tensor:
    """Pearson correlation of the reported ``std`` with ``|error|``, over all entries or a mask; 0 if constant."""
    pick = torch.ones_like(std, dtype=torch.bool) if mask is None else mask.expand(std.shape)
    a, b = std[pick].to(torch.float64), error.abs()[pick].to(torch.float64)
    a, b = a - a.mean(), b - b.mean()
    scale = a.norm() * b.norm()
    return torch.where(scale > 0, (a * b).sum() / scale.clamp_min(torch.finfo(scale.dtype).tiny), 0.0)


def nmse(x: Tensor, reference: Tensor, ndim: int = 2) -> Tensor:
    """``|x - reference|^2 / |reference|^2`` over the last ``ndim`` axes."""
    axes = _axes(x, reference, ndim)
    return (x - reference).abs().square().sum(axes) / reference.abs().square().sum(axes)


def psnr(
    x: Tensor, reference: Tensor, data_range: float | None = None, ndim: int = 2, mask: Tensor | None = None
) -> Tensor:
    """Peak signal-to-noise ratio in dB over the last ``ndim`` axes, or over the pixels of ``mask`` in them.

    ``data_range`` is the peak; by default the largest magnitude of the reference image, as in fastMRI.
    """
    axes = _axes(x, reference, ndim)
    square = (x - reference).abs().square()
    if mask is None:
        mse = square.mean(axes)
    else:
        inside = mask.expand(square.shape).to(square.dtype)
        mse = (square * inside).sum(axes) / inside.sum(axes)
    peak = reference.abs().amax(axes) if data_range is None else torch.as_tensor(data_range, dtype=mse.dtype)
    return 10 * torch.log10(peak.square() / mse)


def ssim(
    x: Tensor, reference: Tensor, data_range: float | None = None, window: int = 7, mask: Tensor | None = None
) -> Tensor:
    """Structural similarity of real images ``(*batch, height, width)``, averaged over windows (centred in ``mask``).

    ``data_range`` is the dynamic range; by default the largest value of the reference image, as in fastMRI.
    """
    axes = _axes(x, reference, 2)
    if x.is_complex() or reference.is_complex() or min(x.shape[-2:]) < window or window % 2 == 0:
        raise MismatchError(
            "SSIM needs real images no smaller than an odd window",
            found=f"{tuple(x.shape)} {x.dtype}",
            hint="take the modulus",
        )
    u, v = x.to(torch.float64), reference.to(torch.float64)
    peak = v.amax(axes) if data_range is None else torch.as_tensor(data_range, dtype=v.dtype)
    c1, c2 = ((k * peak.to(v.device))[..., None, None] ** 2 for k in (0.01, 0.03))
    mu, mv = _local(u, window), _local(v, window)
    unbiased = window**2 / (window**2 - 1)
    var_u, var_v = (unbiased * (_local(a * a, window) - m * m) for a, m in ((u, mu), (v, mv)))
    cov = unbiased * (_local(u * v, window) - mu * mv)
    value = (2 * mu * mv + c1) * (2 * cov + c2) / ((mu**2 + mv**2 + c1) * (var_u + var_v + c2))
    if mask is None:
        return value.mean((-2, -1))
    edge = window // 2
    inside = mask.expand(x.shape)[..., edge : x.shape[-2] - edge, edge : x.shape[-1] - edge].to(value.dtype)
    return (value * inside).sum((-2, -1)) / inside.sum((-2, -1))


def _local(x: Tensor, window: int) -> Tensor:
    """Means over whole windows."""
    flat = x.reshape(-1, 1, *x.shape[-2:])
    out = avg_pool2d(flat, window, stride=1)
    return out.reshape(*x.shape[:-2], *out.shape[-2:])


def _axes(x: Tensor, reference: Tensor, ndim: int) -> tuple[int, ...]:
    if x.shape != reference.shape or not 1 <= ndim <= x.ndim:
        raise MismatchError(
            "images to compare differ in shape", expected=str(tuple(reference.shape)), found=str(tuple(x.shape))
        )
    return tuple(range(-ndim, 0))
