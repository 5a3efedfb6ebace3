"""MMPS and DPS against what their mathematics implies for a Gaussian prior (exact affine laws, no Monte Carlo)."""

import math

import pytest
import torch
from support import gaussian_problem

from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem
from sciinv.samplers import DPS, MMPS, sample
from sciinv.testing import affine_law, mean_cov_error


def mmps_error(steps: int, **fields) -> tuple[float, float]:
    problem, prior = gaussian_problem()
    prior.sigma_max = 80.0
    mean, cov = affine_law(MMPS(steps=steps, cg_iterations=6, cg_tol=1e-12, **fields), problem, prior)
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    return mean_cov_error(mean, cov, *truth)


def test_mmps_is_exact_on_gaussians_and_its_error_falls_as_one_over_steps() -> None:
    errors = [mmps_error(steps)[1] for steps in (32, 128, 512)]
    assert errors[2] < 0.03
    slope = math.log(errors[2] / errors[1]) / math.log(512 / 128)
    assert -1.25 < slope < -0.75, errors
    assert mmps_error(128)[0] < 0.01


def test_mmps_with_the_prior_eps_fails() -> None:
    class Wrong(MMPS):
        eps_source = "prior"

    problem, prior = gaussian_problem()
    mean, cov = affine_law(Wrong(steps=128, cg_iterations=6, cg_tol=1e-12), problem, prior)
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    assert mean_cov_error(mean, cov, *truth)[1] > 0.2


@pytest.mark.parametrize("q", [0.25, 1.0, 3.0, 9.0])
def test_dps_theory_weight_has_its_closed_form_bias(q: float) -> None:
    c, sigma = 1.0, 0.5
    a = math.sqrt(q * sigma**2 / c)
    eye = torch.eye(1, dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(1, dtype=torch.float64), c * eye, dtype=torch.float64)
    prior.sigma_min, prior.sigma_max = 2e-3, 80.0
    problem = Problem(torch.ones(1, dtype=torch.float64), Dense(a * eye), Gaussian(sigma))
    mean, cov = affine_law(DPS(steps=3000, weight="theory"), problem, prior)
    shift = a * c / sigma**2 * (1 - math.exp(-q)) / q
    variance = c * (1 - math.exp(-2 * q)) / (2 * q)
    assert float(mean) == pytest.approx(shift, rel=0.01)
    assert float(cov) == pytest.approx(variance, rel=0.01)


def test_dps_official_overfits_and_is_independent_of_the_batch() -> None:
    problem, prior = gaussian_problem()
    together = sample(DPS(steps=60), problem, prior, 4, seed=5).x
    alone = torch.cat([sample(DPS(steps=60), problem, prior, [k], seed=5).x for k in range(4)])
    assert torch.allclose(together, alone, atol=1e-9)
    zero = sample(DPS(steps=60, zeta=0.0), problem, prior, 400, seed=6).x
    assert zero.var(0).sum() == pytest.approx(float(torch.trace(prior.cov)), rel=0.25)
