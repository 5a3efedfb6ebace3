"""DPS: diffusion posterior sampling (Chung et al. 2023), ``p(y | x_t)`` replaced by ``p(y | D(x_t))``.

* ``weight="official"``: after the unconditional step,
  ``x_s -= zeta sqrt((1 + s^2)(1 + t^2)) grad_{x_t} |y - A(D(x_t))|`` (the published VP rule in variance-exploding
  form), with one norm PER SAMPLE; the published code takes one norm over the whole batch, which couples the samples.
  The last steps have a length of their own, so the misfit ends near ``zeta |A|^2``, whatever the noise is.
* ``weight="theory"``: the stated approximation itself, ``D_y = D + (t^2 / sigma_y^2) J^T A^T (y - A D)``, integrated
  as any posterior denoiser. Its bias is known in closed form for a Gaussian prior whose covariance commutes with
  ``A^T A``: with ``q = a^2 c / sigma_y^2`` a mode fits a fraction ``1 - exp(-q)`` of the data and keeps the variance
  ``c (1 - exp(-2q)) / (2q)`` by the SDE; by the ODE (eta = 0, or heun) ``2 b F(b)``, ``b = sqrt(q / 2)``, F Dawson's
  integral, and ``c exp(-q)``; the truth is ``q/(1+q)``, ``c/(1+q)``. Its steps overshoot unless they are many.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import column
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Guided, State
from sciinv.samplers.explicit.parts import pull_of_data
from sciinv.samplers.kernels import transition


@dc.dataclass(frozen=True)
class DPS(Guided):
    """Diffusion posterior sampling.

    Attributes
    ----------
    steps : number of noise levels; one network call and one vector-Jacobian product each.
    zeta : step size of the official rule.
    weight : official or theory.
    """

    name: ClassVar[str] = "dps"
    paper: ClassVar[str] = "Chung, Kim, McCann, Klasky, Ye, ICLR 2023 (arXiv 2209.14687)"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = (
        "approximate: biased mean and spread even for Gaussian priors; ignores the noise level (official weight)"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"differentiable"})

    steps: int = 200
    zeta: float = 0.3
    weight: Literal["official", "theory"] = "official"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weight == "official" and self.solver == "heun":
            raise UsageError(f"the official rule of {self.name} is a step of its own", where="solver", expected="sde")

    def gradient(self, problem: Problem, d: Tensor, t: float, rng: Rng) -> tuple[Tensor, Tensor]:
        """Minus half the gradient, at the denoised image, of a squared misfit; and that misfit, ``(n,)``."""
        return pull_of_data(problem, d)

    def posterior_mean(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, rng: Rng
    ) -> tuple[Tensor, Tensor, Info]:
        d, pull = prior.denoise_vjp(x, t)
        back, norm2 = self.gradient(problem, d, t, rng)
        return d + (t / problem.noise.sigma) ** 2 * pull(back), d, {"residual2": norm2}

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        if self.weight == "theory":
            return super().step(problem, prior, state, t, s, rng)
        x = state.x
        d, pull = prior.denoise_vjp(x, t)
        back, norm2 = self.gradient(problem, d, t, rng)
        per_norm = column(norm2.clamp_min(torch.finfo(x.dtype).tiny).rsqrt(), x)
        rate = self.zeta * math.sqrt((1 + s * s) * (1 + t * t))
        x_s = transition(x, d, t, s, eta=self.eta, rule=self.noise_rule, rng=rng)
        return State(x_s.addcmul_(per_norm, pull(back), value=rate)), {"residual2": norm2}
