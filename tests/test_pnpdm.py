"""Split Gibbs against closed forms: the prior step, the law at fixed rho, the contraction rate, the posterior maps."""

import math

import pytest
import torch
from known import Quadrature, Ring, blurred
from support import Plain, gaussian_problem

from sciinv.errors import MismatchError
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.gaussian import GaussianPrior, anisotropic_gaussian
from sciinv.priors.mixture import MixturePrior
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem, QuadraticProblem
from sciinv.rng import Rng
from sciinv.samplers import PnPDM, sample
from sciinv.samplers.exact.inflated import rho_correction
from sciinv.samplers.kernels import prior_step
from sciinv.testing import affine_law, check_sampler, mean_cov_error, moments, sampling_floor


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


@pytest.mark.slow
def test_bias_falls_as_rho_squared() -> None:
    prior, sigma = anisotropic_gaussian(dtype=torch.float64), 0.7
    prior.sigma_min = 0.01
    g = torch.Generator().manual_seed(3)
    matrix = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]
    problem = Problem(matrix @ torch.randn(6, generator=g, dtype=torch.float64), Dense(matrix, (1, 6)), Gaussian(sigma))
    truth = prior.posterior(problem.operator, problem.y, sigma)[:2]
    bias = {}
    for rho, sweeps in ((0.15, 60), (0.3, 25)):
        fields = {"rho_max": 2.0, "rho_min": rho, "anneal": 12, "stationary": sweeps, "log_step": 0.3}
        mean, cov = affine_law(PnPDM(start="noise", **fields), problem, prior)
        bias[rho] = mean_cov_error(mean, cov, *truth)[0]
        inflated = prior.posterior(problem.operator, problem.y, sigma, rho)[:2]
        assert bias[rho] == pytest.approx(mean_cov_error(*inflated, *truth)[0], rel=0.05)
    assert math.log2(bias[0.3] / bias[0.15]) == pytest.approx(2, abs=0.2)


def test_rho_correction_removes_the_bias() -> None:
    problem, prior = gaussian_problem()
    prior.sigma_min, rho = 0.005, 0.3
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)
    x = sample(PnPDM(rho_max=0.4, rho_min=rho, anneal=16, stationary=12, log_step=0.2), problem, prior, 2000, 0).x
    w = rho_correction(problem, x, rho).softmax(0)
    floor = sampling_floor(truth, int(1 / w.square().sum()))
    flat = x.flatten(1)
    mean = w @ flat
    cov = ((flat - mean) * w[:, None]).T @ (flat - mean)
    corrected, plain = (mean_cov_error(*law, *truth[:2]) for law in ((mean, cov), moments(x)))
    assert corrected[0] < 2 * floor[0] and corrected[1] < 2 * floor[1], (corrected, floor)
    assert plain[0] > 2 * floor[0], (plain, floor)


RHO_RING = 0.2


def ring_problem() -> tuple[Problem, MixturePrior]:
    """Three components in the plane, seen through their distance from the origin."""
    means = torch.tensor([[[0.8, 0.3]], [[-0.9, 0.9]], [[0.2, -1.2]]], dtype=torch.float64)
    weights, variances = torch.tensor([0.5, 0.2, 0.3]), torch.tensor([0.3, 0.15, 0.2])
    prior = MixturePrior(weights, means, variances, dtype=torch.float64)
    prior.sigma_min = 0.01
    return Problem(torch.tensor([1.2], dtype=torch.float64), Ring(), Gaussian(0.15)), prior


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["auto", "hmc", "ula"])
def test_nonlinear_posterior_by_quadrature(kernel: str) -> None:
    """MALA and HMC draw the law at rho to within the floor and are within twice the floor of the posterior."""
    problem, prior = ring_problem()
    zero, n = torch.zeros((), dtype=torch.float64), 600
    sampler = PnPDM(
        start="noise", rho_max=2.0, rho_min=RHO_RING, anneal=30, stationary=20, log_step=0.5, inner=6, kernel=kernel
    )
    out = sample(sampler, problem, prior, n, seed=0)
    posterior = Quadrature(lambda x: problem.log_likelihood(x) + prior.log_marginal(x, zero))
    at_rho = Quadrature(lambda x: blurred(problem.log_likelihood, x, RHO_RING) + prior.log_marginal(x, zero))
    ratios = [law.distance(out.x) / law.floor(n) for law in (posterior, at_rho)]
    assert out.trace["mcmc_step"][-20:].std(0).max() < 1e-6  # frozen in the stationary sweeps
    assert (ratios[0] < 2 and ratios[1] < 1.3) == (kernel != "ula"), ratios
    prior_only = sample(PnPDM(start="noise", rho_max=2.0, rho_min=2.0, anneal=1, stationary=4), problem, prior, n, 0)
    assert posterior.distance(prior_only.x) / posterior.floor(n) > 3


def test_corrected_samples_have_the_moments_of_the_posterior() -> None:
    """Wide coupling and few data: the weights meet the closed form where the samples themselves do not."""
    problem, prior = gaussian_problem(0.8)
    prior.sigma_min, n = 0.02, 1200
    mean, cov = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    fields = {"start": "noise", "rho_max": 0.8, "rho_min": 0.8, "anneal": 1, "stationary": 8}
    out = sample(PnPDM(correct=True, **fields), problem, prior, n, seed=0, chunk=500)
    x, w = out.x.flatten(1), out.weights
    share = 1 / float(w.square().sum()) / n
    assert 0.2 < share < 0.9  # the weights matter and do not degenerate

    def errors(w: torch.Tensor) -> tuple[float, float]:
        m = w @ x
        return mean_cov_error(m, (w[:, None] * (x - m)).T @ (x - m), mean, cov)

    plain, corrected = errors(torch.full_like(w, 1 / n)), errors(w)
    assert corrected[0] < 0.12 and corrected[1] < 0.16, corrected
    assert plain[0] > 0.3 and plain[1] > 0.35, plain
    assert sample(PnPDM(**fields), problem, prior, 2, seed=0).log_w is None


def test_the_correction_needs_a_decomposition() -> None:
    problem, prior = gaussian_problem()
    hidden = Problem(problem.y, Plain(problem.operator), problem.noise)
    assert sample(PnPDM(), hidden, prior, 2, seed=0).log_w is None
    with pytest.raises(MismatchError, match="singular values"):
        sample(PnPDM(correct=True), hidden, prior, 2, seed=0)
    normal = problem.operator.H @ problem.operator
    quadratic = QuadraticProblem(normal, problem.aty, float(problem.y.square().sum()), 3, problem.noise)
    with pytest.raises(MismatchError, match="singular values"):
        sample(PnPDM(correct=True, start="noise"), quadratic, prior, 2, seed=0)


def test_nonlinear_problems_start_from_noise_only() -> None:
    problem, prior = ring_problem()
    with pytest.raises(MismatchError, match=r"linear.*start=noise.*dps"):
        sample(PnPDM(), problem, prior, 2, seed=0)
    with pytest.raises(MismatchError, match=r"seen.*row space"):
        sample(PnPDM(start="noise", returns="seen"), problem, prior, 2, seed=0)
    with pytest.raises(MismatchError, match=r"exact.*linear"):
        sample(PnPDM(start="noise", kernel="exact"), problem, prior, 2, seed=0)
    check_sampler(PnPDM(start="noise", anneal=3, rho_max=1.0, rho_min=0.3, inner=2), problem, prior)
