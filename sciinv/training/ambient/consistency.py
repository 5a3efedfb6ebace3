"""Consistency below the noise of the data (Daras et al., Consistent Diffusion Models, 2023; with Tweedie, ICML 2024).

Along the reverse diffusion ``h(x_t, t) = E[h(x_s, s) | x_t]`` for ``s < t``. Noisy data determine h above their level;
a denoiser that is right there and consistent is right everywhere. The loss
``(h(x_s^1) - h(x_t)) . (h(x_s^2) - h(x_t))``, with two independent reverse steps from one ``x_t``, is an unbiased
estimate of ``|E[h(x_s) | x_t] - h(x_t)|^2``. One ancestral step has the right conditional mean at any length, so for
linear h the equation is exact; for others the steps must be short.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from sciinv.training.ambient.items import rows_like
from sciinv.training.ambient.losses import Denoiser


def reverse(x: Tensor, d: Tensor, t: Tensor, s: Tensor, xi: Tensor) -> Tensor:
    """One ancestral step from levels t to s, ``(n,)`` each, with denoised images d and unit noise xi."""
    high, low = rows_like(t, x), rows_like(s, x)
    r = (low / high).square()
    return r * x + (1 - r) * d + low * (1 - r).sqrt() * xi


def consistency(denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Loss of each row at states x of level t, two steps to level s; noise ``first`` and ``second`` shaped like x."""
    d = denoise(x, t)
    with torch.no_grad():
        steps = [reverse(x, d, t, s, xi) for xi in (first, second)]
    ahead = [denoise(step, s) - d for step in steps]
    return (ahead[0] * ahead[1]).flatten(1).mean(1)


@torch.no_grad()
def descend(denoise: Denoiser, x: Tensor, ladder: list[Tensor], noise: list[Tensor]) -> Tensor:
    """States carried down a ladder of levels ``(n,)`` by the model's own reverse steps."""
    for (t, s), xi in zip(itertools.pairwise(ladder), noise, strict=True):
        x = reverse(x, denoise(x, t), t, s, xi)
    return x
