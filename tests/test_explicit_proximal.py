"""DDS, DiffPIR and MPGD: the proximal or gradient step itself, and the law of the whole ladder."""

import dataclasses as dc
import math

import pytest
import torch
from dense_law import dense_law
from stepwise import stepwise_law
from support import Plain, gaussian_problem

from sciinv.errors import UsageError
from sciinv.generic.dense import Dense
from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem, QuadraticProblem
from sciinv.rng import Rng
from sciinv.samplers import METHODS, State, sample
from sciinv.samplers.explicit.parts import pseudo_inverse, push, ridge
from sciinv.testing import mean_cov_error

F64 = torch.float64
DDS, DiffPIR, MPGD, PiGDM = (METHODS[name] for name in ("dds", "diffpir", "mpgd", "pigdm"))
EYE = torch.eye(6, dtype=F64)


def white(c: float, sigma_max: float = 80.0) -> GaussianPrior:
    prior = GaussianPrior(torch.zeros(1, 6), c * EYE, dtype=F64)
    prior.sigma_min, prior.sigma_max = 2e-3, sigma_max
    return prior


def precise() -> tuple[Problem, GaussianPrior]:
    problem, prior = gaussian_problem()
    prior.sigma_max = 80.0
    return dc.replace(problem, cg_tol=1e-13), prior


class Square(Dense):
    """A symmetric matrix on states."""

    def __init__(self, matrix: torch.Tensor):
        super().__init__(matrix, (1, 6))
        self.codomain = self.domain

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).unflatten(-1, (1, 6))

    def adjoint(self, y: torch.Tensor) -> torch.Tensor:
        return self.forward(y)


def quadratic(problem: Problem) -> QuadraticProblem:
    a, y = problem.linear, problem.y
    normal = Square(a.matrix.T @ a.matrix) if isinstance(a, Dense) else a.H @ a
    return QuadraticProblem(normal, a.adjoint(y), float(y @ y), 3, problem.noise, cg_tol=1e-13)


def orthonormal() -> Problem:
    """``A A^T = I``."""
    q, _ = torch.linalg.qr(Rng(3, [0]).normal((6, 6), F64)[0])
    return Problem(Rng(5, [0]).normal((3,), F64)[0], Dense(q[:3], (1, 6)), Gaussian(0.3), cg_tol=1e-13)


def error(sampler, problem: Problem, prior: GaussianPrior) -> tuple[float, float]:
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    return mean_cov_error(*stepwise_law(sampler, problem, prior, draws=1), *truth)


def at_level(sampler, problem, prior, x: torch.Tensor, t: float) -> torch.Tensor:
    return sampler.posterior_mean(problem, Counted(prior), x, t, Rng(0, range(len(x))))[0].flatten(1)


# --- the solves ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["svd", "cg", "quadratic-svd", "quadratic-cg"])
def test_ridge_and_pseudo_inverse_are_their_dense_forms(form: str) -> None:
    problem, _ = precise()
    a, d = problem.operator.matrix, Rng(0, range(4)).normal((1, 6), F64)
    chosen = problem if "svd" in form else dc.replace(problem, operator=Plain(problem.operator))
    chosen = quadratic(chosen) if "quadratic" in form else chosen
    r = problem.y - d.flatten(1) @ a.T
    for rho in (1e-4, 0.3, 1e4):
        expected = r @ torch.linalg.solve(a.T @ a + rho * EYE, a.T).T
        assert torch.allclose(ridge(chosen, d, rho)[0].flatten(1), expected, atol=1e-10)
    assert torch.allclose(pseudo_inverse(chosen, d)[0].flatten(1), r @ torch.linalg.pinv(a).T, atol=1e-9)


def test_push_is_the_derivative_of_a_nonlinear_operator() -> None:
    a = PhaseRetrieval((1, 4, 4), dtype=torch.float32).double()
    x, v = (Rng(seed, range(2)).normal((1, 4, 4), F64) for seed in (0, 1))
    problem = Problem(torch.zeros(a.codomain.shape, dtype=F64), a, Gaussian(1.0))
    expected = (a(x + 1e-5 * v) - a(x - 1e-5 * v)) / 2e-5
    assert torch.allclose(push(problem, x, v), expected, atol=1e-7)


@pytest.mark.parametrize("name", ["dds", "diffpir", "pigdm"])
def test_data_kept_as_a_quadratic_form_give_the_same_samples(name: str) -> None:
    problem, prior = precise()
    sampler = METHODS[name](steps=10)
    found = sample(sampler, quadratic(problem), prior, 3, seed=0).x
    assert torch.allclose(found, sample(sampler, problem, prior, 3, seed=0).x, atol=1e-8)


# --- DDS -------------------------------------------------------------------------------------------------------------


def test_dds_with_enough_iterations_is_the_proximal_step() -> None:
    problem, prior = precise()
    a, x, t = problem.operator.matrix, Rng(4, range(5)).normal((1, 6), F64), 0.6
    d = prior.denoise(x, torch.tensor(t, dtype=F64)).flatten(1)
    for gamma in (1.0, 10.0):
        expected = (d + gamma * problem.y @ a) @ torch.linalg.inv(EYE + gamma * a.T @ a)
        few = [DDS(weight="constant", gamma=gamma, cg_iterations=k) for k in (1, 2, 3)]
        gaps = [float((at_level(sampler, problem, prior, x, t) - expected).norm()) for sampler in few]
        assert gaps[2] < 1e-10 < 1e-3 < gaps[1] < gaps[0], gaps  # rank 3
    noiseless = at_level(DDS(weight="noiseless", cg_iterations=4), problem, prior, x, t)
    assert torch.allclose(noiseless @ a.T, problem.y.expand(5, 3), atol=1e-9)


def test_dds_matched_is_pigdm_for_a_white_prior() -> None:
    problem, _ = precise()
    x, c = Rng(4, range(5)).normal((1, 6), F64), 0.5
    for t in (20.0, 0.6, 0.01):
        dds = at_level(DDS(prior_var=c, cg_iterations=6), problem, white(c), x, t)
        assert torch.allclose(dds, at_level(PiGDM(prior_var=c), problem, white(c), x, t), atol=1e-9)


@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_dds_is_the_dense_reference_and_biased(gamma: float) -> None:
    problem, prior = precise()
    a = problem.operator.matrix
    sampler = DDS(weight="constant", gamma=gamma, cg_iterations=6)
    expected = dense_law(
        problem, prior, sampler.grid(Counted(prior)),
        lambda j, t: gamma * torch.linalg.inv(EYE + gamma * a.T @ a) @ a.T,
        eta=0.85, posterior_eps=False, renoise=True,
    )  # fmt: skip
    found = stepwise_law(sampler, problem, prior, draws=1)
    assert torch.allclose(found[0], expected[0], atol=1e-9) and torch.allclose(found[1], expected[1], atol=1e-9)
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    assert mean_cov_error(*found, *truth)[0] > 0.3 and torch.trace(found[1]) < 0.75 * torch.trace(truth[1])
    # the weight that follows the noise is nearer
    assert error(DDS(cg_iterations=6), problem, prior)[0] < 0.85 * mean_cov_error(*found, *truth)[0]


# --- DiffPIR ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
def test_diffpir_is_exact_for_a_white_prior_when_lambda_knows_it(c: float) -> None:
    problem, _ = gaussian_problem()
    exact = error(DiffPIR(steps=128, solver="heun", prior_var=c), problem, white(c))
    assert max(exact) < 0.01
    if c < 1:
        assert error(DiffPIR(steps=128, solver="heun"), problem, white(c))[0] > 0.1


def test_diffpir_is_exact_for_a_flat_prior() -> None:
    problem = Problem(torch.ones(6, dtype=F64), Dense(EYE + 0.3 * EYE.roll(1, 0), (1, 6)), Gaussian(0.3))
    mean, cov = error(DiffPIR(steps=128, solver="heun"), problem, white(100.0, sigma_max=2000.0))
    assert mean < 0.01 and cov < 0.01


@pytest.mark.parametrize("lam", [1.0, 7.0])
def test_diffpir_is_the_dense_reference(lam: float) -> None:
    problem, _ = precise()
    a, noise = problem.operator.matrix, problem.noise.sigma**2
    prior, sampler = white(1.5), DiffPIR(steps=100, lam=lam)
    expected = dense_law(
        problem, prior, sampler.grid(Counted(prior)),
        lambda j, t: torch.linalg.inv(a.T @ a + lam * noise / t**2 * EYE) @ a.T, eta=math.sqrt(0.3), renoise=True,
    )  # fmt: skip
    found = stepwise_law(sampler, problem, prior, draws=1)
    assert torch.allclose(found[0], expected[0], atol=1e-8) and torch.allclose(found[1], expected[1], atol=1e-8)


def test_renoising_samples_at_a_lower_temperature() -> None:
    problem, _ = precise()
    prior = white(1.0)
    _, exact = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    for zeta in (0.3, 1.0):
        sampler = DiffPIR(steps=800, eta=math.sqrt(zeta), prior_var=1.0)
        _, cov = stepwise_law(sampler, problem, prior, draws=1)
        assert float(cov.trace() / exact.trace()) == pytest.approx((1 + math.sqrt(1 - zeta)) / 2, rel=0.03)


# --- MPGD ------------------------------------------------------------------------------------------------------------


def test_mpgd_with_half_a_step_is_ddnm_where_the_rows_are_orthonormal() -> None:
    problem, (_, prior) = orthonormal(), precise()
    a, x, t = problem.operator.matrix, Rng(4, range(5)).normal((1, 6), F64), 0.6
    d = prior.denoise(x, torch.tensor(t, dtype=F64)).flatten(1)
    expected = d + (problem.y - d @ a.T) @ a
    assert torch.allclose(at_level(MPGD(), problem, prior, x, t), expected, atol=1e-12)
    assert not torch.allclose(at_level(MPGD(rate=0.4), problem, prior, x, t), expected, atol=1e-3)
    if "ddnm" in METHODS:  # the last step of both ends at D_y
        mpgd, ddnm = (
            m.step(problem, Counted(prior), State(x), t, 0.0, Rng(0, range(5)))[0].x
            for m in (MPGD(), METHODS["ddnm"]())
        )
        assert torch.allclose(mpgd, ddnm, atol=1e-9)


def test_mpgd_goes_to_the_least_misfit_along_the_gradient() -> None:
    problem, prior = precise()
    x = Rng(4, range(5)).normal((1, 6), F64)
    misfits = [
        problem.chi2(at_level(MPGD(rate=rate), problem, prior, x, 0.6).unflatten(1, (1, 6)))
        for rate in (0.0, 0.45, 0.5, 0.55)
    ]
    assert all(bool((misfits[2] < other).all()) for other in (misfits[0], misfits[1], misfits[3]))


def test_mpgd_on_the_norm_steps_as_far_as_its_rate_says() -> None:
    problem, (_, prior) = orthonormal(), precise()
    x, t = Rng(4, range(5)).normal((1, 6), F64), 0.6
    d = prior.denoise(x, torch.tensor(t, dtype=F64)).flatten(1)
    found = at_level(MPGD(loss="norm", rate=0.3), problem, prior, x, t)
    length = (found - d).norm(dim=1)
    assert torch.allclose(length, torch.full_like(length, 0.3 * math.sqrt(1 + t * t)), rtol=1e-9)


def test_mpgd_is_the_dense_reference_where_the_rows_are_orthonormal() -> None:
    problem, (_, prior) = orthonormal(), precise()
    a = problem.operator.matrix
    sampler = MPGD(steps=60)
    expected = dense_law(problem, prior, sampler.grid(Counted(prior)), lambda j, t: a.T, eta=0.5, posterior_eps=False)
    # the size of the step is a ratio of norms, which is one up to rounding: no division by zero at the probe states
    found = stepwise_law(sampler, problem, prior, draws=1)
    assert torch.allclose(found[0], expected[0], atol=1e-8) and torch.allclose(found[1], expected[1], atol=1e-8)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("dds", {"gamma": 0.0}),
        ("dds", {"cg_iterations": 0}),
        ("dds", {"solver": "heun"}),
        ("diffpir", {"lam": 0.0}),
        ("diffpir", {"prior_var": -1.0}),
        ("mpgd", {"solver": "heun"}),
        ("lgd", {"draws": 0}),
    ],
)
def test_impossible_settings_are_refused(name: str, bad: dict) -> None:
    with pytest.raises(UsageError):
        METHODS[name](**bad)
