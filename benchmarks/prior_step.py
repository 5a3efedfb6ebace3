"""Covariance error of the prior step ``p(x_0 | x_0 + rho z = x)`` on an anisotropic Gaussian, by its exact affine law.

Prior ``N(0, Q diag(c) Q^T)``, c = (2, 1.2, .8, .5, .2, .05), rho = 0.3: the law given x is
``N(C (C + rho^2)^-1 x, C rho^2 (C + rho^2)^-1)``. With a Gaussian prior the step is affine in x and in its noise, so
unit vectors give its exact mean and covariance: no Monte-Carlo error. Budget: at most 0.02 with 16 network calls,
second order.
"""

from __future__ import annotations

import dataclasses as dc
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from _common import finish, table
from torch import Tensor

from sciinv.noise import Gaussian
from sciinv.operator import Identity
from sciinv.prior import Counted
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Info, Problem
from sciinv.rng import Rng
from sciinv.samplers import sample
from sciinv.samplers.base import Sampler, State
from sciinv.samplers.kernels import prior_step
from sciinv.testing import affine_law, mean_cov_error

RHO, BUDGET = 0.3, 0.02
EIGENVALUES = (2.0, 1.2, 0.8, 0.5, 0.2, 0.05)
F64 = torch.float64


@dc.dataclass(frozen=True)
class Step(Sampler):
    """One prior step from the data vector, dressed as a sampler so that `affine_law` can read its law."""

    name: ClassVar[str] = "prior-step"
    paper: ClassVar[str] = "DPM-Solver++(2M) SDE in variance-exploding form"
    claims: ClassVar[str] = "a draw of p(x_0 | x_0 + rho z)"
    log_step: float = 0.3
    order: int = 2

    def grid(self, prior: Counted) -> Sequence[float]:
        return [RHO, 0.0]

    def init(self, problem: Problem, prior: Counted, rng: Rng, like: Tensor) -> State:
        return State(problem.y + like)

    def step(self, problem: Problem, prior: Counted, state: State, t: float, s: float, rng: Rng) -> tuple[State, Info]:
        return State(prior_step(prior, state.x, t, rng, self.log_step, self.order)), {}


def measure(calls: int, order: int) -> tuple[int, float, float]:
    """Network calls really made, mean error and covariance error."""
    basis = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=F64)).Q
    c = torch.tensor(EIGENVALUES, dtype=F64)
    prior = GaussianPrior(torch.zeros(1, 6, dtype=F64), basis @ torch.diag(c) @ basis.T, dtype=F64)
    x = basis @ (c + RHO**2).sqrt()  # a typical point: one standard deviation along every axis
    problem = Problem(x[None], Identity(prior.space), Gaussian(RHO))
    method = Step(log_step=math.log(RHO / prior.sigma_min) / (calls - 1), order=order)
    used = sample(method, problem, prior, 1, seed=0).provenance["network_calls"]
    mean, cov = affine_law(method, problem, prior)
    shrink = basis @ torch.diag(c / (c + RHO**2)) @ basis.T
    return used, *mean_cov_error(mean, cov, shrink @ x, RHO**2 * shrink)


def main() -> None:
    """Print the table and the figures."""
    rows = [(calls, order, *measure(calls, order)) for order in (1, 2) for calls in (8, 16, 32, 128)]
    table(["calls asked", "order", "calls made", "mean error", "covariance error"], rows)
    made, _, error = next(row[2:] for row in rows if row[:2] == (16, 2))
    finish({"cov_error_16_calls": error}, ok=made == 16 and error <= BUDGET)


if __name__ == "__main__":
    main()
