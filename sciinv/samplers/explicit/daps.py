"""DAPS: decoupled annealing posterior sampling (Zhang et al. 2024).

``p(x_0 | x_t)`` is replaced by ``N(x_ode, t^2 I)``, ``x_ode`` the end of the probability-flow ODE from ``x_t`` (a few
Euler steps, ``x_s = D + (s/t) (x_t - D)``); then ``z ~ p(y | z) N(z; x_ode, t^2)`` and ``x_s = z + s xi``. Linear
problems draw z exactly, nonlinear ones by Metropolis-corrected Langevin steps (`mcmc`), with the true likelihood (the
published codes sharpen it 25 to 50 times). The replacement is wrong at every level, however many there are, so there is
no exact limit: for a Gaussian prior of variance c seen with gain a the levels follow, with k = sqrt(c / (c + t^2)),
``mean <- (a y / sigma^2 + k mean / t^2) / l``, ``var <- 1/l + (k / (t^2 l))^2 var + s^2``, ``l = a^2/sigma^2 + 1/t^2``.
"""

from __future__ import annotations

import dataclasses as dc
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.samplers.exact.mcmc import Kernel, check_kernel, consistency
from sciinv.schedule import karras


@dc.dataclass(frozen=True)
class DAPS(Sampler):
    """Decoupled annealing.

    Attributes
    ----------
    steps : noise levels.
    sigma_end : last noise level, in the prior's units; it limits the spread of what is drawn last.
    ode_steps : network calls a level.
    kernel : how z is drawn: exact (linear operators), mala, hmc or ula; auto is exact if it can be, else mala.
    inner : steps of mala, hmc or ula a level.
    """

    name: ClassVar[str] = "daps"
    paper: ClassVar[str] = "Zhang, Chu, Berner, Meng, Anandkumar, Song, CVPR 2025 (arXiv 2407.01521)"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = "approximate: p(x_0 | x_t) as an isotropic Gaussian of width t; biased in every limit"
    requires: ClassVar[frozenset[str]] = frozenset({"gaussian"})

    steps: int = 200
    sigma_end: float = 0.1
    ode_steps: int = 5
    kernel: Kernel = "auto"
    inner: int = 50

    def __post_init__(self) -> None:
        if not (self.steps >= 1 and self.sigma_end > 0 and self.ode_steps >= 1 and self.inner >= 1):
            raise UsageError(
                "daps settings are impossible", expected="steps, ode_steps, inner >= 1; sigma_end > 0", found=repr(self)
            )

    def grid(self, prior: Counted) -> Sequence[float]:
        return karras(prior.sigma_max, min(self.sigma_end, prior.sigma_max), self.steps)

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        check_kernel(self.name, self.kernel, problem)
        return super().init(problem, prior, rng, like)

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        clean = flow(prior, state.x, t, self.ode_steps)
        aux = {**state.aux, "z": clean} if state.aux else {}  # steps start at the flow's end; their size is kept
        z, aux, info = consistency(problem, clean, t, aux, rng, kernel=self.kernel, steps=self.inner, tuning=self.steps)
        gap = (z - clean).flatten(1).square().mean(1).sqrt() / t
        return State(z + s * rng.normal_like(z) if s else z, aux=aux), {"gap_over_t": gap, **info}


def flow(prior: Counted, x: Tensor, t: float, steps: int) -> Tensor:
    """The probability-flow ODE from level ``t`` to 0 by ``steps`` Euler steps."""
    for a, b in pairwise(karras(t, min(t, prior.sigma_min), steps)):
        x = torch.lerp(prior.denoise(x, a), x, b / a)
    return x
