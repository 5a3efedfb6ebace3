"""SNIPS, DDRM, DDNM, DDNM+ and Score-ALD against dense algebra written apart from them, for Gaussian priors."""

from __future__ import annotations

import dataclasses as dc
import math
from itertools import pairwise

import pytest
import torch
from stepwise import stepwise_law
from support import Plain, gaussian_problem
from torch import Tensor

from sciinv.errors import UsageError
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.gaussian import GaussianPrior
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import State, sample
from sciinv.samplers.explicit.ddnm import DDNM
from sciinv.samplers.explicit.ddnm_plus import DDNMPlus
from sciinv.samplers.explicit.ddrm import DDRM
from sciinv.samplers.explicit.score_ald import ScoreALD, largest_eigenvalue
from sciinv.samplers.explicit.snips import SNIPS
from sciinv.testing import affine_law, mean_cov_error

F64 = torch.float64
SLOW = pytest.mark.slow


def dense(sigma: float = 0.3, low: float = 0.005, high: float = 20.0) -> tuple[Problem, GaussianPrior]:
    problem, prior = gaussian_problem(sigma)
    prior.sigma_min, prior.sigma_max = low, high
    return problem, prior


def pair(r: float, high: float = 20.0) -> tuple[Problem, GaussianPrior, Tensor, Tensor]:
    """Two unit variances of correlation r, the first seen as 1 without noise to speak of; and the posterior."""
    prior = GaussianPrior(torch.zeros(1, 2, dtype=F64), torch.tensor([[1, r], [r, 1]], dtype=F64), dtype=F64)
    prior.sigma_min, prior.sigma_max = 0.01, high
    first = Dense(torch.tensor([[1.0, 0.0]], dtype=F64), (1, 2))
    problem = Problem(torch.ones(1, dtype=F64), first, Gaussian(1e-12))
    return problem, prior, torch.tensor([1, r], dtype=F64), torch.diag(torch.tensor([0, 1 - r * r], dtype=F64))


def errors(sampler, problem, prior) -> tuple[float, float]:
    truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]
    return mean_cov_error(*stepwise_law(sampler, problem, prior, draws=2), *truth)


# --- DDRM and DDNM+ --------------------------------------------------------------------------------------------------


def ddrm_by_hand(sampler: DDRM, problem: Problem, prior: GaussianPrior) -> tuple[Tensor, Tensor]:
    """Mean and covariance by explicit matrices in the basis of a full decomposition."""
    a, c, sigma = problem.linear.as_matrix(), prior.cov, problem.noise.sigma
    u, s, vh = torch.linalg.svd(a)
    m, d = a.shape
    o = torch.zeros(d, dtype=F64)
    o[:m] = u.T @ problem.y / s
    tau = [sigma / float(v) for v in s] + [math.inf] * (d - m)
    cov_bar = vh @ c @ vh.T
    levels = sampler.grid(Counted(prior))
    mean = torch.tensor([float(o[i]) if tau[i] <= levels[0] else 0.0 for i in range(d)], dtype=F64)
    cov = torch.diag(
        torch.tensor([levels[0] ** 2 - (tau[i] ** 2 if tau[i] <= levels[0] else 0) for i in range(d)], dtype=F64)
    )
    keep = math.sqrt(1 - sampler.eta**2)
    for t, level in pairwise(levels):
        wiener = cov_bar @ torch.linalg.inv(cov_bar + t * t * torch.eye(d, dtype=F64))
        f, b, v = torch.zeros(d, d, dtype=F64), torch.zeros(d, dtype=F64), torch.zeros(d, dtype=F64)
        for i in range(d):
            unit = torch.eye(d, dtype=F64)[i]
            if math.isinf(tau[i]):
                f[i] = wiener[i] + keep * level / t * (unit - wiener[i])
                v[i] = (sampler.eta * level) ** 2
            elif tau[i] > level:
                w = keep * level / tau[i]
                f[i], b[i], v[i] = (1 - w) * wiener[i], w * o[i], (sampler.eta * level) ** 2
            else:
                f[i], b[i] = (1 - sampler.eta_b) * wiener[i], sampler.eta_b * o[i]
                v[i] = level**2 - (sampler.eta_b * tau[i]) ** 2
        mean, cov = f @ mean + b, f @ cov @ f.T + torch.diag(v)
    return vh.T @ mean, vh.T @ cov @ vh


@pytest.mark.parametrize("settings", [{}, {"eta": 0.3, "steps": 50}, {"eta_b": 0.7}, {"eta": 1.0, "eta_b": 0.9}])
def test_ddrm_is_its_published_recursion(settings: dict) -> None:
    problem, prior = dense()
    want = ddrm_by_hand(DDRM(**settings), problem, prior)
    assert max(mean_cov_error(*affine_law(DDRM(**settings), problem, prior), *want)) < 1e-9
    other = ddrm_by_hand(dc.replace(DDRM(**settings), eta=0.5), problem, prior)
    assert mean_cov_error(*other, *want)[1] > 0.02, "the reference must tell settings apart"


def fourier(sigma: float) -> tuple[Problem, RandomFieldPrior, Tensor]:
    """A complex 2 x 3 field of known spectrum behind half of its k-space."""
    prior = RandomFieldPrior((2, 3), 2, corner=0.2, scale=0.7, dtype=F64)
    prior.sigma_min, prior.sigma_max = 0.01, 20.0
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]])
    operator = FourierMask(mask).double()
    y = operator(prior.to_physical(prior.draw(Rng(1, [1]))))[0]
    return Problem(y, operator, Gaussian(sigma), {"n_data": operator.n_data}), prior, mask


def test_ddrm_on_complex_data_is_one_recursion_a_frequency() -> None:
    """A stationary field and masked k-space: every frequency is a scalar problem, twice (real and imaginary part)."""
    problem, prior, mask = fourier(0.1)
    sampler = DDRM(steps=12)
    mean, cov = stepwise_law(sampler, problem, prior)
    spectrum = torch.fft.fftn(torch.eye(6, dtype=torch.complex128).view(6, 2, 3), dim=(-2, -1), norm="ortho").view(6, 6)
    transform = torch.cat([torch.cat([spectrum.real, spectrum.imag], 1), torch.cat([-spectrum.imag, spectrum.real], 1)])
    got_mean, got_cov = transform.mT @ mean, transform.mT @ cov @ transform
    o = transform.mT @ problem.pullback(prior.to_physical).aty.flatten() / 0.49
    keep, tau, seen = math.sqrt(1 - sampler.eta**2), 0.1 / 0.7, torch.fft.ifftshift(mask).flatten()
    for k in range(6):
        c, target = float(prior.power.flatten()[k]), o[[k, k + 6]]
        for part in (0, 1):
            top = sampler.grid(Counted(prior))[0]
            m, v = (float(target[part]), top**2 - tau**2) if seen[k] else (0.0, top**2)
            for t, s in pairwise(sampler.grid(Counted(prior))):
                w = c / (c + t * t)
                if not seen[k]:
                    m, v = (w + keep * s / t * (1 - w)) * m, (w + keep * s / t * (1 - w)) ** 2 * v + (0.85 * s) ** 2
                elif tau > s:
                    pull = keep * s / tau
                    m, v = (1 - pull) * w * m + pull * float(target[part]), ((1 - pull) * w) ** 2 * v + (0.85 * s) ** 2
                else:
                    m, v = float(target[part]), s * s - tau**2
            i = k + 6 * part
            assert float(got_mean[i]) == pytest.approx(m, abs=1e-9)
            assert float(got_cov[i, i]) == pytest.approx(v, abs=1e-9)
    assert float((got_cov - got_cov.diagonal().diag()).abs().max()) < 1e-9


@pytest.mark.parametrize("steps", [20, 100, pytest.param(1000, marks=SLOW)])
def test_ddrm_collapses_onto_the_data_as_steps_grow(steps: int) -> None:
    """Measured on this problem: distance from the data .238, .094, .020; their spread .049, .017, .005."""
    problem, prior = dense()
    mean, cov = stepwise_law(DDRM(steps=steps), problem, prior, draws=2)
    a = problem.linear.as_matrix()
    found = float((a @ mean - problem.y).norm()), float((a @ cov @ a.T).norm())
    assert found == pytest.approx({20: (0.238, 0.0488), 100: (0.0944, 0.0167), 1000: (0.0198, 0.0050)}[steps], rel=0.02)


@pytest.mark.parametrize("kind", ["dense", "fourier"])
@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_ddnm_plus_is_ddrm(kind: str, eta: float) -> None:
    """Step by step, over all levels: coordinates above, below and without their datum."""
    problem, prior = dense() if kind == "dense" else fourier(0.1)[:2]
    counted, inner = Counted(prior), problem.pullback(prior.to_physical)
    x = 3 * prior.draw(Rng(0, range(4)))
    with torch.no_grad():
        for t, s in pairwise(DDRM().grid(counted)):
            a, b, other = (
                m.step(inner, counted, State(x), t, s, Rng(7, range(4)))[0].x
                for m in (DDRM(eta=eta), DDNMPlus(eta=eta), DDRM(eta=eta, eta_b=0.9))
            )
            assert torch.allclose(a, b, atol=1e-10)
            assert not torch.allclose(a, other, atol=1e-4) or s < 0.5


# --- DDNM ------------------------------------------------------------------------------------------------------------


def temperature(eta: float) -> float:
    return (1 + math.sqrt(1 - eta**2)) / 2


@pytest.mark.parametrize("eta", [pytest.param(0.3, marks=SLOW), 0.85, pytest.param(1.0, marks=SLOW)])
def test_ddnm_without_noise_tends_to_the_mean_and_a_share_of_the_covariance(eta: float) -> None:
    problem, prior, mean, cov = pair(0.8)
    few, many = (
        mean_cov_error(*stepwise_law(DDNM(steps=n, eta=eta), problem, prior, draws=1), mean, temperature(eta) * cov)
        for n in (350, 1400)
    )
    assert many[1] < 0.005 and many[0] < 0.012  # posterior std of the cooled law
    assert 3 < few[0] / many[0] < 5, "the mean must be exact in the limit: its error falls as one over steps"


def test_ddnm_without_fresh_noise_remembers_only_its_start() -> None:
    """It holds ``A D = y`` at every level, unlike replacement (.5 here): what is left falls with the widest level."""
    found = []
    for high in (20.0, 80.0):
        problem, prior, mean, cov = pair(0.8, high)
        got = stepwise_law(DDNM(steps=300, eta=0.0), problem, prior, draws=1)
        assert float(got[1][1, 1]) == pytest.approx(float(cov[1, 1]), rel=0.01)
        found.append(float((got[0] - mean).norm()))
    assert found[1] < 0.006 and found[1] < 0.3 * found[0]


@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
def test_renoising_alone_cools_the_prior(eta: float) -> None:
    prior = GaussianPrior(torch.zeros(1, 1, dtype=F64), torch.eye(1, dtype=F64), dtype=F64)
    prior.sigma_min, prior.sigma_max = 0.01, 20.0
    problem = Problem(torch.zeros(1, dtype=F64), Dense(torch.zeros(1, 1, dtype=F64), (1, 1)), Gaussian(1.0))
    variance = float(stepwise_law(DDNM(steps=1500, eta=eta), problem, prior, draws=1)[1])
    assert variance == pytest.approx(temperature(eta), rel=0.01)


def test_time_travel_takes_bias_away_and_the_published_one_is_another() -> None:
    problem, prior, mean, _ = pair(0.8)
    often = stepwise_law(DDNM(steps=20, travel_repeats=4), problem, prior)[0]
    once = stepwise_law(DDNM(steps=20), problem, prior)[0]
    assert float((often - mean).norm()) < 0.7 * float((once - mean).norm())
    forward, denoised = (
        sample(DDNM(steps=6, travel_repeats=2, travel=travel), problem, prior, 3, seed=0).x
        for travel in ("forward", "denoised")
    )
    assert not torch.allclose(forward, denoised, atol=1e-3)


# --- SNIPS -----------------------------------------------------------------------------------------------------------


def test_snips_rests_in_the_law_of_its_level() -> None:
    """One coordinate above its datum's noise, one below, one unseen; the chain's own error included."""
    sigma, c, gains, t, step = 0.5, (1.5, 0.4, 0.9), (4.0, 0.3, 0.0), 0.6, 0.2
    prior = GaussianPrior(torch.zeros(1, 3, dtype=F64), torch.diag(torch.tensor(c, dtype=F64)), dtype=F64)
    problem = Problem(
        torch.tensor([2.0, 1.0, 0.0], dtype=F64),
        Dense(torch.diag(torch.tensor(gains, dtype=F64)), (1, 3)),
        Gaussian(sigma),
    )
    mean, cov = stepwise_law(SNIPS(step_size=step), problem, prior, levels=[t] * 400, draws=1)
    above = (t**2 - (sigma / 4) ** 2) / (1 - step / 2)
    r = (t * 0.3 / sigma) ** 2
    pull = r + (1 - r) * t * t / (0.4 + t * t)
    law = (0.4 + t * t) * (sigma**2 - 0.09 * t * t) / (0.09 * 0.4 + sigma**2)
    assert t * t * (1 - r) / pull == pytest.approx(law)
    below, free_pull = law / (1 - step * pull / 2), t * t / (0.9 + t * t)
    free = (0.9 + t * t) / (1 - step * free_pull / 2)
    assert cov.diagonal().tolist() == pytest.approx([above, below, free], rel=1e-6)
    assert mean.tolist() == pytest.approx([0.5, r * (1 / 0.3) / pull, 0.0], abs=1e-6)
    assert r * (1 / 0.3) / pull == pytest.approx((0.4 + t * t) * 0.3 / (0.09 * 0.4 + sigma**2))  # E[x_t | y]


def test_snips_where_its_level_meets_the_noise_of_a_datum() -> None:
    problem, prior = dense()
    tau = float((problem.noise.sigma * problem.svd.inverse_s()).max())
    x = prior.draw(Rng(0, range(2)))
    near, on = (
        SNIPS().step(problem, Counted(prior), State(x), t, 0.0, Rng(1, range(2)))[0].x for t in (tau * (1 + 1e-9), tau)
    )
    assert torch.allclose(near, on, atol=1e-3) and bool(torch.isfinite(on).all())


def test_snips_tends_to_the_posterior() -> None:
    found = [errors(SNIPS(steps=n), *dense(0.3, 0.005)) for n in (50, 200)]
    assert found[1][0] < 0.1 and found[1][1] < 0.1, found
    assert found[1][1] < 0.4 * found[0][1]


@SLOW
def test_snips_with_many_levels() -> None:
    assert max(errors(SNIPS(steps=800), *dense(0.3, 0.005))) < 0.02


@pytest.mark.parametrize("sampler", [SNIPS(steps=150), ScoreALD(steps=150)], ids=lambda s: s.name)
def test_annealed_chains_on_complex_data(sampler) -> None:
    problem, prior, _ = fourier(0.1)
    truth = prior.posterior(problem.operator, problem.y, 0.1)[:2]
    got = mean_cov_error(*stepwise_law(sampler, problem, prior, draws=1), *truth)
    assert max(got) < 0.25, got
    wrong = prior.posterior(problem.operator, problem.y, 0.1 * math.sqrt(2))[:2]
    assert mean_cov_error(*stepwise_law(sampler, problem, prior, draws=1), *wrong)[1] > got[1]


# --- Score-ALD -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.5, pytest.param(0.2, marks=SLOW)])
def test_score_ald_rests_in_the_law_of_its_level(t: float) -> None:
    problem, prior = dense()
    sampler = ScoreALD(step_size=0.8, gamma=0.7)
    a, eye, variance = problem.linear.as_matrix(), torch.eye(6, dtype=F64), 0.09 + (0.7 * t) ** 2
    precision = torch.linalg.inv(prior.cov + t * t * eye) + a.T @ a / variance
    rate = 0.8 / (1 / t**2 + float(torch.linalg.matrix_norm(a, 2)) ** 2 / variance)
    want = (
        torch.linalg.solve(precision, a.T @ problem.y / variance),
        torch.linalg.inv(precision - rate / 2 * precision @ precision),
    )
    steps = round(9 / (rate * float(torch.linalg.eigvalsh(precision)[0])))
    got = stepwise_law(sampler, problem, prior, levels=[t] * (steps + 1), draws=1)
    assert max(mean_cov_error(*got, *want)) < 1e-3
    truth = prior.posterior(problem.operator, problem.y, 0.3)[:2]
    assert max(mean_cov_error(*got, *truth)) > 0.05, "a fixed level must not be mistaken for the posterior"


def test_score_ald_is_exact_for_a_flat_prior() -> None:
    """Rows orthonormal and gamma = 1: what is seen has variance sigma^2 + t^2 at every level (and the chain's own)."""
    eye = torch.eye(2, dtype=F64)
    prior = GaussianPrior(torch.zeros(1, 2, dtype=F64), 1e9 * eye, dtype=F64)
    problem = Problem(torch.tensor([1.0, -2.0], dtype=F64), Dense(eye, (1, 2)), Gaussian(0.4))
    mean, cov = stepwise_law(ScoreALD(step_size=0.05), problem, prior, levels=[0.3] * 1000, draws=1)
    assert mean.tolist() == pytest.approx([1.0, -2.0], abs=1e-4)
    assert cov.diagonal().tolist() == pytest.approx([0.25, 0.25], rel=0.01)


@SLOW
def test_score_ald_annealed_reaches_the_posterior() -> None:
    found = errors(ScoreALD(steps=400, inner=20), *dense())
    assert max(found) < 0.02, found


def test_score_ald_norm_matched_scales_the_data_term() -> None:
    problem, prior = dense()
    x, t, sampler = 2 * prior.draw(Rng(0, range(3))), 0.4, ScoreALD(weight="norm-matched", mse=2.5)
    state = State(x, aux={"curvature": torch.ones(3, dtype=F64)})

    class Quiet(Rng):
        def normal(self, shape, dtype=torch.float32):
            return torch.zeros(len(self), *shape, dtype=dtype)

    got = sampler.step(problem, Counted(prior), state, t, 0.0, Quiet(0, range(3)))[0].x
    score = (prior.denoise(x, torch.tensor(t, dtype=F64)) - x) / t**2
    data = ((got - x) / (0.5 * t * t) - score).flatten(1)
    back = problem.linear.adjoint(problem.residual(x)).flatten(1)
    assert torch.allclose(data.norm(dim=1), 2.5 * score.flatten(1).norm(dim=1), rtol=1e-9)
    assert torch.allclose(torch.cosine_similarity(data, back), torch.ones(3, dtype=F64))


def test_largest_eigenvalue_without_a_decomposition() -> None:
    problem, _ = dense()
    like = torch.zeros(2, 1, 6, dtype=F64)
    want = float(torch.linalg.matrix_norm(problem.linear.as_matrix(), 2)) ** 2
    for p in (problem, dc.replace(problem, operator=Plain(problem.linear))):
        assert largest_eigenvalue(p, like).tolist() == pytest.approx([want] * 2, rel=0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SNIPS(step_size=1.5), lambda: DDRM(eta=1.2), lambda: DDRM(eta_b=-0.1), lambda: ScoreALD(step_size=2.0),
        lambda: DDNMPlus(travel_repeats=0),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(make) -> None:
    with pytest.raises(UsageError):
        make()
