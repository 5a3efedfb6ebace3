"""Shared pure updates. ``t > s`` are noise levels; everything is per sample and free of host syncs.

* ancestral: ``x_s = r x_t + (1 - r) D + s sqrt(1 - r) xi``, ``r = (s/t)^2``.
* second order (multistep): D is replaced by ``D + h/(2 h_prev) (D - D_prev)``, ``h = log(t/s)`` (DPM-Solver++(2M) SDE,
  Lu et al. 2022, in variance-exploding form). The chain stays Gaussian given its past, so methods that weight their
  steps may use it: their weights stay exact.
* prior step: a draw from ``p(x_0 | x_0 + rho z = x)`` by that SDE from exactly rho. The ODE is a map, not a draw.
* step with two flags (eps source, noise rule): ``x_s = D* + sqrt(s^2 - tau^2) e + tau xi``; ddim-eta
  ``tau = eta s sqrt(1 - s^2/t^2)``, renoise-eta ``tau = eta s``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor

from sciinv.operator import column
from sciinv.prior import Counted
from sciinv.rng import Rng
from sciinv.schedule import descent


def ancestral(x: Tensor, d: Tensor, t: float, s: float, rng: Rng) -> Tensor:
    """One first-order step of the reverse diffusion from level ``t`` to ``s`` with denoised image ``d``."""
    r = (s / t) ** 2
    mean = torch.lerp(d, x, r)
    return mean if s == 0 else mean.add_(rng.normal_like(x), alpha=s * math.sqrt(1 - r))


def extrapolate(d: Tensor, before: Tensor, h: float, h_before: float | Tensor) -> Tensor:
    """The denoised image that the multistep rule steps with, from that of the step before and both log steps."""
    gain = h / (2 * h_before)
    return d + (column(gain, d) if isinstance(gain, Tensor) else gain) * (d - before)


def look_ahead(
    aux: Mapping[str, Tensor], d: Tensor, t: float, s: float, order: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The denoised image to step with from t to s, and what the next step finds in ``aux`` of the multistep rule."""
    if order == 1 or s == 0:
        return d, {}
    h = math.log(t / s)
    kept = {"before": d, "h": d.new_full((len(d),), h)}  # a number a sample: particles are copied with their past
    return (extrapolate(d, aux["before"], h, aux["h"]) if "before" in aux else d), kept


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
        ahead = d if previous is None or order == 1 else extrapolate(d, previous[0], h, previous[1])
        previous = (d, h)
        x = ancestral(x, ahead, t, s, rng)
    return x


def transition(
    x: Tensor, d: Tensor, t: float, s: float, *, eta: float, rule: str, rng: Rng, eps_of: Tensor | None = None
) -> Tensor:
    """The generic step of the explicit family, ``D* + sqrt(s^2 - tau^2) e + tau xi``; ``e = (x - eps_of)/t``, and
    ``eps_of`` is D* unless given.
    """
    tau = eta * s * (1.0 if rule == "renoise" else math.sqrt(max(1 - (s / t) ** 2, 0.0)))
    keep = math.sqrt(max(s * s - tau * tau, 0.0)) / t
    out = torch.lerp(d, x, keep) if eps_of is None else torch.add(d, x - eps_of, alpha=keep)
    return out if tau == 0 else out.add_(rng.normal_like(x), alpha=tau)
