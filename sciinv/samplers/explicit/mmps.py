"""MMPS: moment matching posterior sampling (Rozet et al. 2024, "Learning diffusion priors from observations").

``p(x_0 | x_t)`` is replaced by the Gaussian with its first two moments, ``N(D, sigma_t^2 J)``, ``J = dD/dx``. Then
``D_y = D + sigma_t^2 J^T A^T v`` with ``(sigma_y^2 I + sigma_t^2 A J A^T) v = y - A D``, solved by conjugate gradients
with one vector-Jacobian product an iteration. Exact for every Gaussian prior (error falls as 1/steps); not for
mixtures.
"""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.linalg import cg
from sciinv.operator import column, inner
from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Guided


@dc.dataclass(frozen=True)
class MMPS(Guided):
    """Moment matching.

    Attributes
    ----------
    cg_iterations : conjugate-gradient iterations a step; 1 is the published choice, more approach the exact solve.
    cg_tol : relative residual at which a sample's solve stops.
    """

    name: ClassVar[str] = "mmps"
    paper: ClassVar[str] = "Rozet, Andry, Lanusse, Louppe, NeurIPS 2024 (arXiv 2405.13712)"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = "exact for Gaussian priors as steps grow; over-confident or misweighted on mixtures"
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian", "differentiable"})

    cg_iterations: int = 3
    cg_tol: float = 1e-6

    def posterior_mean(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, rng: Rng
    ) -> tuple[Tensor, Tensor, Info]:
        a, noise = problem.linear, problem.noise.sigma**2
        d, pull = prior.denoise_vjp(x, t)
        # dividing by t^2 + sigma_y^2 keeps the numbers near one over five decades of t
        scale = 1 / (t * t + noise)
        r = problem.residual(d)
        residual = r * scale

        def covariance(v: Tensor) -> Tensor:
            return (noise * scale) * v + (t * t * scale) * a(pull(a.adjoint(v)))

        solved = cg(
            covariance, residual, tol=self.cg_tol, max_iter=self.cg_iterations, check_every=self.cg_iterations + 1
        )
        update = t * t * pull(a.adjoint(solved.x))
        # exact moments give A u = K r with 0 <= K <= 1, which never raises the misfit, |r - A u| <= |r|. The Jacobian
        # of a network can overshoot by orders of magnitude: then the update is cut to where the misfit is least. A u
        # is what the solve has applied: no operator is called for it.
        predicted, ndim = (residual - solved.r) / scale - noise * solved.x, len(a.codomain.shape)
        least = inner(predicted, r, ndim) / inner(predicted, predicted, ndim).clamp_min(torch.finfo(d.dtype).tiny)
        factor = torch.where(least >= 0.5, 1.0, least.clamp(0, 1))
        return (
            d + column(factor, d) * update,
            d,
            {
                "cg_residual": solved.residual,
                "kept": factor,
            },
        )
