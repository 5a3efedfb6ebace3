"""The inflated-noise likelihood against a dense multivariate normal, for every kind of decomposition."""

import dataclasses as dc
import pickle

import pytest
import torch
from support import gaussian_problem
from torch.distributions import MultivariateNormal

from sciinv.generic.blur import Blur, gaussian_kernel
from sciinv.generic.codec import ChannelsToComplex
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.generic.resample import BlockAverage
from sciinv.noise import Gaussian
from sciinv.operator import Identity, Scaled, Space, to_real
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers.exact.inflated import inflated_residual, log_inflated, rho_correction

G = torch.Generator().manual_seed(5)
WIDE = torch.randn(3, 6, generator=G, dtype=torch.float64)
RANK_2 = torch.randn(5, 2, generator=G, dtype=torch.float64) @ torch.randn(2, 4, generator=G, dtype=torch.float64)
MASK = torch.rand(4, 5, generator=G) < 0.5
OPERATORS = {
    "wide": Dense(WIDE, (1, 6)),
    "tall": Dense(WIDE.T),
    "rank-deficient": Dense(RANK_2),
    "complex k-space": FourierMask(MASK),
    "k-space of real images, redundant": FourierMask(MASK, real=True),
    "k-space behind a codec": FourierMask(MASK) @ ChannelsToComplex((4, 5), 2.5),
    "blur": Blur(gaussian_kernel(1.0, 3), (4, 5)),
    "averages": BlockAverage((1, 4, 4), 2),
    "identity": Scaled(Identity(Space((3,))), -2.0),
}


def double(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.7, 20.0])
@pytest.mark.parametrize("kind", OPERATORS)
def test_density_is_that_of_the_dense_normal(kind: str, rho: float) -> None:
    op, sigma = OPERATORS[kind].double(), 0.3
    y = Rng(0, [0]).normal(op.codomain.shape, double(op.codomain.dtype))[0]
    x = Rng(1, [0, 1, 2]).normal(op.domain.shape, double(op.domain.dtype))
    matrix = op.as_matrix()
    cov = sigma**2 * torch.eye(len(matrix), dtype=torch.float64) + rho**2 * matrix @ matrix.T
    mean = to_real(op(x), len(op.codomain.shape))
    want = MultivariateNormal(mean, cov).log_prob(to_real(y, y.ndim))
    problem = Problem(y, op, Gaussian(sigma))
    got = log_inflated(problem, x, rho)
    assert got.shape == (3,) and torch.allclose(got, want, rtol=1e-6, atol=1e-6)
    correction = rho_correction(problem, x, rho)
    assert torch.allclose(correction, problem.log_likelihood(x) - want, rtol=1e-6, atol=1e-5)


def test_one_rho_a_sample_and_stacked_problems() -> None:
    a, _ = gaussian_problem()
    b = Problem(a.y + 1, Scaled(a.linear, 2.0), Gaussian(0.6))
    x = Rng(0, [0, 1, 2, 3]).normal((1, 6), torch.float64)
    rho = torch.tensor([0.1, 0.5, 1.0, 2.0], dtype=torch.float64)
    alone = torch.stack([log_inflated(a, x[i : i + 1], float(r))[0] for i, r in enumerate(rho)])
    assert torch.allclose(log_inflated(a, x, rho), alone)
    stacked = inflated_residual(Problem.stack([a, b], 2), x).log_ratio(0.0, 0.4)
    one_by_one = torch.cat([rho_correction(a, x[:2], 0.4), rho_correction(b, x[2:], 0.4)])
    assert torch.allclose(stacked, one_by_one, rtol=1e-6)


def test_single_precision_far_from_the_data() -> None:
    """Noise of a thousandth of the signal, rho a hundred times that: ``|r|^2`` less a projection would lose it."""
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = Rng(0, [0, 1]).normal((30,), torch.float64)
    y = matrix @ x[0] + 1e-3 * Rng(1, [0]).normal((20,), torch.float64)[0]
    at = x + 0.1 * Rng(2, [0, 1]).normal((30,), torch.float64)
    exact = log_inflated(Problem(y, Dense(matrix), Gaussian(1e-3)), at, 0.1)
    single = log_inflated(Problem(y.float(), Dense(matrix), Gaussian(1e-3)), at.float(), 0.1)
    assert torch.allclose(exact, single, atol=0.05, rtol=1e-3), (exact, single)


def test_data_are_decomposed_once_a_problem() -> None:
    problem, _ = gaussian_problem()
    x = Rng(0, [0, 1]).normal((1, 6), torch.float64)
    want, seen = log_inflated(problem, x, 0.4), problem.observed
    again = pickle.loads(pickle.dumps(problem))
    assert torch.equal(log_inflated(again, x, 0.4), want) and torch.equal(again.observed.o, seen.o)
    # the cache belongs to these data: others have their own
    for other in (dc.replace(problem, y=problem.y + 1), dc.replace(problem, noise=Gaussian(0.6))):
        fresh = Problem(other.y, other.operator, other.noise)
        assert torch.equal(log_inflated(other, x, 0.4), log_inflated(fresh, x, 0.4))
        assert not torch.allclose(log_inflated(other, x, 0.4), want)
        one, two = other.observed, fresh.observed
        assert torch.equal(one.o, two.o) and torch.equal(one.tau, two.tau)
        assert not (torch.equal(one.o, seen.o) and torch.equal(one.tau, seen.tau))
    calls = []
    problem.linear.register_forward_hook(lambda *_: calls.append(1))
    log_inflated(problem, x, 0.9), problem.observed, rho_correction(problem, x, 0.1)
    assert not calls
    fresh = dc.replace(problem)
    log_inflated(fresh, x, 0.9), fresh.observed, rho_correction(fresh, x, 0.1)
    assert len(calls) == 1  # y - U U^H y


def test_gradient_is_that_of_the_density() -> None:
    op = FourierMask(MASK) @ ChannelsToComplex((4, 5), 2.5)
    problem = Problem(Rng(0, [0]).normal((4, 5), torch.complex128)[0], op.double(), Gaussian(0.3))
    x = Rng(1, [0, 1]).normal((2, 4, 5), torch.float64).requires_grad_()
    rho2 = torch.tensor(0.16, dtype=torch.float64)
    seen = inflated_residual(problem, x)
    (want,) = torch.autograd.grad(seen.log_density(rho2.sqrt()).sum(), x)
    assert torch.allclose(seen.gradient(rho2), want)
    assert not torch.allclose(seen.gradient(2 * rho2), want, rtol=1e-2)
