"""Noise models: densities against torch's, gradients against differences, draws, and posteriors against quadrature."""

import math

import pytest
import torch
from known import Quadrature, blurred

from sciinv.certify.stream import OneStream
from sciinv.errors import InputError, MismatchError
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian, PoissonTransmission
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import METHODS, sample
from sciinv.samplers.exact.mcmc import move, start_chain

F64 = torch.float64
BLANK = torch.tensor([40.0, 60.0, 900.0], dtype=F64)


def poisson(electronic: float = 0.0, background: float = 0.0) -> PoissonTransmission:
    return PoissonTransmission(BLANK, background, electronic)


def grid(n: int = 50) -> torch.Tensor:
    return Rng(2, range(n)).normal((3,), F64).abs()


def test_density_is_that_of_torch() -> None:
    mean, y = grid(), torch.tensor([12.0, 0.0, 333.0], dtype=F64)
    for electronic, background in ((0.0, 0.0), (0.0, 2.5), (3.0, 1.0)):
        rate = BLANK * torch.exp(-mean) + background + electronic**2
        law = torch.distributions.Poisson(rate, validate_args=False)
        noise = poisson(electronic, background)
        assert torch.allclose(noise.log_prob(y, mean, 1), law.log_prob(y + electronic**2).sum(-1), rtol=1e-12)
    with_sigma = Gaussian(0.3)
    law = torch.distributions.Normal(mean, 0.3)
    assert torch.allclose(with_sigma.log_prob(y, mean, 1), law.log_prob(y).sum(-1))


@pytest.mark.parametrize("noise", [poisson(), poisson(3.0, 2.0), Gaussian(0.7)])
def test_residual_is_the_gradient_and_misfit_goes_with_it(noise) -> None:
    mean, y = grid().requires_grad_(), torch.tensor([12.0, 0.0, 333.0], dtype=F64)
    (slope,) = torch.autograd.grad(noise.log_prob(y, mean, 1).sum(), mean)
    assert torch.allclose(noise.residual(y, mean.detach()) / noise.sigma**2, slope, rtol=1e-9, atol=1e-9)
    (slope,) = torch.autograd.grad(noise.misfit(y, mean, 1).sum(), mean)
    assert torch.allclose(-0.5 * slope, noise.residual(y, mean.detach()), rtol=1e-9, atol=1e-9)
    h = 1e-4
    for k in range(3):  # and against differences, which know nothing of autograd
        e = h * torch.eye(3, dtype=F64)[k]
        up, down = (noise.log_prob(y, mean.detach() + s * e, 1) for s in (1, -1))
        rough = (up - down) / (2 * h) * noise.sigma**2
        assert torch.allclose(noise.residual(y, mean.detach())[:, k], rough, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("noise", [poisson(), poisson(3.0, 2.0), Gaussian(0.7)])
def test_change_of_misfit_is_a_difference(noise) -> None:
    y, a, b = torch.tensor([12.0, 0.0, 333.0], dtype=F64), grid(), grid().flip(0)
    change = noise.misfit_change(y, b, a, 1)
    assert torch.allclose(change, noise.misfit(y, b, 1) - noise.misfit(y, a, 1), rtol=1e-9, atol=1e-9)
    ratio = -2 * (noise.log_prob(y, b, 1) - noise.log_prob(y, a, 1)) * noise.sigma**2
    assert torch.allclose(change, ratio, rtol=1e-9, atol=1e-9)


def test_single_precision_keeps_the_change_of_many_large_counts() -> None:
    blank = torch.full((4000,), 3e4)
    mean = Rng(0, [0]).normal((4000,)).abs()
    noise = PoissonTransmission(blank)
    y = noise.sample(mean, Rng(1, [0]))
    step = mean + 1e-3 * Rng(2, [0]).normal((4000,))
    exact = PoissonTransmission(blank.double()).misfit_change(y.double(), step.double(), mean.double(), 1)
    careful = abs(float(noise.misfit_change(y, step, mean, 1) - exact))
    plain = abs(float(-2 * (noise.log_prob(y, step, 1) - noise.log_prob(y, mean, 1)) - exact))
    assert careful < 1e-3 and plain > 0.1, (careful, plain)


def test_misfit_vanishes_at_the_best_fit_and_counts_nothing_for_empty_cells() -> None:
    noise, y = poisson(), torch.tensor([12.0, 30.0, 333.0], dtype=F64)
    assert float(noise.misfit(y, -torch.log(y / BLANK), 1)) < 1e-9
    empty = noise.misfit(torch.zeros(3, dtype=F64), torch.full((3,), 20.0, dtype=F64), 1)
    assert torch.allclose(empty, 2 * (BLANK * math.exp(-20)).sum())


def test_draws_have_the_moments_of_the_law() -> None:
    noise, n = poisson(3.0, 2.0), 20_000
    mean = torch.tensor([0.3, 2.0, 1.0], dtype=F64)
    y = noise.sample(mean.expand(n, 3), OneStream(0, range(n)))
    rate = BLANK * torch.exp(-mean) + 2.0
    assert torch.allclose(y.mean(0), rate, atol=4 * float((rate.max() + 9) / n) ** 0.5)
    assert torch.allclose(y.var(0), rate + 9, rtol=0.05)
    chi2 = noise.chi2(y, mean.expand(n, 3), 1)
    assert abs(float(chi2.mean()) - 3) < 4 * float(chi2.std()) / n**0.5
    assert torch.equal(
        noise.sample(mean.expand(2, 3), Rng(4, [0, 1]))[1], noise.sample(mean.expand(1, 3), Rng(4, [1]))[0]
    )


def test_nearest_gaussian_agrees_where_counts_are_many() -> None:
    noise = PoissonTransmission(torch.full((3,), 1e6, dtype=F64))
    mean, n = torch.tensor([0.1, 1.0, 3.0], dtype=F64), 4000
    y = noise.sample(mean.expand(n, 3), OneStream(0, range(n)))
    data, sigma = noise.linearised(y)
    pull = (data - mean) / sigma
    assert float(pull.mean().abs()) < 0.05 and abs(float(pull.std()) - 1) < 0.05
    data, sigma = noise.linearised(torch.zeros(3, dtype=F64))
    assert torch.isfinite(data).all() and (sigma >= 1).all()  # an empty cell says little, but it says it finitely


def counted(seed: int = 5) -> tuple[Problem, GaussianPrior]:
    """A 2-D Gaussian prior seen through three lines of few counts."""
    matrix = torch.tensor([[1.0, 0.2], [0.1, 0.8], [0.7, 0.7]], dtype=F64)
    prior = GaussianPrior(torch.tensor([[0.8, 0.5]]), torch.diag(torch.tensor([0.5, 0.3], dtype=F64)), dtype=F64)
    op = Dense(matrix, (1, 2))
    noise = poisson(2.0, 1.0)
    y = noise.sample(op(torch.tensor([[[1.4, 0.2]]], dtype=F64)), Rng(seed, [0]))[0]
    return Problem(y, op, noise), prior


def exact(problem: Problem, log_prior, n: int) -> torch.Tensor:
    return Quadrature(lambda z: problem.log_likelihood(z) + log_prior(z)).draw(n, 3)


@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_metropolis_kernels_sample_counts_exactly(kernel: str) -> None:
    problem, _ = counted()
    n, rho = 4000, 0.5
    x = torch.tensor([[[0.9, 0.4]]], dtype=F64).expand(n, 1, 2)
    truth = exact(problem, lambda z: -(z - x[0]).square().flatten(1).sum(1) / (2 * rho**2), n)
    rng = OneStream(0, range(n))
    chain, _ = move(problem, x, rho, start_chain(problem, x, rho, kernel), rng, kernel=kernel, steps=40, tune=True)
    chain, info = move(problem, x, rho, chain, rng, kernel=kernel, steps=40, tune=False)
    assert 0.4 < float(info["accept"].mean()) < 0.999
    assert torch.allclose(chain.z.mean(0), truth.mean(0), atol=0.03)
    assert torch.allclose(chain.z.flatten(1).T.cov(), truth.flatten(1).T.cov(), atol=0.02)


@pytest.mark.parametrize("start", ["mmps", "noise"])
def test_pnpdm_with_counts_against_quadrature(start: str) -> None:
    problem, prior = counted()
    n, rho = 900, 0.15
    law = torch.distributions.MultivariateNormal(prior.mean.flatten(), torch.diag(torch.tensor([0.5, 0.3], dtype=F64)))
    # what the sweeps target at a finite rho, and it is not the posterior: both are looked at
    blur = Quadrature(lambda z: blurred(problem.log_likelihood, z, rho) + law.log_prob(z.flatten(1)), 3, 120)
    truth, posterior = blur.draw(20_000, 3), exact(problem, lambda z: law.log_prob(z.flatten(1)), 20_000)
    method = METHODS["pnpdm"](start=start, rho_min=rho, stationary=36, inner=6, anneal=12, kernel="hmc", log_step=0.2)
    out = sample(method, problem, prior, n, 0, rng_factory=OneStream)
    assert out.failed is not None and not out.failed.any()
    spread = truth.std(0)
    assert ((out.x.mean(0) - truth.mean(0)).abs() / spread).max() < 0.1
    assert ((out.x.std(0) - spread).abs() / spread).max() < 0.08
    assert ((posterior.std(0) - spread).abs() / spread).max() > 0.1


def test_gradient_methods_run_on_counts_and_others_say_no() -> None:
    problem, prior = counted()
    out = sample(METHODS["dps"](steps=200, zeta=0.01), problem, prior, 200, 0, rng_factory=OneStream)
    far = problem.chi2(prior.mean[None].expand(1, 1, 2))
    assert float(problem.chi2(out.x).median()) < 0.5 * float(far)
    assert "gaussian" not in problem.capabilities() and "gaussian" in problem.linearised.capabilities()
    with pytest.raises(MismatchError, match="gaussian"):
        sample(METHODS["mmps"](), problem, prior, 2, 0)
    with pytest.raises(MismatchError, match="gaussian"):
        sample(METHODS["pnpdm"](kernel="exact"), problem, prior, 2, 0)


def test_impossible_counts_are_refused() -> None:
    for blank in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="blank scan"):
            PoissonTransmission(torch.tensor([5.0, blank]))
    with pytest.raises(InputError, match="background"):
        PoissonTransmission(torch.ones(2), -1.0)
