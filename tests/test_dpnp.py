"""DPnP: first order in its step, exact in the limit, for the law at fixed width and through its ladder."""

import math

import pytest
import torch
from known import Quadrature, Ring, blurred
from support import gaussian_problem

from sciinv.certify.stream import OneStream
from sciinv.errors import MismatchError
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.mixture import MixturePrior
from sciinv.problem import Problem
from sciinv.samplers import sample
from sciinv.samplers.exact.dpnp import DPnP
from sciinv.testing import affine_law, check_sampler, mean_cov_error


def test_law_at_fixed_width_is_first_order_in_the_step() -> None:
    problem, prior = gaussian_problem()
    prior.sigma_min, eta = 0.02, 1.0
    inflated = prior.posterior(problem.operator, problem.y, problem.noise.sigma, eta)[:2]
    plain = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    error = {}
    for log_step in (0.4, 0.1):
        law = affine_law(DPnP(eta_max=eta, eta_min=eta, sweeps=8, log_step=log_step), problem, prior)
        mean, error[log_step] = mean_cov_error(*law, *inflated)
        assert mean < 0.01
    assert error[0.1] < 0.04
    assert error[0.4] / error[0.1] == pytest.approx(4, rel=0.25)
    assert mean_cov_error(*law, *plain)[1] > 0.5  # negative control: not the posterior itself


def test_the_ladder_leads_to_the_posterior() -> None:
    problem, prior = gaussian_problem()
    prior.sigma_min = 0.03
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    fields = {"eta_max": 3.0, "eta_min": 0.15, "log_step": 0.25}
    few, many = (mean_cov_error(*affine_law(DPnP(sweeps=k, **fields), problem, prior), *truth) for k in (4, 30))
    assert many[0] < 0.25 and many[1] < 0.2, many
    assert few[0] > 2 * many[0] and few[1] > 2 * many[1], (few, many)


def test_grid_holds_and_falls() -> None:
    _, prior = gaussian_problem()
    levels = DPnP(sweeps=10, eta_max=2.0, eta_min=0.5).grid(Counted(prior))
    assert levels[:3] == [2.0] * 3 and levels[-2:] == [pytest.approx(0.5), 0.0] and len(levels) == 11
    assert levels[4] / levels[3] == pytest.approx(0.25 ** (1 / 7))


def test_nonlinear_law_by_quadrature() -> None:
    prior = MixturePrior(torch.ones(2), torch.tensor([[[0.9, 0.2]], [[-0.5, -1.0]]]), 0.3, dtype=torch.float64)
    prior.sigma_min, eta, n = 0.02, 0.5, 400
    problem = Problem(torch.tensor([1.2], dtype=torch.float64), Ring(), Gaussian(0.3))
    with pytest.raises(MismatchError, match="linear"):
        sample(DPnP(kernel="exact"), problem, prior, 2, seed=0)
    out = sample(
        DPnP(eta_max=eta, eta_min=eta, sweeps=20, log_step=0.2, inner=4), problem, prior, n, 0, rng_factory=OneStream
    )
    zero = torch.zeros((), dtype=torch.float64)
    law = Quadrature(lambda x: blurred(problem.log_likelihood, x, eta) + prior.log_marginal(x, zero), points=120)
    assert law.distance(out.x) < 1.7 * law.floor(n)
    assert law.distance(out.x.flip(-1)) > 3 * law.floor(n)
    check_sampler(DPnP(sweeps=4, eta_min=0.3, inner=2), problem, prior, n=3)
    assert math.isfinite(float(out.trace["accept"].mean()))
