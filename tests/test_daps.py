"""DAPS follows its closed-form recursion on Gaussians, and is wrong in every limit."""

import math
from itertools import pairwise

import pytest
import torch
from known import Quadrature, Ring

from sciinv.certify.stream import OneStream
from sciinv.errors import MismatchError
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.priors.gaussian import GaussianPrior
from sciinv.priors.mixture import MixturePrior
from sciinv.problem import Problem
from sciinv.samplers import sample
from sciinv.samplers.explicit.daps import DAPS
from sciinv.schedule import karras
from sciinv.testing import affine_law, check_sampler, mean_cov_error

C = torch.tensor([2.0, 0.5, 0.1], dtype=torch.float64)
A = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
Y = torch.tensor([1.0, -1.0, 0.0], dtype=torch.float64)
SIGMA, START = 0.3, 20.0


def diagonal() -> tuple[Problem, GaussianPrior]:
    prior = GaussianPrior(torch.zeros(1, 3), torch.diag(C), dtype=torch.float64)
    prior.sigma_max, prior.sigma_min = START, 1e-3
    return Problem(Y, Dense(torch.diag(A), (1, 3)), Gaussian(SIGMA)), prior


def recursion(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and covariance of DAPS with an exact ODE, mode by mode."""
    mean, var = torch.zeros(3, dtype=torch.float64), torch.full((3,), START**2, dtype=torch.float64)
    levels = karras(START, 0.1, steps)
    for t, s in pairwise(levels):
        k, precision = (C / (C + t * t)).sqrt(), A**2 / SIGMA**2 + 1 / t**2
        mean = (A * Y / SIGMA**2 + k * mean / t**2) / precision
        var = 1 / precision + (k / (t * t * precision)) ** 2 * var + s * s
    return mean, torch.diag(var)


def test_law_follows_the_recursion_and_not_the_posterior() -> None:
    problem, prior = diagonal()
    law = affine_law(DAPS(steps=40, ode_steps=60), problem, prior)
    mean, cov = mean_cov_error(*law, *recursion(40))
    assert mean < 0.03 and cov < 0.03, (mean, cov)
    truth = prior.posterior(problem.operator, problem.y, SIGMA)[:2]
    assert mean_cov_error(*law, *truth)[1] > 0.4
    # more levels do not help: the replacement is wrong at each of them
    assert mean_cov_error(*recursion(4000), *truth)[1] > 0.4


def test_nonlinear_data_by_langevin_steps() -> None:
    """As in the linear case it finds the data and misses the law."""
    prior = MixturePrior(torch.ones(2), torch.tensor([[[0.9, 0.2]], [[0.2, -0.8]]]), 0.3, dtype=torch.float64)
    prior.sigma_max, n = 5.0, 300
    problem = Problem(torch.tensor([1.2], dtype=torch.float64), Ring(), Gaussian(0.3))
    out = sample(DAPS(steps=30, inner=6), problem, prior, n, 0, rng_factory=OneStream)
    assert float(problem.chi2(out.x).mean()) < 1.5
    law = Quadrature(
        lambda x: problem.log_likelihood(x) + prior.log_marginal(x, torch.zeros((), dtype=torch.float64)), points=120
    )
    assert law.distance(out.x) > 1.3 * law.floor(n)
    check_sampler(DAPS(steps=5, inner=2), problem, prior, n=3)
    assert math.isfinite(float(out.trace["gap_over_t"].sum()))
    with pytest.raises(MismatchError, match="linear"):
        sample(DAPS(kernel="exact"), problem, prior, 1, seed=0)
