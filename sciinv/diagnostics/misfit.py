"""Can this prior and this noise have made the data? Two tests whose false-alarm rate is known.

If prior and noise are right and the samples are exact, then (sample, data) has the same law as (truth, data), whatever
that law is. So

* ``chi^2 = |y - A x|^2 / sigma^2`` at a posterior sample x has the chi-squared law of ``n`` data, as it has at the
  truth (Johnson, Bayesian Analysis 2007: pivotal quantities). Each sample has the p-value ``P(chi^2_n >= chi^2)``.
* any number ``T(x)`` of a posterior sample ranks uniformly among those of m draws from the prior: the p-value of a
  sample is ``(1 + #{T_j >= T(x)}) / (m + 1)``.

The p-values of samples of one posterior depend on each other. Twice their mean is a p-value under any dependence
(Rueschendorf 1982; Vovk and Wang, Biometrika 2020), and the smallest of k p-values times k is one of all k. Below
`LEVEL` it is an alarm, which is false at most that often. Where data are weak the first test notices a wrong prior,
where they are strong the second.

`T` here is how improbable the prior's own network finds an image. With ``D`` the denoiser,
``-log p(x) = const + int E|x - D(x + s z)|^2 / s^3 ds`` (Guo, Shamai, Verdu 2005; Kong et al. 2023), here a sum over a
few levels with the same z for every image, because only ranks matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sciinv.prior import Counted, Prior
from sciinv.rng import Rng
from sciinv.samplers.kernels import prior_step

LEVEL = 0.05
DRAWS = 127  # with m draws no p-value is below 2 / (m + 1)
LOG_STEP = 0.35


def fit_p(chi2: Tensor, n: int) -> float:
    """The p-value of samples whose chi-squared ``(k,)`` over `n` real data is too large."""
    return combined(torch.special.gammaincc(torch.tensor(n / 2, dtype=torch.float64), chi2.double().cpu() / 2))


def rank_p(value: Tensor, reference: Tensor) -> float:
    """The p-value of samples whose statistic ``(k,)`` is too large among that of draws from the prior ``(m,)``."""
    above = (reference[None] >= value[:, None]).double().sum(1)
    return combined((1 + above) / (len(reference) + 1))


def combined(p: Tensor) -> float:
    """One p-value from those of the samples of one posterior, ``(k,)``."""
    return min(1.0, 2 * float(p.double().mean()))


def smallest(p: Mapping[str, float]) -> tuple[str, float]:
    """The name of the smallest p-value and what it is worth among all of them."""
    name = min(p, key=p.__getitem__)
    return name, min(1.0, len(p) * p[name])


@torch.no_grad()
def prior_draws(prior: Prior, n: int = DRAWS, seed: int = 0, batch: int = 16) -> Tensor:
    """Draws from the prior alone, in its own state space ``(n, *space)``, by its reverse diffusion from ``sigma_max``.

    They are nothing but the network's: errors of its training are in them as they are in the samples.
    """
    like = next((t for t in (*prior.parameters(), *prior.buffers())), torch.empty(0))
    rng = Rng(seed, [(k, -3) for k in range(n)], like.device)
    noise = rng.normal(prior.space.shape, prior.space.dtype)
    return prior_step(Counted(prior, batch), prior.sigma_max * noise, prior.sigma_max, rng, LOG_STEP)


def default_levels(prior: Prior, draws: Tensor) -> list[float]:
    """From 0.2 to 1.6 times the root mean square of `draws`, within the prior's range.

    Lower levels would compare the fine texture that the last steps of a sampler leave.
    """
    size = float(draws.square().mean().sqrt())
    return [min(max(size * share, prior.sigma_min), prior.sigma_max) for share in (0.2, 0.4, 0.8, 1.6)]


@torch.no_grad()
def improbability(prior: Prior, x: Tensor, levels: Sequence[float], seed: int = 0, batch: int = 16) -> Tensor:
    """How improbable the prior finds states ``(n, *space)``: the sum of ``|x - D(x + s z)|^2 / s^2`` over levels.

    Parameters
    ----------
    levels : noise levels; the same for what is to be compared (`default_levels`).
    """
    counted = Counted(prior, batch)
    total = x.new_zeros(len(x), dtype=torch.float64)
    for k, level in enumerate(levels):
        z = Rng(seed, [(k, -4)], x.device).normal(x.shape[1:], x.dtype)
        off = (x - counted.denoise(x + level * z, level)) / level
        total += off.flatten(1).square().sum(1, dtype=torch.float64)
    return total
