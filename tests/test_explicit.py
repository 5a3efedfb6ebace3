"""MMPS and DPS against what their mathematics implies for a Gaussian prior (exact affine laws, no Monte Carlo)."""

import math

import pytest
import torch
from dense_law import dense_law
from scipy.special import dawsn
from stepwise import stepwise_law
from support import gaussian_problem
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.operator import Space
from sciinv.prior import Counted, Prior
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import DPS, MMPS, sample
from sciinv.testing import affine_law, mean_cov_error

EXACT = {"cg_iterations": 6, "cg_tol": 1e-12}


def base_problem(sigma_max: float = 80.0) -> tuple[Problem, GaussianPrior]:
    problem, prior = gaussian_problem()
    prior.sigma_max = sigma_max
    return problem, prior


def error(sampler, problem: Problem, prior: GaussianPrior, draws: int = 1) -> tuple[float, float]:
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    return mean_cov_error(*stepwise_law(sampler, problem, prior, draws=draws), *truth)


# --- moment matching -------------------------------------------------------------------------------------------------


class Turning(Prior):
    """A denoiser whose Jacobian is far from symmetric, ``D = x B^T``; nothing of the kind is a posterior mean."""

    def __init__(self, symmetric: float):
        super().__init__()
        self.space, self.sigma_min, self.sigma_max = Space((1, 2), torch.float64), 0.01, 10.0
        self.b = torch.tensor([[symmetric, 1.0], [-1.0, symmetric]], dtype=torch.float64)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x @ self.b.T


@pytest.mark.parametrize("symmetric", [0.01, 0.2, 20.0])
def test_mmps_cuts_an_update_that_would_raise_the_misfit(symmetric: float) -> None:
    a = Dense(torch.tensor([[1.0, 0.3], [0.0, 1.0]], dtype=torch.float64), (1, 2))
    y = torch.tensor([1.0, -0.5], dtype=torch.float64)
    problem, prior, t = Problem(y, a, Gaussian(0.1)), Counted(Turning(symmetric)), 0.5
    x = Rng(0, range(50)).normal((1, 2), torch.float64)
    d_y, d, info = MMPS(cg_iterations=1).posterior_mean(problem, prior, x, t, Rng(0, range(50)))
    before, after = ((y - a(v)).norm(dim=1) for v in (d, d_y))
    assert (after <= before * (1 + 1e-9)).all()
    cut = info["kept"] < 1
    assert cut.any() == (symmetric < 10)  # a symmetric part that rules needs no cut
    # where it was cut the misfit is least along the update: no other length does better
    step = (d_y - d)[cut] / info["kept"][cut].clamp_min(1e-12)[:, None, None]
    assert all(((y - a(d[cut] + f * step)).norm(dim=1) >= after[cut] - 1e-9).all() for f in (0.0, 0.1, 0.3, 1.0))


def test_mmps_is_exact_on_gaussians_and_its_error_falls_as_one_over_steps() -> None:
    means, errors = zip(*(error(MMPS(steps=n, **EXACT), *base_problem()) for n in (32, 128, 512)), strict=True)
    assert errors[2] < 0.03 and max(means) < 0.01
    slope = math.log(errors[2] / errors[1]) / math.log(512 / 128)
    assert -1.25 < slope < -0.75, errors


def test_the_law_of_one_step_at_a_time_is_the_law_of_the_loop() -> None:
    problem, prior = base_problem()
    whole, steps = (law(MMPS(steps=12, **EXACT), problem, prior) for law in (affine_law, stepwise_law))
    assert torch.allclose(whole[0], steps[0], atol=1e-8) and torch.allclose(whole[1], steps[1], atol=1e-8)


def test_mmps_along_the_flow_is_of_first_order_and_by_heun_of_second() -> None:
    euler = [error(MMPS(steps=n, eta=0.0, **EXACT), *base_problem())[1] for n in (64, 128)]
    heun = [error(MMPS(steps=n, solver="heun", **EXACT), *base_problem())[1] for n in (64, 128)]
    assert -1.2 < math.log2(euler[1] / euler[0]) < -0.8, euler
    assert -2.4 < math.log2(heun[1] / heun[0]) < -1.8, heun
    assert heun[0] < 0.01
    # what is left in the mean is the start: N(0, sigma_max^2) is not the law of x_t, and a flow forgets nothing
    first, second = (error(MMPS(steps=128, solver="heun", **EXACT), *base_problem(top))[0] for top in (80.0, 320.0))
    assert first < 0.02 and 3.5 < first / second < 4.5


def test_heun_takes_two_network_calls_a_step_and_one_for_the_last() -> None:
    problem, prior = base_problem()
    out = sample(MMPS(steps=5, solver="heun"), problem, prior, 2, seed=0)
    assert out.provenance["network_calls"] == 9


def test_mmps_with_the_prior_eps_fails() -> None:
    class Wrong(MMPS):
        eps_source = "prior"

    assert error(Wrong(steps=128, **EXACT), *base_problem())[1] > 0.2
    with pytest.raises(UsageError, match="differential equation"):
        Wrong(solver="heun")


@pytest.mark.slow
def test_mmps_by_monte_carlo() -> None:
    problem, prior = base_problem()
    x = sample(MMPS(steps=256, **EXACT), problem, prior, 4000, seed=2).x.flatten(1)
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    mean, cov = mean_cov_error(x.mean(0), x.T.cov(), *truth)
    assert mean < 0.06 and cov < 0.075, (mean, cov)  # 0.042 of the ladder and 0.03 of the draws


# --- diffusion posterior sampling ------------------------------------------------------------------------------------


def scalar(q: float, c: float = 1.0, sigma: float = 0.5) -> tuple[Problem, GaussianPrior]:
    a, eye = math.sqrt(q * sigma**2 / c), torch.eye(1, dtype=torch.float64)
    prior = GaussianPrior(torch.zeros(1, dtype=torch.float64), c * eye, dtype=torch.float64)
    prior.sigma_min, prior.sigma_max = 2e-3, 80.0
    return Problem(torch.ones(1, dtype=torch.float64), Dense(a * eye), Gaussian(sigma)), prior


@pytest.mark.parametrize("q", [0.25, 1.0, 3.0, 9.0])
def test_dps_theory_weight_has_its_closed_form_bias(q: float) -> None:
    problem, prior = scalar(q)
    a = float(problem.operator.matrix)
    mean, cov = stepwise_law(DPS(steps=2000, weight="theory"), problem, prior, draws=1)
    assert float(mean) == pytest.approx(a / 0.25 * (1 - math.exp(-q)) / q, rel=0.01)
    assert float(cov) == pytest.approx((1 - math.exp(-2 * q)) / (2 * q), rel=0.01)
    # the flow has another bias (and forgets nothing: it must start high)
    prior.sigma_max = 800.0
    mean, cov = stepwise_law(DPS(steps=400, weight="theory", solver="heun"), problem, prior, draws=1)
    b = math.sqrt(q / 2)
    assert float(mean) == pytest.approx(a / 0.25 * dawsn(b) / b, rel=0.01)
    assert float(cov) == pytest.approx(math.exp(-q), rel=0.015)
    assert abs(float(cov) - 1 / (1 + q)) > 0.02  # neither is the truth


def test_dps_theory_weight_is_the_dense_reference_on_the_base_problem() -> None:
    problem, prior = base_problem()
    a, noise = problem.operator.matrix, problem.noise.sigma**2
    sampler = DPS(steps=150, weight="theory")
    expected = dense_law(problem, prior, sampler.grid(Counted(prior)), lambda j, t: t * t / noise * j @ a.T)
    found = stepwise_law(sampler, problem, prior, draws=1)
    assert torch.allclose(found[0], expected[0], atol=1e-8) and torch.allclose(found[1], expected[1], atol=1e-8)
    assert error(sampler, problem, prior)[0] > 0.2  # biased: 0.6 posterior standard deviations


def test_dps_official_without_guidance_is_the_prior() -> None:
    problem, prior = base_problem()
    sampler = DPS(steps=60, zeta=0.0)
    expected = dense_law(problem, prior, sampler.grid(Counted(prior)), lambda j, t: torch.zeros(6, 3).double())
    found = stepwise_law(sampler, problem, prior, draws=1)
    assert torch.allclose(found[1], expected[1], atol=1e-10)
    with pytest.raises(UsageError, match="step of its own"):
        DPS(solver="heun")


def test_dps_official_ends_at_a_misfit_set_by_its_step_and_not_by_the_noise() -> None:
    problem, prior = base_problem()
    exact = prior.posterior(problem.operator, problem.y, problem.noise.sigma).draw(Rng(0, range(200)))
    typical = problem.residual(exact.view(-1, 1, 6)).norm(dim=-1).mean()
    found = [
        float(problem.residual(sample(DPS(steps=300, zeta=zeta), problem, prior, 32, seed=1).x).norm(dim=-1).mean())
        for zeta in (0.03, 0.1, 0.3)
    ]
    # over-fits with a small step, jitters in proportion to a large one
    assert found[0] < 0.6 * typical < typical < found[2], (found, typical)
    assert 2 < found[2] / found[1] < 4
    quieter = Problem(problem.y, problem.operator, Gaussian(0.01))
    x, z = (sample(DPS(steps=30), p, prior, 2, seed=1).x for p in (problem, quieter))
    assert torch.equal(x, z)


def test_dps_official_has_one_norm_a_sample_and_is_invariant_to_rotations_of_the_data() -> None:
    problem, prior = base_problem()
    together = sample(DPS(steps=60), problem, prior, 4, seed=5).x
    alone = torch.cat([sample(DPS(steps=60), problem, prior, [k], seed=5).x for k in range(4)])
    assert torch.allclose(together, alone, atol=1e-9)
    q, _ = torch.linalg.qr(Rng(1, [0]).normal((3, 3), torch.float64)[0])
    turned = Problem(q @ problem.y, Dense(q @ problem.operator.matrix, (1, 6)), problem.noise)
    assert torch.allclose(sample(DPS(steps=60), turned, prior, 4, seed=5).x, together, atol=1e-7)
