"""Shared pure updates. ``t > s`` are noise levels; everything is per sample and free of host syncs.

* ancestral: ``x_s = r x_t + (1 - r) D + s sqrt(1 - r) xi``, ``r = (s/t)^2``.
* second order (multistep): D is replaced by ``D + h/(2 h_prev) (D - D_prev)``, ``h = log(t/s)`` (DPM-Solver++(2M) SDE,
  Lu et al. 2022, in variance-exploding form).
* prior step: a draw from ``p(x_0 | x_0 + rho z = x)`` by that SDE from exactly rho. The ODE is a map, not a draw.
* step with two flags (eps source, noise rule): ``x_s = D* + sqrt(s^2 - tau^2) e + tau xi``; ddim-eta
  ``tau = eta s sqrt(1 - s^2/t^2)``, renoise-eta ``tau = eta s``.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from sciinv.prior import Counted
from sciinv.rng import Rng
from sciinv.schedule import descent


def ancestral(x: Tensor, d: Tensor, t: float, s: float, rng: Rng) -> Tensor:
    """One first-order step of the reverse diffusion from level ``t`` to ``s`` with denoised image ``d``."""
    r = (s / t) ** 2
    mean = torch.lerp(d, x, r)
    return mean if s == 0 else mean.add_(rng.normal_like(x), alpha=s * math.sqrt(1 - r))


def prior_step(prior: Counted, x: Tensor, rho: float, rng: Rng, log_step: float, order: int = 2) -> Tensor:
    """Draw ``x_0 ~ p(x_0 | x_0 + rho z = x)``; log steps of ``log_step`` on average, down to the prior's
    ``sigma_min``.
    """
    previous: tuple[Tensor, float] | None = None
    for t, s in pairwise(descent(rho, prior.sigma_min, log_step)):
        d = prior.denoise(x, t)
        if s == 0:
            return d
        h = math.log(t / s)
        ahead = d if previous is None or order == 1 else d + (h / (2 * previous[1])) * (d - previous[0])
        previous = (d, h)
        x = ancestral(x, ahead, t, s, rng)
    return x


def transition(x: Tensor, d: Tensor, eps: Tensor, t: float, s: float, *, eta: float, rule: str, rng: Rng) -> Tensor:
    """The generic step of the explicit family, ``D* + sqrt(s^2 - tau^2) e + tau xi``."""
    tau = eta * s * (1.0 if rule == "renoise" else math.sqrt(max(1 - (s / t) ** 2, 0.0)))
    out = d + math.sqrt(max(s * s - tau * tau, 0.0)) * eps
    return out if tau == 0 else out.add_(rng.normal_like(x), alpha=tau)
