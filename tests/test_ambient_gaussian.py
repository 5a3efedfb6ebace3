"""Priors from corrupted data against closed forms in five dimensions: the theorems hold to rounding, the traps show."""

from __future__ import annotations

import itertools

import pytest
import torch
from ambient_law import F64, D, all_patterns, bernoulli, covariance, linear, minimiser, note, oracle, pixels, points
from torch import Tensor

from sciinv.errors import MismatchError
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem
from sciinv.samplers.explicit.mmps import MMPS
from sciinv.training.ambient.consistency import consistency
from sciinv.training.ambient.em import expectation, held_out_density, misfit, same
from sciinv.training.ambient.further import Further
from sciinv.training.ambient.gaussian import Moments, dense_em, fit
from sciinv.training.ambient.gsure import gsure
from sciinv.training.ambient.identify import conditional, identify, require
from sciinv.training.ambient.items import Measurements
from sciinv.training.ambient.losses import ambient, ambient_noisy, tweedie

SIGMA, FLOOR = 0.7, 0.4
DUST = Further(0.2, exact=False)


def dust() -> tuple[Tensor, Tensor]:
    patterns = all_patterns()
    return patterns, bernoulli(patterns, 0.6)


def noise_levels(value: float, like: Tensor) -> Tensor:
    return torch.full((len(like),), value, dtype=F64)


def supervised(kept: Tensor, weights: Tensor, parts: int):
    """Rows (pattern x cubature point) that are compatible with an A~, and their weights."""
    patterns = all_patterns()
    live = weights > 0
    rows = points(parts)
    n = len(rows[0])
    masks = patterns[live].repeat_interleave(n, 0)
    w = (weights[live] / n).repeat_interleave(n)
    many = [r.repeat(int(live.sum()), 1) for r in rows]
    return masks, w, many, kept.expand(len(masks), D)[:, None]


def ambient_minimiser(kept: Tensor, weights: Tensor, target: Tensor | None = None) -> Tensor:
    """The minimiser of our loss for one A~ when the patterns have these probabilities given it."""
    root = torch.linalg.cholesky(covariance())
    masks, w, (e, n), keep = supervised(kept, weights, 2)
    batch = pixels(e @ root.T, masks if target is None else masks & target)
    return minimiser(lambda k: (w * ambient(linear(k), batch, keep, noise_levels(SIGMA, w), n[:, None])).sum())


def test_1_ambient_minimiser_is_the_partial_observation_denoiser():
    patterns, weights = dust()
    found = conditional(patterns, weights, torch.zeros(D, dtype=torch.bool), DUST)
    assert len(found.kept) == 32 and not found.undetermined.any()
    hidden = found.seen[~found.kept]
    assert abs(float(hidden.min()) - 0.6 * 0.2 / (1 - 0.6 * 0.8)) < 1e-12  # the published rate, 0.231
    worst = 0.0
    for kept, posterior in zip(found.kept, found.posterior, strict=True):
        k = ambient_minimiser(kept, posterior)
        worst = max(worst, float((k - oracle(covariance(), kept, SIGMA)).abs().max()))
    note("1 ambient: max |K - oracle| over 32 patterns", worst)
    note("1 least P(A_ii = 1 | A~)", float(hidden.min()))
    assert worst < 1e-10


def test_2_and_3_what_cannot_be_determined_is_found():
    patterns, weights = dust()
    none = torch.zeros(D, dtype=torch.bool)
    alone = int(conditional(patterns, weights, none, Further(0.0)).undetermined.sum())
    note("2 no further corruption: undetermined of 32 patterns", alone)
    assert alone == 31
    blind = patterns & torch.tensor([False, True, True, True, True])
    found = conditional(blind.unique(dim=0), torch.full((16,), 1 / 16), none, DUST)
    note("3 pixel never seen: undetermined of 16 patterns", int(found.undetermined.sum()))
    assert len(found.kept) == 16 and found.undetermined.all()


def problems(masks: Tensor, x: Tensor, sigma: float) -> list[Problem]:
    g = torch.Generator().manual_seed(9)
    y = x + sigma * torch.randn(x.shape, generator=g, dtype=x.dtype)
    return [Problem((v * m)[None].float(), Mask(m[None]), Gaussian(sigma)) for v, m in zip(y, masks, strict=True)]


def test_a_data_set_that_cannot_determine_the_prior_is_refused_with_coordinates():
    g = torch.Generator().manual_seed(0)
    masks = torch.rand(300, D, generator=g) < 0.6
    masks[~masks.any(1), 1] = True
    x = torch.randn(300, D, generator=g, dtype=F64)
    good = Measurements(problems(masks, x, 0.1))
    assert identify(good, Further(0.2, exact=False)).regular and identify(good, None).regular
    with pytest.raises(MismatchError, match="cannot determine the prior by ambient"):
        require(identify(good, Further(0.0)), "ambient")
    masks[:, 3] = False
    masks[~masks.any(1), 1] = True
    blind = Measurements(problems(masks, x, 0.1))
    for further in (None, Further(0.2)):
        verdict = identify(blind, further)
        assert not verdict.regular and verdict.coordinates == [[3]] and verdict.weakest < 1e-6
    # two masks that share nothing: together they see all, but A~ betrays which one it was
    halves = torch.tensor([[True, True, False, False, False], [False, False, True, True, True]]).repeat(50, 1)
    split = Measurements(problems(halves, x[:100], 0.1))
    assert identify(split, None).regular
    verdict = identify(split, Further(0.4))
    assert not verdict.regular and verdict.coordinates in ([[0], [1]], [[2], [3], [4]])
    # as many lines in every scan: dropping exactly so many keeps it determined, dropping each by chance does not
    fixed = all_patterns()
    fixed = fixed[fixed.sum(1) == 3].repeat(5, 1)
    even = Measurements(problems(fixed, x[: len(fixed)], 0.1))
    assert identify(even, Further(0.34)).regular
    assert not identify(even, Further(0.34, exact=False)).regular


def test_a_large_state_is_checked_by_lanczos():
    g = torch.Generator().manual_seed(2)
    shape = (1, 32, 32)
    masks = [torch.rand(shape, generator=g) < 0.6 for _ in range(20)]
    good = [Problem(m.float(), Mask(m), Gaussian(0.1)) for m in masks]
    assert identify(Measurements(good), Further(0.2)).regular
    for m in masks:
        m[0, 7, 3:5] = False
    blind = [Problem(m.float(), Mask(m), Gaussian(0.1)) for m in masks]
    verdict = identify(Measurements(blind), None)
    assert not verdict.regular and sorted(verdict.coordinates) == [[7, 3], [7, 4]]


def test_4_a_monte_carlo_minimiser_is_near_the_oracle():
    patterns, weights = dust()
    found = conditional(patterns, weights, torch.zeros(D, dtype=torch.bool), DUST)
    row = int((found.kept == torch.tensor([True, True, False, True, False])).all(1).nonzero())
    g = torch.Generator().manual_seed(1)
    n = 100_000
    masks = patterns[torch.multinomial(found.posterior[row], n, replacement=True, generator=g)]
    x = torch.randn(n, D, generator=g, dtype=F64) @ torch.linalg.cholesky(covariance()).T
    z = torch.randn(n, 1, D, generator=g, dtype=F64)
    batch, keep = pixels(x, masks), found.kept[row].expand(n, 1, D)
    k = minimiser(lambda k: ambient(linear(k), batch, keep, noise_levels(SIGMA, x), z).mean())
    error = float((k - oracle(covariance(), found.kept[row], SIGMA)).abs().max())
    note("4 Monte Carlo minimiser, 1e5 draws: max error", error)
    assert error < 0.02


def test_5_only_the_loss_through_a_teaches_what_is_hidden():
    kept = torch.tensor([True, True, False, True, False])
    posterior = (all_patterns() == torch.ones(D, dtype=torch.bool)).all(1).double()
    assert float(ambient_minimiser(kept, posterior)[~kept].abs().max()) > 0.1
    untaught = float(ambient_minimiser(kept, posterior, target=kept)[~kept].abs().max())
    note("5 loss on A~ only: weight learned for hidden rows", untaught)
    assert untaught < 1e-12


def test_6_and_7_a_partial_denoiser_is_no_prior():
    cov, kept = covariance(), torch.tensor([True, True, False, True, False])
    errors = []
    for mask in (torch.ones(D, dtype=torch.bool), kept):
        k = oracle(cov, mask, SIGMA)
        a = torch.diag(mask.to(F64))
        errors.append(
            float(((k @ a - torch.eye(D)) @ cov * (k @ a - torch.eye(D))).sum() + SIGMA**2 * (k @ a).square().sum())
        )
    note("6 MSE of the full denoiser", errors[0])
    note("6 MSE of the partial one", errors[1])
    assert errors[1] > 1.2 * errors[0]
    levels = [40 * (1e-3 / 40) ** (i / 1500) for i in range(1501)]
    flow = torch.eye(D, dtype=F64) * levels[0]
    for t, s in itertools.pairwise(levels):
        k = oracle(cov, kept, t) @ torch.diag(kept.to(F64))
        flow = (s / t * torch.eye(D, dtype=F64) + (1 - s / t) * k) @ flow
    law = flow @ flow.T
    both = kept[:, None] & kept
    note("7 sampling with a fixed A~: covariance error", float((law - cov).norm() / cov.norm()))
    note("7 the same on the kept block", float((law - cov)[both].norm() / cov[both].norm()))
    assert float((law - cov)[both].norm() / cov[both].norm()) < 0.02
    assert float((law - cov).norm() / cov.norm()) > 0.1 and bool(
        (law.diagonal()[~kept] < 0.9 * cov.diagonal()[~kept]).all()
    )


def test_8_tweedie_minimiser_is_the_clean_denoiser():
    root = torch.linalg.cholesky(covariance())
    e, n, m = points(3)
    noisy = (e @ root.T + FLOOR * n)[:, None]
    every = torch.ones(D, dtype=torch.bool)

    def solve(floor: float) -> Tensor:
        low = noise_levels(floor, noisy)
        # the naive loss tops the same image up from what it takes for zero noise
        level = (SIGMA**2 - FLOOR**2 + floor**2) ** 0.5
        return minimiser(lambda k: tweedie(linear(k), noisy, low, noise_levels(level, noisy), m[:, None]).mean())

    truth = oracle(covariance(), every, SIGMA)
    exact, naive = (float((solve(floor) - truth).abs().max()) for floor in (FLOOR, 0.0))
    note("8 Tweedie: max |K - oracle|", exact)
    note("8b without the correction", naive)
    assert exact < 1e-10 and naive > 0.1


def noisy_minimiser(kept: Tensor, posterior: Tensor, corrected: bool) -> Tensor:
    root = torch.linalg.cholesky(covariance())
    masks, w, (e, n, m), keep = supervised(kept, posterior, 3)
    batch = pixels(e @ root.T + FLOOR * n, masks, FLOOR)
    level = noise_levels(SIGMA if corrected else (SIGMA**2 - FLOOR**2) ** 0.5, w)
    rule = ambient_noisy if corrected else ambient
    return minimiser(lambda k: (w * rule(linear(k), batch, keep, level, m[:, None])).sum())


def test_9_mask_and_noise():
    patterns, weights = dust()
    found = conditional(patterns, weights, torch.zeros(D, dtype=torch.bool), DUST)
    errors = {True: 0.0, False: 0.0}
    for kept, posterior in list(zip(found.kept, found.posterior, strict=True))[1::3]:
        truth = oracle(covariance(), kept, SIGMA)
        for corrected in errors:
            gap = float((noisy_minimiser(kept, posterior, corrected) - truth).abs().max())
            errors[corrected] = max(errors[corrected], gap)
    note("9 mask and noise, corrected: max |K - oracle|", errors[True])
    note("9b the same, uncorrected", errors[False])
    assert errors[True] < 1e-10 and errors[False] > 0.1


def test_10_consistency_carries_the_denoiser_below_the_noise():
    cov, every = covariance(), torch.ones(D, dtype=torch.bool)
    t, s = 0.4, 0.25
    above, below = oracle(cov, every, t), oracle(cov, every, s)
    e, n = points(2)
    x = (e @ torch.linalg.cholesky(cov).T + t * n)[:, None]

    def denoise(k: Tensor):
        return lambda z, sigma: z @ (above if float(sigma[0]) == t else k).T

    def loss(k: Tensor, xi: Tensor, other: Tensor) -> Tensor:
        return consistency(denoise(k), x, noise_levels(t, x), noise_levels(s, x), xi, other).mean()

    zero = torch.zeros_like(x)
    rows = points(1)[0]
    # independent draws: every pair of cubature points; its mean is the squared expectation
    pairs = [(a.expand_as(x), b.expand_as(x)) for a in rows for b in rows]
    assert abs(float(sum(loss(below, a, b) for a, b in pairs)) / len(pairs)) < 1e-12
    assert float(sum(loss(above, a, b) for a, b in pairs)) / len(pairs) > 1e-3
    error = float((minimiser(lambda k: loss(k, zero, zero)) - below).abs().max())
    note("10 consistency below the noise: max |K - oracle|", error)
    assert error < 1e-10


@pytest.mark.parametrize("pattern", [[True] * 5, [True, True, False, True, False]])
def test_11_gsure_gradient_vanishes_at_the_supervised_optimum(pattern):
    kept, cov = torch.tensor(pattern), covariance()
    root, m = torch.linalg.cholesky(cov), torch.diag(kept.to(F64))
    e, n, extra = points(3)
    probes = (1 - 2 * all_patterns().to(F64)).repeat_interleave(len(e), 0)[:, None]
    y = (e @ root.T + FLOOR * n).repeat(32, 1)
    batch = pixels(y, kept.expand(len(y), D), FLOOR)
    more = extra.repeat(32, 1)[:, None]

    def loss(k: Tensor) -> Tensor:
        return gsure(linear(k), batch, noise_levels(SIGMA, y), more, probes).mean()

    optimum = m @ cov @ m @ torch.linalg.inv(m @ cov @ m + SIGMA**2 * torch.eye(D, dtype=F64))
    gradient = torch.autograd.functional.jacobian(loss, optimum)
    note(f"11 GSURE gradient at the optimum, {int(kept.sum())} of 5 measured", float(gradient.abs().max()))
    assert float(gradient.abs().max()) < 1e-10
    seen = m @ cov @ m + SIGMA**2 * torch.eye(D, dtype=F64)
    true = (m @ optimum @ seen @ optimum.T @ m - 2 * m @ optimum @ m @ cov + m @ cov).trace()
    assert abs(float(loss(optimum).detach()) - float(true) / int(kept.sum())) < 1e-10


def em_data(n: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(5)
    masks = torch.rand(n, D, generator=g) < 0.75
    masks[~masks.any(1), 0] = True
    x = torch.randn(n, D, generator=g, dtype=F64) @ torch.linalg.cholesky(covariance()).T
    return masks, x, x + 0.1 * torch.randn(n, D, generator=g, dtype=F64)


def relative(cov: Tensor) -> float:
    return float((cov - covariance()).norm() / covariance().norm())


def test_12_em_reaches_the_sampling_floor():
    masks, x, y = em_data(20_000)
    start = Moments(torch.zeros(D, dtype=F64), torch.eye(D, dtype=F64))
    course = dense_em([pixels(y, masks, 0.1)], start, 25)
    floor = relative(x.T @ x / len(x))
    errors = [relative(m.cov) for m in course]
    for k in (1, 2, 5, 10, 20, 25):
        note(f"12 EM, covariance error after {k}", errors[k - 1])
    note("12 covariance error of the clean samples", floor)
    assert errors[0] > 0.1 and errors[24] < 2 * floor + 0.005, (errors[::6], floor)


def test_em_with_a_sampler_in_the_e_step():
    """The loop that trains networks, with a Gaussian M-step: moment matching is exact for it."""
    masks, x, _ = em_data(400)
    data = Measurements(problems(masks, x, 0.1))
    sampler = MMPS(steps=20, cg_iterations=5)
    prior = GaussianPrior(torch.zeros(1, D), torch.eye(D, dtype=F64))
    prior.sigma_max = 20.0
    before = held_out_density(data, same(prior, data), sampler, 0, items=range(100), draws=8)
    for lap in range(6):
        draws = expectation(data, same(prior, data), sampler, 0, lap, chunk=2000)
        rows = draws.images[0].flatten(1).double()
        prior = GaussianPrior(rows.mean(0).view(1, D), torch.cov(rows.T))
        prior.sigma_max = 20.0
    floor = relative(x.T @ x / len(x))
    note("12 EM by moment matching, 6 laps, 400 items", relative(prior.cov))
    note("12 covariance error of those clean samples", floor)
    assert relative(prior.cov) < 3 * floor + 0.03, (relative(prior.cov), floor)
    assert abs(misfit(data, draws) - 1) < 0.5
    assert held_out_density(data, same(prior, data), sampler, 0, items=range(100), draws=8) > before + 0.1


def test_the_gaussian_start_is_that_em():
    masks, x, _ = em_data(400)
    data = Measurements(problems(masks, x, 0.1))
    prior = fit(data, 0)[0]
    assert isinstance(prior, GaussianPrior)
    assert relative(prior.cov) < 2.5 * relative(x.T @ x / len(x)) + 0.02
