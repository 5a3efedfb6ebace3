"""Replacement and its relatives against what their mathematics implies for Gaussian priors, by exact laws."""

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
from sciinv.samplers import Sampler, sample
from sciinv.samplers.explicit.ccdf import CCDF, initial
from sciinv.samplers.explicit.ddnm import DDNM
from sciinv.samplers.explicit.ddnm_plus import DDNMPlus
from sciinv.samplers.explicit.ddrm import DDRM
from sciinv.samplers.explicit.ilvr import ILVR
from sciinv.samplers.explicit.implicit_denoiser import ImplicitDenoiser
from sciinv.samplers.explicit.mcg import MCG
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.samplers.explicit.projection import jump_ladder, replace
from sciinv.samplers.explicit.repaint import RePaint
from sciinv.samplers.explicit.repaint_pp import RePaintPP
from sciinv.samplers.explicit.score_sde import ScoreSDE
from sciinv.testing import affine_law, mean_cov_error

F64 = torch.float64
SLOW = pytest.mark.slow
PLAIN = ScoreSDE(steps=12, corrector=0)


def pair(r: float, low: float = 0.002, high: float = 80.0) -> tuple[Problem, GaussianPrior]:
    """Two unit variances of correlation r; the first is seen as 1, without noise to speak of."""
    prior = GaussianPrior(torch.zeros(1, 2, dtype=F64), torch.tensor([[1, r], [r, 1]], dtype=F64), dtype=F64)
    prior.sigma_min, prior.sigma_max = low, high
    return Problem(
        torch.ones(1, dtype=F64), Dense(torch.tensor([[1.0, 0.0]], dtype=F64), (1, 2)), Gaussian(1e-12)
    ), prior


def unseen(
    sampler: Sampler, r: float = 0.8, low: float = 0.002, high: float = 80.0, draws: int = 8
) -> tuple[float, float]:
    """Mean and variance of the coordinate that the data of `pair` do not see."""
    mean, cov = stepwise_law(sampler, *pair(r, low, high), draws=draws)
    assert float((mean[0] - 1).abs()) < 1e-12 and float(cov[0].abs().max()) < 1e-12
    return float(mean[1]), float(cov[1, 1])


def fourier(real: bool, seed: int = 2) -> tuple[Problem, RandomFieldPrior]:
    """A 3 x 4 random field behind half of its k-space, in double precision; the data are in the range of A."""
    prior = RandomFieldPrior((3, 4), 1 if real else 2, corner=0.2, scale=1.0 if real else 0.7, dtype=F64)
    prior.sigma_min, prior.sigma_max = 0.01, 20.0
    mask = Rng(seed, [0]).uniform((3, 4))[0] < 0.5
    operator = FourierMask(mask, (1, 3, 4), ndim=2, real=True) if real else FourierMask(mask)
    y = operator(prior.to_physical(prior.draw(Rng(seed, [1]))))[0]
    return Problem(y, operator.double(), Gaussian(1e-12), {"n_data": operator.n_data}), prior


def gap(problem: Problem, x: Tensor) -> float:
    return float(problem.residual(x).abs().max())


# --- replacement -----------------------------------------------------------------------------------------------------


def test_replacement_puts_the_noised_data_in_and_leaves_the_rest() -> None:
    problem, prior = gaussian_problem()
    a, x = problem.linear.as_matrix(), prior.draw(Rng(0, range(3)))
    pinv = torch.linalg.pinv(a)
    noise = Rng(5, range(3)).normal_like(x).flatten(1)
    for share in (1.0, 0.3):
        got, distance = replace(problem, x, 0.7, Rng(5, range(3)), share)
        want = x.flatten(1) + share * (problem.y + 0.7 * noise @ a.T - x.flatten(1) @ a.T) @ pinv.T
        assert torch.allclose(got.flatten(1), want, atol=1e-12)
    move = (problem.y + 0.7 * noise @ a.T - x.flatten(1) @ a.T) @ pinv.T
    assert torch.allclose(distance, move.square().mean(1).sqrt(), atol=1e-12)


@pytest.mark.parametrize("r", [pytest.param(0.3, marks=SLOW), 0.8, pytest.param(0.95, marks=SLOW)])
def test_replacement_has_its_closed_form_bias(r: float) -> None:
    mean, variance = unseen(ScoreSDE(steps=1000, corrector=0), r, 0.01, 20.0)
    assert mean == pytest.approx((1 - math.sqrt(1 - r * r)) / r, rel=0.01)
    assert variance == pytest.approx((1 - r * r) / (2 * r) * math.log((1 + r) / (1 - r)), rel=0.01)
    assert abs(mean - r) > 0.1, "the truth must be told apart"


@pytest.mark.parametrize("real", [False, True])
def test_replacement_is_exact_where_the_prior_decorrelates(real: bool) -> None:
    """A stationary field and k-space data: what is seen is the data, the rest the prior; only the steps err."""
    problem, prior = fourier(real)
    truth = prior.posterior(problem.operator, problem.y, 1e-6)[:2]
    few, many = (
        mean_cov_error(*stepwise_law(ScoreSDE(steps=n, corrector=0), problem, prior), *truth) for n in (40, 160)
    )
    assert many[0] < 0.01 and many[1] < 0.06 and many[1] < 0.35 * few[1]


def test_corrector_takes_bias_away() -> None:
    means = [unseen(ScoreSDE(steps=40, corrector=n), draws=30)[0] for n in (0, 3, 12)]
    assert means[0] + 0.03 < means[1] and means[1] + 0.05 < means[2] < 0.8, means


def test_corrector_leaves_the_prior_alone_where_nothing_is_seen() -> None:
    prior = GaussianPrior(torch.zeros(1, 1, dtype=F64), torch.eye(1, dtype=F64), dtype=F64)
    prior.sigma_min, prior.sigma_max = 0.01, 20.0
    problem = Problem(torch.zeros(1, dtype=F64), Dense(torch.zeros(1, 1, dtype=F64), (1, 1)), Gaussian(1.0))
    variance = float(stepwise_law(ScoreSDE(steps=100, corrector=4), problem, prior, draws=10)[1])
    assert variance == pytest.approx(1.0, abs=0.06)


SAME = [ILVR(steps=12), RePaint(steps=12, repeats=1), RePaintPP(steps=12, repeats=1), MCG(steps=12, alpha=0.0)]


@pytest.mark.parametrize("other", SAME, ids=lambda s: s.name)
def test_relatives_of_replacement_are_the_same_bits(other: Sampler) -> None:
    problem, prior = gaussian_problem()
    want = sample(PLAIN, problem, prior, 3, seed=1).x
    assert torch.equal(sample(other, problem, prior, 3, seed=1).x, want)


def test_relatives_differ_where_they_should() -> None:
    problem, prior = gaussian_problem()
    want = sample(PLAIN, problem, prior, 3, seed=1).x
    for other in (RePaint(steps=12, repeats=2, jump_length=3), RePaintPP(steps=12, repeats=2), MCG(steps=12),
                  ScoreSDE(steps=12), ILVR(steps=12, range_end=0.1)):  # fmt: skip
        assert not torch.allclose(sample(other, problem, prior, 3, seed=1).x, want, atol=1e-3), other.name


EXACT = [
    ScoreSDE(steps=10), RePaint(steps=10, jump_length=3, repeats=2), RePaintPP(steps=10, repeats=2), ILVR(steps=10),
    MCG(steps=10), DDNM(steps=10), DDNM(steps=10, travel_length=3, travel_repeats=2, travel="denoised"),
    DDNMPlus(steps=10), DDRM(steps=10), CCDF(base="ddnm", steps=10),
]  # fmt: skip


@pytest.mark.parametrize("sampler", EXACT, ids=lambda s: s.name)
@pytest.mark.parametrize("kind", ["dense", "complex", "real"])
def test_noiseless_data_are_fitted_exactly(sampler: Sampler, kind: str) -> None:
    problem, prior = gaussian_problem(1e-12) if kind == "dense" else fourier(kind == "real")
    out = sample(sampler, problem, prior, 3, seed=0)
    assert gap(problem, out.x) < 1e-10
    assert float(out.x.std(0).abs().max()) > 0.01, "what nothing sees must vary"


@pytest.mark.parametrize("sampler", [ScoreSDE(steps=10), RePaint(steps=10), ILVR(steps=10), DDNM(steps=10)])
def test_noisy_data_are_over_fitted_as_published(sampler: Sampler) -> None:
    problem, prior = gaussian_problem(0.3)
    assert gap(problem, sample(sampler, problem, prior, 3, seed=0).x) < 1e-10


def test_levels_left_out_and_a_smaller_share_leave_a_misfit() -> None:
    problem, prior = gaussian_problem(1e-12)
    for loose in (ILVR(steps=10, range_end=1e-9), ScoreSDE(steps=10, relax=0.5)):
        assert gap(problem, sample(loose, problem, prior, 3, seed=0).x) > 1e-4


# --- jumps -----------------------------------------------------------------------------------------------------------


def test_jump_ladder_is_the_published_schedule() -> None:
    levels = [float(k) for k in range(250, -1, -1)]
    ladder = jump_ladder(levels, 10, 10)
    assert sum(a > b for a, b in pairwise(ladder)) == 2410
    assert ladder[0] == 250 and ladder[-1] == 0 and ladder.count(0.0) == 1
    assert jump_ladder(levels, 10, 1) == levels
    assert jump_ladder([4.0, 3.0, 2.0, 1.0, 0.0], 1, 2) == [4, 3, 4, 3, 2, 3, 2, 1, 2, 1, 0]
    assert jump_ladder([4.0, 3.0, 2.0, 1.0, 0.0], 2, 2) == [4, 3, 2, 1, 3, 2, 1, 0]


def test_repaint_takes_the_bias_of_replacement_away() -> None:
    """Regression: means 0.474 and 0.669 (truth 0.8), variances 0.432 and 0.340 (truth 0.36)."""
    once, thrice = (unseen(RePaint(steps=60, jump_length=1, repeats=n)) for n in (1, 3))
    assert once == pytest.approx((0.4744, 0.4317), abs=2e-3)
    assert thrice == pytest.approx((0.6690, 0.3396), abs=2e-3)


@SLOW
def test_repaint_with_many_repeats() -> None:
    few, many = (unseen(RePaint(steps=60, jump_length=1, repeats=n)) for n in (10, 40))
    assert few == pytest.approx((0.7616, 0.3033), abs=2e-3)
    assert many == pytest.approx((0.7906, 0.2887), abs=2e-3)


def test_repeated_sweeps_help_only_from_low_levels() -> None:
    first = unseen(RePaintPP(steps=40, repeats=1))[0]
    low, high = (unseen(RePaintPP(steps=40, repeats=12, sigma_top=top))[0] for top in (0.5, 80.0))
    assert low > first + 0.15 and high == pytest.approx(first, abs=1e-3)


# --- MCG -------------------------------------------------------------------------------------------------------------


def test_mcg_is_replacement_where_the_prior_decorrelates() -> None:
    problem, prior = fourier(False)
    runs = [sample(s, problem, prior, 3, seed=1).x for s in (PLAIN, MCG(steps=12, alpha=1.0))]
    assert torch.allclose(*runs, atol=1e-10)


def test_mcg_gradient_is_that_of_its_norm() -> None:
    problem, prior = gaussian_problem()
    x, t, s = 2 * prior.draw(Rng(0, range(2))), 0.9, 0.5
    leaf = x.clone().requires_grad_()
    pinv, a = torch.linalg.pinv(problem.linear.as_matrix()), problem.linear.as_matrix()
    d = prior.denoise(leaf, torch.tensor(t, dtype=F64)).flatten(1)
    (gradient,) = torch.autograd.grad(((problem.y - d @ a.T) @ pinv.T).norm(dim=1).sum(), leaf)
    with torch.no_grad():
        got, base = (
            MCG(alpha=alpha).predict(problem, Counted(prior), x, t, s, Rng(3, range(2))) for alpha in (0.4, 0.0)
        )
    want = -0.4 * math.sqrt((1 + s * s) * (1 + t * t)) * gradient
    assert torch.allclose(got - base, want, atol=1e-12)


# --- implicit denoiser -----------------------------------------------------------------------------------------------


class Undenoised(ImplicitDenoiser):
    def finish(self, problem, prior, state, rng):
        return state.x


def test_implicit_denoiser_stops_on_the_data_and_each_sample_by_itself() -> None:
    problem, prior = gaussian_problem(1e-12)
    prior.sigma_max, prior.sigma_min = 20.0, 1e-3
    settings = {"steps": 2000, "sigma_start": 2.0, "sigma_end": 0.02, "h0": 0.05, "beta": 0.2}
    out = sample(Undenoised(**settings), problem, prior, 6, seed=0)
    assert out.provenance["network_calls"] < 2000, "it must stop by itself"
    # the last step leaves at most the effective noise of all six coordinates on the three that the data see
    a = problem.linear.as_matrix()
    off = (problem.y - out.x.flatten(1) @ a.T) @ torch.linalg.pinv(a).T
    assert float(off.norm(dim=1).max()) < math.sqrt(6) * 0.02
    final = out.trace["sigma"]
    assert bool((final[-1] <= 0.02).all()) and len(set((final <= 0.02).int().argmax(0).tolist())) > 1
    clean = sample(ImplicitDenoiser(**settings), problem, prior, 6, seed=0)
    alone = torch.cat([sample(ImplicitDenoiser(**settings), problem, prior, [k], seed=0).x for k in range(6)])
    assert torch.allclose(clean.x, alone, atol=1e-9)


@pytest.mark.parametrize(("beta", "quiet"), [(1.0, True), (0.5, False)])
def test_implicit_denoiser_without_noise_contracts_to_the_data(beta: float, quiet: bool) -> None:
    problem, prior = gaussian_problem(1e-12)
    sampler = ImplicitDenoiser(steps=10, h0=0.3, beta=beta)
    counted, like = Counted(prior), torch.zeros(2, 1, 6, dtype=F64)
    with torch.no_grad():
        state = sampler.init(problem, counted, Rng(0, range(2)), like)
        ends = [sampler.step(problem, counted, state, 9.0, 8.0, Rng(k, range(2)))[0].x for k in (1, 2)]
    assert torch.equal(*ends) == quiet
    h, gaps = 0.6 / 1.3, [problem.residual(x).norm(dim=1) for x in (state.x, ends[0])]
    assert torch.allclose(gaps[1], (1 - h) * gaps[0], atol=1e-9) == quiet


# --- CCDF ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [2.0, 0.5, 0.05])
@pytest.mark.parametrize(("eta", "power"), [(1.0, 1.0), (0.0, 0.5)])
def test_ccdf_forgets_its_start_at_the_known_rate(c: float, eta: float, power: float) -> None:
    prior = GaussianPrior(torch.zeros(1, 1, dtype=F64), c * torch.eye(1, dtype=F64), dtype=F64)
    blind = Dense(torch.full((1, 1), 1e-9, dtype=F64), (1, 1))
    problem = Problem(torch.zeros(1, dtype=F64), blind, Gaussian(1.0), {"initial": torch.ones(1, 1, dtype=F64)})
    sampler = CCDF(base="mmps", steps=400, sigma_start=0.5, settings={"eta": eta})
    assert float(stepwise_law(sampler, problem, prior)[0]) == pytest.approx((c / (c + 0.25)) ** power, rel=0.01)


def test_ccdf_from_the_widest_level_is_its_base() -> None:
    problem, prior = gaussian_problem()
    problem = dc.replace(problem, meta={"initial": torch.zeros(1, 6, dtype=F64)})
    runs = [sample(s, problem, prior, 3, seed=1).x for s in (MMPS(steps=9), CCDF(steps=9, sigma_start=1e9))]
    assert torch.equal(*runs)


def test_ccdf_walks_only_the_levels_below_its_start() -> None:
    problem, prior = gaussian_problem()
    few = sample(CCDF(steps=40, sigma_start=0.5), problem, prior, 2, seed=0).provenance["network_calls"]
    assert 5 < few < 30


def test_ccdf_start_is_the_ridge_solution_or_the_given_image() -> None:
    problem, prior = fourier(False)
    physical = Problem(problem.y, problem.operator, Gaussian(0.3))
    counted, like = Counted(prior), torch.zeros(2, 2, 3, 4, dtype=F64)
    inner = physical.pullback(prior.to_physical)
    a = inner.linear.as_matrix()
    data = torch.view_as_real(problem.y).flatten()
    want = torch.linalg.solve(a.T @ a / 0.09 + torch.eye(24, dtype=F64) / 0.25, a.T @ data / 0.09)
    assert torch.allclose(initial(inner, counted, 0.5, like)[1].flatten(), want, atol=1e-9)
    no_svd = dc.replace(inner, operator=Plain(inner.linear), cg_tol=1e-12)
    assert torch.allclose(initial(no_svd, counted, 0.5, like)[1].flatten(), want, atol=1e-8)
    image = prior.to_physical(prior.draw(Rng(4, [0])))[0]
    given = dc.replace(inner, meta={"initial": image})
    assert torch.allclose(prior.to_physical(initial(given, counted, 0.5, like)), image.expand(2, 3, 4), atol=1e-12)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"base": "nonsense"}, "cannot start"),
        ({"base": "pnpdm"}, "cannot start"),
        ({"base": "ccdf"}, "cannot start"),
        ({"base": "implicit_denoiser"}, "cannot start"),
        ({"base": "repaint"}, "walks back up"),
        ({"settings": {"steeps": 3}}, "no setting 'steeps'"),
    ],
)
def test_ccdf_refuses_what_it_cannot_start(fields: dict, words: str) -> None:
    problem, prior = gaussian_problem()
    with pytest.raises(UsageError, match=words):
        sample(CCDF(**fields), problem, prior, 1, seed=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ScoreSDE(steps=0), lambda: ScoreSDE(snr=0.8), lambda: ScoreSDE(relax=0.0), lambda: RePaint(repeats=0),
        lambda: RePaintPP(sigma_top=0.0), lambda: ILVR(range_end=-1.0), lambda: MCG(alpha=-1.0), lambda: DDNM(eta=1.1),
        lambda: ImplicitDenoiser(beta=0.0), lambda: CCDF(sigma_start=0.0),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(make) -> None:
    with pytest.raises(UsageError):
        make()


def test_stepwise_law_is_the_law() -> None:
    """The helper against the exact law of whole runs."""
    problem, prior = gaussian_problem()
    for sampler in (ScoreSDE(steps=5), RePaint(steps=6, jump_length=2, repeats=2)):
        assert max(mean_cov_error(*stepwise_law(sampler, problem, prior), *affine_law(sampler, problem, prior))) < 1e-9
