"""The Metropolis kernels of the likelihood step: what they leave invariant, where they lead, what ULA gets wrong."""

import math

import pytest
import torch
from known import Quadrature, Ring
from support import gaussian_problem

from sciinv.certify.stream import OneStream
from sciinv.errors import MismatchError
from sciinv.noise import Gaussian
from sciinv.priors.gaussian import GaussianLaw
from sciinv.problem import Problem, QuadraticProblem
from sciinv.rng import Rng
from sciinv.samplers.exact.mcmc import ACCEPT, Chain, check_kernel, move, start_chain
from sciinv.testing import mean_cov_error, moments, sampling_floor

N = 2000


def conditional(rho: float = 0.4) -> tuple[Problem, torch.Tensor, GaussianLaw]:
    """A linear problem, a state x, and the Gaussian law ``p(y | z) N(z; x, rho^2)``."""
    problem, _ = gaussian_problem()
    matrix, x = problem.linear.as_matrix(), torch.linspace(-1, 1, 6, dtype=torch.float64)
    precision = matrix.T @ matrix / problem.noise.sigma**2 + torch.eye(6, dtype=torch.float64) / rho**2
    cov = torch.linalg.inv(precision)
    mean = cov @ (matrix.T @ problem.y / problem.noise.sigma**2 + x / rho**2)
    return problem, x, GaussianLaw(mean, (cov + cov.T) / 2, torch.zeros(()))


@pytest.mark.parametrize("kernel", ["mala", "hmc", "ula"])
def test_exact_draws_stay_exact(kernel: str) -> None:
    rho, angle = {"mala": (0.4, 0.45), "hmc": (0.8, 0.19), "ula": (0.4, 0.48)}[kernel]
    problem, x, law = conditional(rho)
    floor = sampling_floor(law, N)
    x = x.expand(N, 1, 6)
    start = law.draw(OneStream(3, range(N)))[:, None]
    log_step = torch.full((N,), math.log(angle), dtype=torch.float64)
    chain, info = move(
        problem, x, rho, Chain(start, log_step, torch.zeros(N)), OneStream(0, range(N)),
        kernel=kernel, steps=12, tune=False,
    )  # fmt: skip
    mean, cov = mean_cov_error(*moments(chain.z), law.mean, law.cov)
    assert torch.equal(chain.log_step, log_step)
    if kernel == "ula":
        assert cov > 3 * floor[1], (cov, floor)
    else:
        assert 0.3 < float(info["accept"].mean()) < 0.99
        assert mean < 2 * floor[0] and cov < 2 * floor[1], (mean, cov, floor)


@pytest.mark.parametrize("kernel", ["mala", "hmc"])
def test_tuning_reaches_the_wanted_acceptance_and_the_law(kernel: str) -> None:
    problem, x, law = conditional()
    x, rng = x.expand(N, 1, 6), OneStream(0, range(N))
    chain = start_chain(problem, x, 0.4, kernel)
    chain, _ = move(problem, x, 0.4, chain, rng, kernel=kernel, steps=40, tune=True)
    chain, info = move(problem, x, 0.4, chain, rng, kernel=kernel, steps=20, tune=False)
    if kernel == "hmc":  # a quarter turn in all is the longest, and here it is accepted more often than wanted
        assert float(info["accept"].mean()) > ACCEPT[kernel]
    else:
        assert float(info["accept"].mean()) == pytest.approx(ACCEPT[kernel], abs=0.03)
    mean, cov = mean_cov_error(*moments(chain.z), law.mean, law.cov)
    floor = sampling_floor(law, N)
    assert mean < 2 * floor[0] and cov < 2 * floor[1], (mean, cov, floor)


def test_silent_data_give_an_independent_draw_in_one_step() -> None:
    """The coupling is integrated exactly: one step of MALA in 3,000 dimensions draws N(x, rho^2) and is accepted."""
    from sciinv.generic.dense import Dense

    problem = Problem(torch.zeros(1), Dense(torch.full((1, 3000), 1e-6)), Gaussian(1.0))
    x = torch.full((20, 3000), 5.0)
    chain = start_chain(problem, x, 0.5, "mala")
    chain, info = move(problem, x, 0.5, chain, Rng(0, list(range(20))), kernel="mala", steps=1, tune=False)
    assert float(info["accept"].min()) > 0.999
    assert float((chain.z - x).std()) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("kernel", ["mala", "hmc", "ula"])
def test_ring_by_quadrature(kernel: str) -> None:
    """A nonlinear likelihood: distance to quadrature within twice the floor, except for ULA."""
    problem = Problem(torch.tensor([1.5], dtype=torch.float64), Ring(), Gaussian(0.3))
    centre = torch.tensor([[0.8, 0.3]], dtype=torch.float64)
    n, rho = 1000, 1.0
    law = Quadrature(
        lambda z: problem.log_likelihood(z) - (z - centre).square().flatten(1).sum(1) / (2 * rho**2), points=300
    )
    x, rng = centre.expand(n, 1, 2), OneStream(5, range(n))
    chain = start_chain(problem, x, rho, kernel)
    if kernel == "ula":  # at the step that MALA finds
        chain = Chain(x, torch.full_like(chain.log_step, math.log(0.52)), chain.tuned)
    else:
        chain, _ = move(problem, x, rho, chain, rng, kernel=kernel, steps=20, tune=True)
    chain, _ = move(problem, x, rho, chain, rng, kernel=kernel, steps=40, tune=False)
    ratio = law.distance(chain.z) / law.floor(n)
    assert (ratio < 2) == (kernel != "ula"), ratio


def test_a_batch_moves_as_its_parts_do() -> None:
    problem = Problem(torch.tensor([1.5], dtype=torch.float64), Ring(), Gaussian(0.3))
    x = Rng(0, [0, 1, 2]).normal((1, 2), torch.float64)

    def run(keys: list[int]) -> torch.Tensor:
        chain = start_chain(problem, x[keys], 0.7, "hmc")
        return move(problem, x[keys], 0.7, chain, Rng(1, keys), kernel="hmc", steps=5, tune=True)[0].z

    assert torch.allclose(run([0, 1, 2]), torch.cat([run([0]), run([1, 2])]))


def test_kernels_are_refused_by_name() -> None:
    problem = Problem(torch.tensor([1.5]), Ring(), Gaussian(0.4))
    with pytest.raises(MismatchError, match=r"exact.*linear.*dps"):
        check_kernel("pnpdm", "exact", problem)
    linear, _ = gaussian_problem()
    normal = linear.linear.H @ linear.linear
    quadratic = QuadraticProblem(normal, linear.aty, float(linear.y.square().sum()), 3, linear.noise)
    check_kernel("pnpdm", "auto", quadratic)  # type: ignore[arg-type]
    with pytest.raises(MismatchError, match="differentiable"):
        check_kernel("pnpdm", "mala", quadratic)  # type: ignore[arg-type]
