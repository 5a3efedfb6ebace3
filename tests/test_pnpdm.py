"""Split Gibbs against closed forms: the prior step, the law at fixed rho, the contraction rate, the posterior maps."""

import math

import pytest
import torch
from support import gaussian_problem

from sciinv.errors import MismatchError
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.gaussian import GaussianPrior
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem, QuadraticProblem
from sciinv.rng import Rng
from sciinv.samplers import PnPDM, sample
from sciinv.samplers.kernels import prior_step
from sciinv.testing import affine_law, mean_cov_error


class Probed(PnPDM):
    """Only the prior step, as a sampler, so that its exact law can be probed."""

    def grid(self, prior):
        return [self.rho_max, 0.0]

    def init(self, problem, prior, rng, like):
        from sciinv.samplers import State

        return State(like.clone())

    def step(self, problem, prior, state, t, s, rng):
        from sciinv.samplers import State

        return State(prior_step(prior, state.x, t, rng, self.log_step, self.order)), {}


@pytest.mark.parametrize(("order", "passes"), [(2, True), (1, False)])
def test_prior_step_covariance_with_16_calls(order: int, passes: bool) -> None:
    problem, prior = gaussian_problem()
    prior.sigma_min, rho = 0.01, 0.3
    sampler = Probed(rho_max=rho, rho_min=rho, stationary=0, log_step=math.log(rho / 0.01) / 14.99, order=order)
    counted = Counted(prior)
    prior_step(counted, torch.zeros(1, 1, 6, dtype=torch.float64), rho, Rng(0, [0]), sampler.log_step)
    assert counted.calls == 16
    mean, cov = affine_law(sampler, problem, prior)
    precision = torch.linalg.inv(prior.cov) + torch.eye(6, dtype=torch.float64) / rho**2
    target = torch.linalg.inv(precision)
    _, error = mean_cov_error(mean, cov, torch.zeros(6, dtype=torch.float64), target)
    assert (error <= 0.02) == passes, error


def test_law_at_fixed_rho_is_the_inflated_noise_posterior() -> None:
    problem, prior = gaussian_problem()
    prior.sigma_min, rho = 0.02, 1.0
    sampler = PnPDM(start="noise", rho_max=rho, rho_min=rho, anneal=1, stationary=12, log_step=0.2)
    mean, cov = affine_law(sampler, problem, prior)
    inflated = prior.posterior(problem.operator, problem.y, problem.noise.sigma, rho)[:2]
    plain = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    mean_error, cov_error = mean_cov_error(mean, cov, *inflated)
    assert mean_error < 0.05 and cov_error < 0.05, (mean_error, cov_error)
    # negative controls: neither the true posterior nor the prior has this law
    assert mean_cov_error(mean, cov, *plain)[1] > 0.1
    assert mean_cov_error(mean, cov, torch.zeros(6, dtype=torch.float64), prior.cov)[1] > 0.1


def test_contraction_rate_matches_the_formula() -> None:
    c, a, sigma, rho = 0.8, 0.9, 0.4, 0.5
    eye = torch.eye(1, dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(1, dtype=torch.float64), c * eye, dtype=torch.float64)
    prior.sigma_min = 1e-3
    problem = Problem(torch.zeros(1, dtype=torch.float64), Dense(a * eye), Gaussian(sigma))
    zero = type(
        "Zero",
        (Rng,),
        {"normal": lambda self, shape, dtype=torch.float32: torch.zeros((len(self), *shape), dtype=dtype)},
    )
    sampler = PnPDM(start="noise", rho_max=rho, rho_min=rho, log_step=0.05)
    from sciinv.samplers import State

    after, _ = sampler.step(
        problem, Counted(prior), State(torch.ones(1, 1, dtype=torch.float64)), rho, rho, zero(0, [0])
    )
    predicted = c / (c + rho**2) * sigma**2 / (sigma**2 + a**2 * rho**2)
    assert float(after.x) == pytest.approx(predicted, rel=0.02)


def test_start_by_moment_matching_leaves_little_to_the_sweeps() -> None:
    """24 steps down to a small rho and 4 sweeps are at the posterior; as many sweeps from noise are not."""
    problem, prior = gaussian_problem()
    prior.sigma_min, prior.sigma_max = 0.005, 20.0
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    fields = {"rho_max": 2.0, "rho_min": 0.05, "anneal": 24, "stationary": 4, "log_step": 0.25}
    warm = mean_cov_error(*affine_law(PnPDM(start="mmps", **fields), problem, prior), *truth)
    cold = mean_cov_error(*affine_law(PnPDM(start="noise", **fields), problem, prior), *truth)
    assert warm[0] < 0.01 and warm[1] < 0.05, warm
    assert cold[0] > 0.1 and cold[1] > 0.1, cold


def test_data_without_a_forward_operator_cannot_start_by_moment_matching() -> None:
    problem, prior = gaussian_problem()
    normal = problem.operator.H @ problem.operator
    yty = float(problem.y.square().sum())
    quadratic = QuadraticProblem(normal, problem.aty, yty, 3, problem.noise, root=problem.operator)
    assert sample(PnPDM(start="noise"), quadratic, prior, 2, seed=0).x.isfinite().all()
    with pytest.raises(MismatchError, match="differentiable"):
        sample(PnPDM(start="mmps"), quadratic, prior, 2, seed=0)


def random_field_run(mask: torch.Tensor, n: int, **fields) -> dict[str, float]:
    """Errors of posterior mean and std maps in units of the sampling floor of n exact draws."""
    size, sigma = len(mask), 0.1
    prior = RandomFieldPrior((size, size), channels=2)
    prior.sigma_min = 0.01
    operator = FourierMask(mask)
    y = operator(prior.to_physical(prior.draw(Rng(7, [0]))))
    y = (y + sigma * Rng(8, [0]).normal_like(y) * mask)[0]
    problem = Problem(y, operator, Gaussian(sigma))
    law = prior.posterior(operator, y, sigma)
    std = law.cov.diagonal().clamp_min(0).sqrt()
    drawn = sample(PnPDM(start="noise", **fields), problem, prior, n, seed=0)
    x = prior.to_physical.adjoint(drawn.x).flatten(1).double()
    rms = std.square().mean().sqrt()
    return {
        "mean": float((x.mean(0) - law.mean).square().mean().sqrt() / (rms / math.sqrt(n))),
        "std": float((x.std(0) - std).square().mean().sqrt() / (rms / math.sqrt(2 * (n - 1)))),
        "rhat_max": drawn.provenance["rhat_max"],
    }


def test_random_field_maps_are_within_twice_the_sampling_floor() -> None:
    mask = torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) < 0.4
    good = random_field_run(mask, 64, rho_max=10.0, rho_min=0.05, anneal=24, stationary=16, log_step=0.25)
    assert good["mean"] < 2 and good["std"] < 2, good
    # negative control: a first coupling narrower than the field's large scales never moves them (their std is 12)
    bad = random_field_run(mask, 64, rho_max=1.0, rho_min=0.05, anneal=24, stationary=16, log_step=0.25)
    assert bad["std"] > 2, bad
