"""TMPD: Tweedie moment projected diffusion (Boys et al. 2023), moment matching with independent data.

``p(x_0 | x_t)`` is replaced by ``N(D, t^2 J)``, ``J = dD/dx``, as in `mmps`, and the covariance of the data it implies
by the diagonal matrix of its row sums: ``D_y = D + t^2 J^T A^T [(y - A D) / (v + sigma_y^2)]``, ``v = A (t^2 J) A^T 1``
(the ones of complex data are ``1 + i``). Two vector-Jacobian products a step and no solve. Exact for a Gaussian prior
if ``A C A^T`` is diagonal. Row sums of correlated data are far from variances and may be negative; those count as zero.
"""

from __future__ import annotations

import dataclasses as dc
from typing import ClassVar

import torch
from torch import Tensor

from sciinv.prior import Counted
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers.base import Guided


@dc.dataclass(frozen=True)
class TMPD(Guided):
    """Tweedie moment projection; its settings are those of every posterior denoiser."""

    name: ClassVar[str] = "tmpd"
    paper: ClassVar[str] = "Boys, Girolami, Pidstrigach, Reich, Mosca, Akyildiz, 2023 (arXiv 2310.06721)"
    technique: ClassVar[str] = "gradient"
    claims: ClassVar[str] = (
        "approximate: data taken as independent given x_t; exact only for Gaussian priors whose A C A^T is diagonal"
    )
    requires: ClassVar[frozenset[str]] = frozenset({"linear", "gaussian", "differentiable"})

    def posterior_mean(
        self, problem: Problem, prior: Counted, x: Tensor, t: float, rng: Rng
    ) -> tuple[Tensor, Tensor, Info]:
        a = problem.linear
        d, pull = prior.denoise_vjp(x, t)
        residual = problem.residual(d)
        variance = t * t * a(pull(problem.at_ones.expand_as(d)))
        update = pull(a.adjoint(_divide(residual, variance, problem.noise.sigma**2)))
        return d + t * t * update, d, {}


def _divide(r: Tensor, variance: Tensor, noise: float) -> Tensor:
    """``r / (variance + noise)`` for each real component, negative variances taken as zero."""
    if not r.is_complex():
        return r / (variance.clamp_min(0) + noise)
    parts = torch.view_as_real(variance.resolve_conj()).clamp_min(0) + noise
    return torch.view_as_complex(torch.view_as_real(r.resolve_conj()) / parts)
