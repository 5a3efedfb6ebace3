"""The row-space kernels: exact laws, a cut that is no approximation, tempering, batches; and that a wrong one shows."""

import math

import pytest
import torch
from known import Quadrature, Ring
from support import gaussian_problem
from torch import Tensor

from sciinv.certify.stream import OneStream
from sciinv.errors import MismatchError, Unsupported
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.operator import Identity, LinearOperator, Operator, Scaled, Space
from sciinv.priors.gaussian import GaussianLaw
from sciinv.problem import Problem
from sciinv.reduced import Reduced
from sciinv.rng import Rng
from sciinv.samplers import sample
from sciinv.samplers.exact.mcmc import check_kernel, move, resolve, start_chain
from sciinv.samplers.exact.sgs_smc import SGSSMC
from sciinv.samplers.exact.sgs_tempered import SGSTempered
from sciinv.testing import mean_cov_error, moments, sampling_floor

N = 2000
F64 = torch.float64


class Split(Operator):
    """``g(S x)`` with S dense; g is any function of the last axis."""

    def __init__(self, inner: LinearOperator, function, size: int) -> None:
        super().__init__(inner.domain, Space((size,)))
        self.inner, self.function, self.size = inner, function, size

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner(x))

    def split(self) -> tuple[Operator, LinearOperator]:
        return Outer(self.inner.codomain, self.function, self.size), self.inner


class Outer(Operator):
    def __init__(self, domain: Space, function, size: int) -> None:
        super().__init__(domain, Space((size,)))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def matrix(m: int = 3, d: int = 6) -> Tensor:
    return torch.randn(m, d, generator=torch.Generator().manual_seed(3), dtype=F64)


def linear_problem(sigma: float = 0.3) -> tuple[Problem, Tensor, GaussianLaw, float]:
    """g is the identity: ``p(y | z) N(z; x, rho^2)`` is a Gaussian."""
    a, rho, x = matrix(), 0.8, torch.linspace(-1, 1, 6, dtype=F64)
    y = a @ torch.linspace(1, -0.5, 6, dtype=F64)
    problem = Problem(y, Split(Dense(a, (1, 6)), lambda s: s, 3), Gaussian(sigma))
    cov = torch.linalg.inv(a.T @ a / sigma**2 + torch.eye(6, dtype=F64) / rho**2)
    law = GaussianLaw(cov @ (a.T @ y / sigma**2 + x / rho**2), (cov + cov.T) / 2, torch.zeros(()))
    return problem, x.expand(N, 1, 6), law, rho


def run(problem, x, rho, kernel, steps, *, sweeps=1, tune=0, seed=0, z=None, beta=1.0, angle=None):
    chain, rng = start_chain(problem, x, rho, kernel), OneStream(seed, range(len(x)))
    chain = chain._replace(z=x if z is None else z)
    if angle is not None:
        chain = chain._replace(log_step=torch.full_like(chain.log_step, math.log(angle)))
    for k in range(sweeps):
        chain, info = move(problem, x, rho, chain, rng, kernel=kernel, steps=steps, tune=k < tune, beta=beta)
    return chain, info


@pytest.mark.parametrize("kernel", ["row_mala", "row_hmc"])
def test_linear_data_are_drawn_exactly_and_never_refused(kernel: str) -> None:
    problem, x, law, rho = linear_problem()
    chain, info = run(problem, x, rho, kernel, 1 if kernel == "row_mala" else 3)
    mean, cov = mean_cov_error(*moments(chain.z), law.mean, law.cov)
    floor = sampling_floor(law, N)
    assert float(info["accept"].min()) > 1 - 1e-9 and float(info["hidden_accept"].min()) > 1 - 1e-9
    assert mean < 2 * floor[0] and cov < 2 * floor[1], (mean, cov, floor)


def test_a_cut_through_the_data_is_still_exact_and_is_seen_in_the_acceptance() -> None:
    problem, x, law, rho = linear_problem(1.5)
    cut = Reduced.of(problem.operator, 0.6)
    assert cut.rank < 3
    problem.__dict__["reduced"] = cut
    chain, info = run(problem, x, rho, "row_mala", 1, sweeps=150)
    mean, cov = mean_cov_error(*moments(chain.z), law.mean, law.cov)
    floor = sampling_floor(law, N)
    assert float(info["hidden_accept"].mean()) < 0.9
    assert mean < 2 * floor[0] and cov < 2 * floor[1], (mean, cov, floor)


def ring(beta: float = 1.0) -> tuple[Problem, Tensor, Quadrature, float]:
    """``|S x|`` with S a rotation and stretch of two dimensions: nonlinear, by quadrature."""
    turn = torch.tensor([[1.0, 0.5], [-0.4, 0.8]], dtype=F64)
    inner = Dense(turn, (1, 2))
    operator = Split(inner, lambda s: (s.square().sum(-1, keepdim=True) + 1e-12).sqrt(), 1)
    problem, rho = Problem(torch.tensor([1.5], dtype=F64), operator, Gaussian(0.5)), 1.0
    centre = torch.tensor([[0.8, 0.3]], dtype=F64)
    law = Quadrature(
        lambda z: beta * problem.log_likelihood(z) - (z - centre).square().flatten(1).sum(1) / (2 * rho**2), points=300
    )
    return problem, centre.expand(1000, 1, 2), law, rho


@pytest.mark.parametrize("kernel", ["row_mala", "row_hmc"])
@pytest.mark.parametrize("beta", [1.0, 0.2])
def test_ring_by_quadrature(kernel: str, beta: float) -> None:
    problem, x, law, rho = ring(beta)
    sweeps = 12 if kernel == "row_mala" else 6
    chain, info = run(problem, x, rho, kernel, 10, sweeps=sweeps, tune=4, seed=5, beta=beta)
    assert law.distance(chain.z) < 2 * law.floor(len(x))
    assert 0.3 < float(info["accept"].mean()) < 0.999


@pytest.mark.parametrize("kernel", ["row_mala", "row_hmc"])
def test_exact_draws_stay_exact_at_any_angle(kernel: str) -> None:
    problem, x, law, rho = ring()
    start = law.draw(len(x), 7)
    chain, _ = run(problem, x, rho, kernel, 4, sweeps=3, z=start, seed=6, angle=0.2)
    assert law.distance(chain.z) < 2 * law.floor(len(x)) and float((chain.z - start).abs().mean()) > 0.1


def test_a_kernel_without_correction_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sciinv.samplers.exact import row_mcmc

    monkeypatch.setattr(row_mcmc, "difference", lambda a, b, ndim=None: torch.zeros(len(a), dtype=a.dtype))
    problem, x, law, rho = ring()
    chain, _ = run(problem, x, rho, "row_mala", 10, sweeps=4, seed=5)
    assert law.distance(chain.z) > 2 * law.floor(len(x))


def test_silent_directions_are_drawn_from_the_coupling() -> None:
    g = torch.Generator().manual_seed(0)
    problem = Problem(torch.zeros(4), Split(Dense(torch.randn(4, 3000, generator=g)), torch.tanh, 4), Gaussian(1.0))
    x = torch.full((20, 3000), 5.0)
    chain, info = run(problem, x, 0.5, "row_hmc", 1)
    assert problem.reduced.rank == 4 and float(info["hidden_accept"].min()) > 0.99
    gap = problem.reduced.hidden(chain.z - x)
    assert float(gap.std()) == pytest.approx(0.5, rel=0.02)
    assert float(problem.reduced.coordinates(gap).abs().max()) < 1e-3


def test_a_batch_moves_as_its_parts_do() -> None:
    problem, x, _, rho = ring()
    x = x[:3] + Rng(0, [0, 1, 2]).normal((1, 2), F64)

    def part(keys: list[int]) -> Tensor:
        chain = start_chain(problem, x[keys], rho, "row_hmc")
        return move(problem, x[keys], rho, chain, Rng(1, keys), kernel="row_hmc", steps=5, tune=True)[0].z

    assert torch.allclose(part([0, 1, 2]), torch.cat([part([0]), part([1, 2])]))


def test_the_jacobian_is_that_of_reverse_mode() -> None:
    problem, x, _, _ = ring()
    seen = problem.reduced
    s = seen.linear(x[:2] + torch.tensor([[[0.0, 0.0]], [[0.3, -0.2]]], dtype=F64))
    j = seen.jacobian(s)
    _, pull = seen.residual_and_pull(torch.zeros(1, dtype=F64), s)
    expected = torch.einsum("nrm,nm->nr", j, -seen.data(s))
    assert torch.allclose(pull, expected) and torch.allclose(seen.curvature(s), j @ j.mT)


def test_who_may_use_it() -> None:
    problem, _, _, _ = ring()
    assert resolve("auto", problem) == "row_hmc"
    whole = Problem(torch.tensor([1.5]), Ring(), Gaussian(0.4))
    assert resolve("auto", whole) == "mala"
    with pytest.raises(MismatchError, match="split"):
        check_kernel("pnpdm", "row_hmc", whole)
    with pytest.raises(Unsupported, match="too large"):
        Dense(torch.zeros(4097, 4097)).row_space()
    chained = Problem(problem.y, problem.operator @ Scaled(Identity(Space((1, 2))), 2.0), Gaussian(0.3))
    assert resolve("auto", chained) == "row_hmc"
    assert torch.allclose(chained.reduced.seen.abs(), 2 * problem.reduced.seen.abs())


def test_a_population_may_end_at_a_width_with_the_true_likelihood() -> None:
    """returns=seen: the posterior of the prior blurred by rho_min in the row space; it is not that of the prior."""
    problem, prior = gaussian_problem()
    a, rho = problem.linear.as_matrix(), 0.7
    hidden = Problem(problem.y, Split(Dense(a, (1, 6)), lambda s: s, 3), problem.noise)
    out = sample(SGSSMC(rho_max=1.0, rho_min=rho, log_step=0.5, returns="seen"), hidden, prior, 500, 1,
                 rng_factory=OneStream)  # fmt: skip
    w, flat = out.weights.to(F64), out.x.flatten(1)
    mean = w @ flat
    cov = (flat - mean).T @ (w[:, None] * (flat - mean))
    basis = hidden.reduced.basis.to(F64)
    plain, errors = (prior.basis * prior.variances) @ prior.basis.T, []
    for wide in (plain + rho**2 * basis.T @ basis, plain):
        gain = wide @ a.T @ torch.linalg.inv(a @ wide @ a.T + problem.noise.sigma**2 * torch.eye(3, dtype=F64))
        truth = prior.mean.flatten() + gain @ (problem.y - a @ prior.mean.flatten()), wide - gain @ a @ wide
        errors.append(mean_cov_error(mean, cov, *truth))
    (m, c), (m_other, c_other) = errors
    assert m < 0.2 and c < 0.3, errors
    assert max(m_other, c_other) > 0.35, errors
    with pytest.raises(MismatchError, match="seen"):
        sample(SGSSMC(returns="seen"), problem, prior, 4, 1)


@pytest.mark.parametrize("make", [
    lambda: SGSSMC(rho_max=1.0, islands=2, log_step=0.5),
    pytest.param(
        lambda: SGSTempered(rungs=5, rho_max=2.0, rho_min=0.15, sweeps=80, log_step=0.5, inner=2),
        marks=pytest.mark.slow,
    ),
])  # fmt: skip
def test_populations_and_ladders_move_in_the_row_space(make) -> None:
    """Within twice the floor of the posterior of a linear Gaussian problem that they are told nothing about."""
    problem, prior = gaussian_problem()
    a = problem.linear.as_matrix()
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    hidden = Problem(problem.y, Split(Dense(a, (1, 6)), lambda s: s, 3), problem.noise)
    out = sample(make(), hidden, prior, 300, seed=1, rng_factory=OneStream)
    w = out.weights.to(F64) if out.log_w is not None else torch.full((300,), 1 / 300, dtype=F64)
    flat = out.x.flatten(1)
    mean = w @ flat
    cov = (flat - mean).T @ (w[:, None] * (flat - mean))
    errors = mean_cov_error(mean, cov, *truth)
    assert errors[0] < 0.2 and errors[1] < 0.3, errors
