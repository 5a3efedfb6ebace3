"""DDSMC, decoupled diffusion SMC: proposals through a Gaussian posterior of ``x_0`` given ``x_t``.

Levels t > s, ``a = Delta / (eta s^2 + Delta)``, ``Delta = t^2 - s^2``. Prior step
``N(x_s; a D + (1 - a) x_t, a s^2)``; with eta = 1 it is the ancestral one. Guess ``x_0 | x_t ~ N(D, rho_t^2)``: twist
``N(y; A D, sigma_y^2 I + rho_t^2 A A^H)``, and with ``M = A^H A / sigma_y^2 + I / rho_t^2``,
``x~ = M^-1 (D / rho_t^2 + A^H y / sigma_y^2)``, the proposal
``N(x_s; a x~ + (1 - a) x_t, (a s^2 - a^2 rho_t^2) I + a^2 M^-1)`` (Ekström Kelvinius et al. 2025,
arXiv:2502.06379). Its variance is positive when ``rho_t^2 < s^2 / a``, which the schedule enforces.
Weights: see `twisted`.
"""

from __future__ import annotations

import dataclasses as dc
import math
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.operator import power
from sciinv.prior import Counted
from sciinv.problem import Problem
from sciinv.samplers.exact.inflated import inflated_residual
from sciinv.samplers.exact.twisted import Twisted

LIMIT = 0.9  # of s^2 / a, where the proposal's variance would reach zero


@dc.dataclass(frozen=True)
class DDSMC(Twisted):
    """Decoupled diffusion SMC.

    Attributes
    ----------
    eta : 1 is the ancestral prior step; below 1 the step forgets more of ``x_t`` and its law is not the prior's.
    share : ``rho_t^2`` as a share of ``r_t^2``.
    """

    name: ClassVar[str] = "ddsmc"
    paper: ClassVar[str] = "Ekström Kelvinius et al. 2025 (arXiv:2502.06379)"
    technique: ClassVar[str] = "sampling"
    claims: ClassVar[str] = "exact as particles and steps grow, with eta = 1"
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian", "svd"})

    eta: float = 1.0
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.eta <= 1 and self.share > 0):
            raise UsageError("ddsmc settings are impossible", expected="0 <= eta <= 1, share > 0", found=repr(self))

    def schedule(self, t: float, s: float, r2: Tensor) -> tuple[float, Tensor]:
        """``a`` and ``rho_t^2`` of the step from t to s, the latter below ``s^2 / a``."""
        a = (t * t - s * s) / (self.eta * s * s + t * t - s * s)
        return a, (self.share * r2).clamp_max(LIMIT * s * s / a)

    def twist(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, s: float, r2: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        d, (_, rho2) = prior.denoise(x, t), self.schedule(t, s, r2)
        return inflated_residual(problem, d).log_density(rho2.sqrt()), d, {}

    def propose(
        self, problem: Problem, x: Tensor, at: dict[str, Tensor], t: float, s: float, r2: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        seen, (a, rho2) = problem.observed, self.schedule(t, s, r2)
        gain = rho2 / (rho2 + seen.tau.square())
        # variance of the proposal over that of the prior's step, per coordinate
        narrow = 1 - (a * rho2 / (s * s)) * gain
        xi, wide = seen.V.adjoint(noise), s * math.sqrt(a)
        shift = a * gain * (seen.o - seen.V.adjoint(at["d"]))
        moved = shift + wide * narrow.sqrt() * xi
        gained = -0.5 * (power(moved / wide) - power(xi) - seen.multiplicity * narrow.log())
        return a * at["ahead"] + (1 - a) * x + seen.V(moved), gained.flatten(1).sum(1, dtype=torch.float64)
