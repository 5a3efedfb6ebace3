"""TDS, twisted diffusion sampler: proposals guided by the gradient of the twist, weights that make them exact.

Twist ``g_t(x) = N(y; A D, sigma_y^2 I + r_t^2 A A^H)``, ``r_t^2 = t^2 c / (t^2 + c)``, c the prior's variance; where
the operator offers no decomposition (or is not linear), ``N(y; A(D), (sigma_y^2 + r_t^2 gain) I)``. Proposal
``N(x_s; D' + (s/t)^2 (x_t - D'), b^2)``, ``D' = D + t^2 grad_x log g_t``, ``b^2 = s^2 (1 - (s/t)^2)``; the prior's step
has D for D'. Weights: see `twisted` (Wu, Trippe et al. 2023, arXiv:2306.17775). One network call and
one vector-Jacobian product a step.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import LinearOperator, inner
from sciinv.prior import Counted
from sciinv.problem import Problem
from sciinv.samplers.exact.inflated import inflated_residual
from sciinv.samplers.exact.twisted import Twisted


@dc.dataclass(frozen=True)
class TDS(Twisted):
    """Twisted diffusion sampler.

    Attributes
    ----------
    gain : variance of a datum per variance of the state, for operators without a decomposition.
    """

    name: ClassVar[str] = "tds"
    paper: ClassVar[str] = "Wu, Trippe et al. 2023 (arXiv:2306.17775)"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = "exact as particles and steps grow; unbiased evidence of the discretised prior"
    requires: ClassVar[frozenset[str]] = frozenset({"gaussian", "differentiable"})

    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.gain > 0:
            raise UsageError("tds settings are impossible", expected="gain > 0", found=repr(self))

    def twist(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, s: float, r2: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        d, pull = prior.denoise_vjp(x, t)
        value, slope = self._guess(problem, d, r2)
        return value.to(torch.float64), d, {"slope": pull(slope)}

    def _guess(self, problem: Problem, d: Tensor, r2: Tensor) -> tuple[Tensor, Tensor]:
        """The log twist ``(n,)`` and its gradient with respect to D."""
        op, noise2 = problem.operator, problem.noise.sigma**2
        if isinstance(op, LinearOperator) and op.has_svd():
            seen = inflated_residual(problem, d)
            return seen.log_density(r2.sqrt()), seen.gradient(r2)
        wide = noise2 + r2 * self.gain
        mean = op(d)
        chi2 = problem.noise.chi2(problem.y, mean, len(op.codomain.shape)) * noise2
        value = -0.5 * (chi2 / wide + op.codomain.size * (2 * math.pi * wide).log())
        return value, op.vjp(d, (problem.y - mean) / wide)

    def propose(
        self, problem: Problem, x: Tensor, at: dict[str, Tensor], t: float, s: float, r2: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        r = (s / t) ** 2
        b, shift = s * math.sqrt(1 - r), (1 - r) * t * t * at["slope"]
        moved = shift / b
        gained = -inner(moved, noise + moved / 2, x.ndim - 1).to(torch.float64)
        return torch.lerp(at["ahead"], x, r) + shift + b * noise, gained
