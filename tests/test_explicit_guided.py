"""PiGDM, TMPD, LGD and DSG against their definitions, and where each is and is not exact."""

import dataclasses as dc
import math

import pytest
import torch
from dense_law import dense_law
from stepwise import stepwise_law
from support import Plain, gaussian_problem

from sciinv.errors import MismatchError, UsageError
from sciinv.generic.codec import ChannelsToComplex
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.generic.mask import Mask
from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.gaussian import GaussianPrior
from sciinv.priors.mixture import grid_mixture
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import METHODS, State, sample
from sciinv.testing import mean_cov_error

F64 = torch.float64
PiGDM, TMPD, LGD, DPS, DSG = (METHODS[name] for name in ("pigdm", "tmpd", "lgd", "dps", "dsg"))
SPECTRUM = (2.0, 1.2, 0.8, 0.5, 0.2, 0.05)


def diagonal_prior(*variances: float) -> GaussianPrior:
    values = torch.tensor(variances if len(variances) > 1 else variances * 6, dtype=F64)
    prior = GaussianPrior(torch.zeros(1, 6), torch.diag(values), dtype=F64)
    prior.sigma_min, prior.sigma_max = 2e-3, 80.0
    return prior


def error(sampler, problem: Problem, prior: GaussianPrior) -> tuple[float, float]:
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    return mean_cov_error(*stepwise_law(sampler, problem, prior, draws=1), *truth)


def at_level(sampler, problem: Problem, prior, x: torch.Tensor, t: float, seed: int = 0) -> torch.Tensor:
    """``D_y`` of a batch."""
    inner = problem.pullback(prior.to_physical)
    return sampler.posterior_mean(inner, Counted(prior), x, t, Rng(seed, range(len(x))))[0]


# --- PiGDM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [0.25, 1.0, 4.0])
def test_pigdm_is_exact_for_a_white_prior_of_its_variance_and_for_no_other(c: float) -> None:
    problem, _ = gaussian_problem()
    mean, cov = error(PiGDM(steps=128, solver="heun", prior_var=c), problem, diagonal_prior(c))
    assert mean < 0.01 and cov < 0.005
    if c != 1:
        mean, cov = error(PiGDM(steps=128, solver="heun"), problem, diagonal_prior(c))
        assert mean > 0.1 and cov > 0.03


@pytest.mark.parametrize("plain", [False, True], ids=["svd", "cg"])
def test_pigdm_is_its_definition_for_any_prior(plain: bool) -> None:
    problem, prior = gaussian_problem()
    problem = dc.replace(problem, operator=Plain(problem.operator) if plain else problem.operator, cg_tol=1e-13)
    a, c, t, noise = problem.operator.as_matrix(), 0.7, 0.6, problem.noise.sigma**2
    x = Rng(4, range(5)).normal((1, 6), F64)
    j = prior.cov @ torch.linalg.inv(prior.cov + t * t * torch.eye(6))
    r2 = c * t * t / (c + t * t)
    gain = t * t * j @ a.T @ torch.linalg.inv(r2 * a @ a.T + noise * torch.eye(3))
    d = x.flatten(1) @ j.T
    expected = d + (problem.y - d @ a.T) @ gain.T
    assert torch.allclose(at_level(PiGDM(prior_var=c), problem, prior, x, t).flatten(1), expected, atol=1e-10)
    # it is no posterior denoiser of this prior
    assert min(error(PiGDM(steps=64, solver="heun"), problem, prior)) > 0.1


def test_pigdm_official_fits_data_without_noise_and_its_covariance_converges() -> None:
    problem, _ = gaussian_problem(1e-4)
    errors = []
    for steps in (20, 100, 500):
        sampler, prior = PiGDM(steps=steps, variant="official"), diagonal_prior(1.0)
        mean, cov = stepwise_law(sampler, problem, prior, draws=1)
        assert (problem.operator.matrix @ mean - problem.y).abs().max() < 1e-12
        truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
        errors.append(mean_cov_error(mean, cov, *truth)[1])
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.03, errors


def test_pigdm_refuses_nonlinear_operators_and_impossible_settings() -> None:
    operator = PhaseRetrieval((1, 4, 4), dtype=torch.float32)
    problem = Problem(torch.zeros(operator.codomain.shape), operator, Gaussian(1.0))
    with pytest.raises(MismatchError, match=r"linear.*dsg"):
        sample(PiGDM(), problem, diagonal_prior(1.0), 1, seed=0)
    for bad in ({"prior_var": 0.0}, {"variant": "official", "solver": "heun"}):
        with pytest.raises(UsageError):
            PiGDM(**bad)


# --- TMPD ------------------------------------------------------------------------------------------------------------


def test_tmpd_is_exact_where_its_data_are_independent_and_not_elsewhere() -> None:
    problem, correlated = gaussian_problem()
    mask = Mask(torch.tensor([[True, False, True, True, False, False]])).double()
    masked = Problem(mask(torch.tensor([[1.0, 9, -0.5, 0.3, 9, 9]], dtype=F64)), mask, Gaussian(0.3))
    sampler = TMPD(steps=64, solver="heun")
    mean, cov = error(sampler, masked, diagonal_prior(*SPECTRUM))
    assert mean < 0.02 and cov < 0.01
    assert error(sampler, masked, correlated)[0] > 0.03
    assert error(sampler, problem, correlated)[0] > 0.2


@pytest.mark.parametrize("kind", ["real", "complex"])
def test_tmpd_is_its_definition(kind: str) -> None:
    if kind == "real":
        problem, prior = gaussian_problem()
    else:
        codec, operator = ChannelsToComplex((2, 2)), FourierMask(torch.tensor([[True, False], [True, True]])).double()
        w = (operator @ codec).as_matrix().T @ torch.tensor([3.0, -1, 0, 0, 0, 0, 0, 0], dtype=F64)
        cov = 0.05 * torch.eye(8, dtype=F64) + torch.outer(w, w)
        prior = GaussianPrior(torch.zeros(2, 2, 2), cov, codec, dtype=F64)
        problem = Problem(Rng(1, [0]).normal((2, 2), torch.complex128)[0] * operator.mask, operator, Gaussian(0.3))
    d_size, t = prior.space.size, 0.6
    a = (problem.operator @ prior.to_physical).as_matrix()
    x = Rng(4, range(5)).normal(prior.space.shape, F64)
    j = prior.cov @ torch.linalg.inv(prior.cov + t * t * torch.eye(d_size))
    sums = (t * t * a @ j @ a.T).sum(1)
    assert sums.min() < 0  # so that the floor is exercised
    gain = t * t * j @ a.T / (sums.clamp_min(0) + problem.noise.sigma**2)
    d = x.flatten(1) @ j.T
    y = torch.view_as_real(problem.y).flatten() if problem.y.is_complex() else problem.y
    expected = d + (y - d @ a.T) @ gain.T
    assert torch.allclose(at_level(TMPD(), problem, prior, x, t).flatten(1), expected, atol=1e-10)


# --- LGD -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", ["official", "theory"])
def test_lgd_without_spread_is_dps(weight: str) -> None:
    problem, prior = gaussian_problem()
    fields = {"steps": 20, "eta": 0.0, "weight": weight}  # no noise in the steps: they would draw other numbers
    lgd, dps = LGD(**fields, prior_var=0.0, draws=3), DPS(**fields)
    state = State(Rng(0, range(4)).normal((1, 6), F64))
    found, expected = (s.step(problem, Counted(prior), state, 0.8, 0.5, Rng(1, range(4)))[0].x for s in (lgd, dps))
    assert torch.allclose(found, expected, atol=1e-12)
    spread = LGD(**fields, draws=3).step(problem, Counted(prior), state, 0.8, 0.5, Rng(1, range(4)))[0].x
    assert not torch.allclose(spread, expected, atol=1e-3)


def test_lgd_with_many_draws_is_pigdm() -> None:
    problem, prior = gaussian_problem(1.0)
    x = Rng(4, [0]).normal((1, 6), F64).expand(24, 1, 6)
    d = at_level(DPS(weight="theory", zeta=0.0), problem, prior, x, 0.6)
    expected = at_level(PiGDM(prior_var=0.5), problem, prior, x, 0.6)[0]
    gaps = {}
    for draws in (1, 400):
        found = at_level(LGD(weight="theory", prior_var=0.5, draws=draws), problem, prior, x, 0.6).mean(0)
        gaps[draws] = float((found - expected).norm() / (expected - d[0]).norm())
    assert gaps[400] < 0.05 and gaps[400] < 0.5 * gaps[1], gaps


def test_lgd_with_one_draw_keeps_the_mean_of_dps_and_adds_noise() -> None:
    problem, prior = gaussian_problem()
    prior.sigma_max = 80.0
    fields = {"steps": 100, "weight": "theory"}
    dps = stepwise_law(DPS(**fields), problem, prior, draws=1)
    lgd = stepwise_law(LGD(**fields, draws=1), problem, prior, draws=2)
    assert torch.allclose(lgd[0], dps[0], atol=1e-8)
    assert torch.linalg.eigvalsh(lgd[1] - dps[1]).min() > -1e-10
    assert torch.trace(lgd[1]) > 1.01 * torch.trace(dps[1])


# --- DSG -------------------------------------------------------------------------------------------------------------


def test_dsg_steps_have_the_length_of_typical_noise() -> None:
    problem, prior = gaussian_problem()
    counted, x = Counted(prior), Rng(0, range(4)).normal((1, 6), F64)
    for t, s in ((80.0, 60.0), (0.5, 0.4), (4e-3, 2e-3)):
        mean = torch.lerp(prior.denoise(x, torch.tensor(t, dtype=F64)), x, (s / t) ** 2)
        tau = s * math.sqrt(1 - (s / t) ** 2)
        for g in (0.0, 0.2, 1.0):
            x_s = DSG(guidance=g).step(problem, counted, State(x), t, s, Rng(1, range(4)))[0].x
            length = (x_s - mean).flatten(1).norm(dim=1)
            assert torch.allclose(length, torch.full_like(length, math.sqrt(6) * tau), rtol=1e-6)
    last = DSG().step(problem, counted, State(x), 2e-3, 0.0, Rng(1, range(4)))[0].x
    assert torch.equal(last, prior.denoise(x, torch.tensor(2e-3, dtype=F64)))


def test_dsg_at_full_guidance_is_deterministic_and_points_down_the_misfit() -> None:
    problem, prior = gaussian_problem()
    x = Rng(0, range(4)).normal((1, 6), F64)
    step = lambda sampler, p, seed: sampler.step(p, Counted(prior), State(x), 0.5, 0.4, Rng(seed, range(4)))[0].x  # noqa: E731
    full = DSG(guidance=1.0)
    assert torch.equal(step(full, problem, 1), step(full, problem, 2))
    assert not torch.equal(step(DSG(), problem, 1), step(DSG(), problem, 2))
    misfit = lambda z: problem.chi2(prior.denoise(z, torch.tensor(0.5)))  # noqa: E731
    mean = torch.lerp(prior.denoise(x, torch.tensor(0.5)), x, 0.64)
    small = mean + 1e-3 * (step(full, problem, 1) - mean)
    assert bool((misfit(small) < misfit(mean)).all())
    # only the direction of the gradient counts
    louder = Problem(3 * problem.y, Dense(3 * problem.operator.matrix, (1, 6)), problem.noise)
    assert torch.allclose(step(DSG(), louder, 1), step(DSG(), problem, 1), atol=1e-9)


def test_dsg_fits_data_that_noise_of_fixed_length_alone_does_not() -> None:
    prior = grid_mixture(64)
    operator = Dense(torch.eye(8, 64), prior.space.shape)
    problem = Problem(operator(prior.draw(Rng(0, [0])))[0], operator, Gaussian(0.3))
    free, guided = (problem.chi2(sample(DSG(guidance=g), problem, prior, 16, seed=0).x).median() for g in (0.0, 0.2))
    assert guided < 0.05 * free
    with pytest.raises(UsageError, match="guidance"):
        DSG(guidance=1.5)


def test_the_dense_reference_can_tell_eps_sources_apart() -> None:
    problem, prior = gaussian_problem()
    prior.sigma_max = 80.0
    sampler, a, noise = PiGDM(steps=60, eta=0.5), problem.operator.matrix, problem.noise.sigma**2

    def gain(j: torch.Tensor, t: float) -> torch.Tensor:
        r2 = t * t / (1 + t * t)
        return t * t * j @ a.T @ torch.linalg.inv(r2 * a @ a.T + noise * torch.eye(3, dtype=F64))

    found, levels = stepwise_law(sampler, problem, prior, draws=1), sampler.grid(Counted(prior))
    right, wrong = (dense_law(problem, prior, levels, gain, eta=0.5, posterior_eps=p) for p in (True, False))
    assert torch.allclose(found[1], right[1], atol=1e-9) and not torch.allclose(found[1], wrong[1], atol=1e-3)
