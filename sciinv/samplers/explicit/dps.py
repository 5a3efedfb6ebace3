"""DPS: diffusion posterior sampling (Chung et al. 2023), ``p(y | x_t)`` replaced by ``p(y | D(x_t))``.

* ``weight="official"``: after the ancestral step,
  ``x_s -= zeta sqrt((1 + s^2)(1 + t^2)) grad_{x_t} |y - A(D(x_t))|`` (the published VP rule in variance-exploding
  form), with one norm PER SAMPLE; the published code takes one norm over the whole batch, which couples the samples.
* ``weight="theory"``: the stated approximation itself, ``D_y = D + (t^2 / sigma_y^2) J^T A^T (y - A D)``, integrated
  by the ancestral step. Its bias is known in closed form for a Gaussian prior whose covariance commutes with
  ``A^T A``: with ``q = a^2 c / sigma_y^2`` a mode fits a fraction ``1 - exp(-q)`` of the data and keeps the variance
  ``c (1 - exp(-2q)) / (2q)``; the truth is ``q/(1+q)``, ``c/(1+q)``.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch

from sciinv.operator import inner
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Sampler, State
from sciinv.samplers.kernels import ancestral
from sciinv.schedule import karras


@dc.dataclass(frozen=True)
class DPS(Sampler):
    """Diffusion posterior sampling.

    Attributes
    ----------
    steps : number of noise levels; one network call and one vector-Jacobian product each.
    zeta : step size of the official rule.
    weight : ``"official"`` or ``"theory"``.
    """

    name: ClassVar[str] = "dps"
    paper: ClassVar[str] = "Chung, Kim, McCann, Klasky, Ye, ICLR 2023 (arXiv 2209.14687)"
    claims: ClassVar[str] = (
        "approximate: biased mean and spread even for Gaussian priors; ignores the noise level (official weight)"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"differentiable", "gaussian"})

    steps: int = 200
    zeta: float = 0.3
    weight: Literal["official", "theory"] = "official"

    def grid(self, prior: Counted) -> Sequence[float]:
        return karras(prior.sigma_max, prior.sigma_min, self.steps)

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        x, a = state.x, problem.operator
        d, pull = prior.denoise_vjp(x, t)
        residual = problem.residual(d)
        norm2 = inner(residual, residual, len(a.codomain.shape))
        back = problem.linear.adjoint(residual) if a.linear else a.vjp(d, residual)
        towards_data = pull(back)  # minus half the gradient of |y - A(D(x))|^2
        if self.weight == "theory":
            return State(ancestral(x, d + (t / problem.noise.sigma) ** 2 * towards_data, t, s, rng)), {
                "residual2": norm2
            }
        per_norm = norm2.clamp_min(torch.finfo(x.dtype).tiny).rsqrt().view(-1, *(1,) * (x.ndim - 1))
        rate = self.zeta * math.sqrt((1 + s * s) * (1 + t * t))
        x_s = ancestral(x, d, t, s, rng).addcmul_(per_norm, towards_data, value=rate)
        return State(x_s), {"residual2": norm2}
