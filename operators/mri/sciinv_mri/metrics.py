"""Image quality of magnitudes: PSNR and SSIM (Wang et al., IEEE TIP 13, 600, 2004), as fastMRI sets them."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def psnr(image: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of ``|image|``; the peak is that of ``|reference|``."""
    truth = reference.abs().double()
    error = (image.abs().double() - truth).square().mean()
    return float(20 * math.log10(float(truth.max())) - 10 * torch.log10(error))


def ssim(image: Tensor, reference: Tensor, window: int = 7) -> float:
    """Mean structural similarity of ``|image|``: uniform window, sample covariances, range ``max |reference|``."""
    x, y = image.abs().double()[None, None], reference.abs().double()[None, None]
    span = float(y.max())
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2

    def mean(v: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(v, window, stride=1)

    mx, my = mean(x), mean(y)
    unbiased = window**2 / (window**2 - 1)
    vx, vy, vxy = (
        unbiased * (mean(a * b) - ma * mb) for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    value = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return float(value.mean())
