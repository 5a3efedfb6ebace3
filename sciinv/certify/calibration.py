"""Simulation-based calibration (SBC) and TARP: is a sampler right on average over data?

A truth and its data come from the model; an exact posterior's n draws are exchangeable with the truth, so the rank of
the truth among them, under any one-dimensional summary, is uniform on 0..n (Talts et al. 2018). SBC looks at the
coordinates and the log-likelihood: without a summary that sees the data, draws from the prior pass (Modrak et al.
2023). TARP ranks the distance to a random reference point, which must depend on the data for the same reason (Lemos et
al. 2023): here the likeliest of some prior draws, moved by `OFFSET` prior standard deviations along a random
direction of fixed sign, so that a common shift of the mean cannot hide in the symmetry of a distance. Its statistic is
the largest gap between expected coverage and level; 0.043 is the 5 % point at 1,000 simulations.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from sciinv.rng import Rng

F64 = torch.float64
CANDIDATES = 32
OFFSET = 1.0
SBC_LEVEL = 0.01  # false alarms of a whole SBC run, over all its summaries
DrawPosterior = Callable[[Tensor, int], Tensor]
Fault = Literal["narrow", "shifted", "prior"]
FAULTS: tuple[Fault, ...] = ("narrow", "shifted", "prior")


class Model(Protocol):
    """A joint law of truths and data; `sciinv.certify.models.LinearMixture` is one."""

    def simulate(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        """Truths ``(n, d)`` and data ``(n, m)``."""

    def draw_prior(self, n: int, seed: int) -> Tensor:
        """``(n, d)``."""

    def log_likelihood(self, theta: Tensor, y: Tensor) -> Tensor:
        """``log p(y | theta)`` up to a constant that does not depend on theta; broadcasts over leading axes."""


@dc.dataclass(frozen=True)
class Calibration:
    """Outcome of a run of simulations.

    Attributes
    ----------
    simulations, draws : how many truths, and posterior draws for each.
    sbc_p : p value of each summary's rank histogram (the coordinates, then the log-likelihood).
    tarp : largest gap between expected coverage and level.
    tarp_limit : its 5 % point.
    """

    simulations: int
    draws: int
    sbc_p: tuple[float, ...]
    tarp: float
    tarp_limit: float

    @property
    def sbc_passes(self) -> bool:
        """No histogram is improbable, corrected for the number of summaries."""
        return min(self.sbc_p) * len(self.sbc_p) > SBC_LEVEL

    @property
    def tarp_passes(self) -> bool:
        """The gap is below its 5 % point."""
        return self.tarp <= self.tarp_limit


def calibrate(
    model: Model, draw_posterior: DrawPosterior, simulations: int = 1000, draws: int = 63, seed: int = 0
) -> Calibration:
    """Run SBC and TARP.

    Parameters
    ----------
    model : truths and data are simulated from it.
    draw_posterior : ``(y (s, m), n) -> (s, n, d)``, n draws for every datum; see `one_by_one`.
    """
    theta, y = model.simulate(simulations, seed)
    x = draw_posterior(y, draws).to(F64)
    log_likelihood = (model.log_likelihood(theta, y), model.log_likelihood(x, y[:, None]))
    truth = torch.cat([theta, log_likelihood[0][:, None]], 1)
    summary = torch.cat([x, log_likelihood[1][..., None]], 2)
    p = rank_uniformity(ranks(truth, summary), draws)
    width = model.draw_prior(4096, seed + 1).std(0)
    points = reference_points(model, y, width, seed)
    distance = ranks(*(((v - r) / width).norm(dim=-1)[..., None] for v, r in ((theta, points), (x, points[:, None]))))
    tarp = coverage_gap(distance[:, 0], draws)
    return Calibration(simulations, draws, tuple(p.tolist()), tarp, 1.36 / math.sqrt(simulations))


def ranks(truth: Tensor, draws: Tensor) -> Tensor:
    """How many of the draws ``(s, n, q)`` lie below the truth ``(s, q)``, per summary; ``(s, q)``."""
    return (draws < truth[:, None]).sum(1)


def rank_uniformity(rank: Tensor, n: int, bins: int = 16) -> Tensor:
    """Probability (p value) of the chi-squared test that ranks ``(s, q)`` are uniform on 0..n; ``(q,)``.

    ``bins`` is lowered until it divides ``n + 1``, so that every bin is expected to hold the same number.
    """
    bins = next(b for b in range(min(bins, n + 1), 0, -1) if (n + 1) % b == 0)
    index = rank * bins // (n + 1)
    count = torch.nn.functional.one_hot(index, bins).sum(0).to(F64)
    expected = len(rank) / bins
    chi2 = (count - expected).square().sum(-1) / expected
    return torch.special.gammaincc(torch.full_like(chi2, (bins - 1) / 2), chi2 / 2)


def coverage_gap(rank: Tensor, n: int) -> float:
    """``max_k |P(rank <= k) - (k + 1) / (n + 1)|``: the expected coverage's largest distance from its level."""
    count = torch.bincount(rank, minlength=n + 1).to(F64).cumsum(0) / len(rank)
    return float((count - torch.arange(1, n + 2, dtype=F64) / (n + 1)).abs().max())


def reference_points(model: Model, y: Tensor, width: Tensor, seed: int) -> Tensor:
    """A random point ``(s, d)`` for every datum: the likeliest of a few prior draws, moved off the centre."""
    s, d = len(y), len(width)
    candidates = model.draw_prior(s * CANDIDATES, seed + 2).view(s, CANDIDATES, d)
    best = model.log_likelihood(candidates, y[:, None]).argmax(1)
    direction = Rng(seed + 3, [0]).normal((s, d), F64)[0].abs()
    return candidates[torch.arange(s), best] + OFFSET * width * direction


def one_by_one(draw: Callable[[Tensor, int, int], Tensor]) -> DrawPosterior:
    """A posterior that takes one datum at a time, ``(y (m,), n, number of the simulation) -> (n, d)``, for many."""
    return lambda y, n: torch.stack([draw(row, n, i) for i, row in enumerate(y)])


def faulty(model: Model, draw: DrawPosterior, fault: Fault, seed: int = 0) -> DrawPosterior:
    """A broken copy of a posterior: standard deviation times 0.8, mean moved by 0.3 of them, or the prior."""

    def broken(y: Tensor, n: int) -> Tensor:
        x = draw(y, n)
        if fault == "prior":
            return model.draw_prior(len(y) * n, seed + 5).view(x.shape)
        mean = x.mean(1, keepdim=True)
        return mean + 0.8 * (x - mean) if fault == "narrow" else x + 0.3 * x.std(1, keepdim=True)

    return broken
