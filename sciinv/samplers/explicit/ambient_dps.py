"""Ambient DPS (Aali et al., ICLR 2025, arXiv 2403.08728): DPS with a denoiser that was trained on incomplete data.

``x_s = h + (s / t)(x_t - h) - (zeta / |r|) grad_{x_t} |r|^2``, ``r = y - A h``, ``h = h(A~ x_t, A~, t)``: an Euler step
of the probability-flow ODE with the partial denoiser in place of ``E[x_0 | x_t]``, then a step on the misfit. ``A~`` is
the problem's own A unless the prior has been told another (`PartialPrior.given`). Two approximations: the point
estimate of DPS, and h itself, which gives a mean for whatever A~ hides; the draws are plausible images, their spread
means nothing. With a whole denoiser it is DPS by its ODE.
"""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar

import torch

from sciinv.operator import column
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Leveled, State
from sciinv.samplers.explicit.parts import pull_of_data
from sciinv.samplers.kernels import transition


@dc.dataclass(frozen=True)
class AmbientDPS(Leveled):
    """DPS that accepts a network of `sciinv train --method ambient`.

    Attributes
    ----------
    steps : number of noise levels; one network call and one vector-Jacobian product each. (published: 500)
    zeta : size of the step on the misfit, whose length does not depend on the image: published 1 for images of 1e5
        pixels, less for smaller ones.
    """

    name: ClassVar[str] = "ambient_dps"
    paper: ClassVar[str] = "Aali, Daras, Levac, Kumar, Dimakis, Tamir, ICLR 2025 (arXiv 2403.08728)"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = "approximate: no posterior; accepts networks trained on incomplete data"
    requires: ClassVar[frozenset[str]] = frozenset({"differentiable", "gaussian", "linear"})
    partial: ClassVar[bool] = True

    steps: int = 200
    zeta: float = 0.15

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        x = state.x
        h, pull = prior.denoise_vjp(x, t)
        back, norm2 = pull_of_data(problem, h)
        per_norm = column(norm2.clamp_min(torch.finfo(x.dtype).tiny).rsqrt(), x)
        x_s = transition(x, h, t, s, eta=0.0, rule="ddim", rng=rng)
        return State(x_s.addcmul_(per_norm, pull(back), value=2 * self.zeta)), {"residual2": norm2}
