"""Averages and closures: errors against Monte Carlo, counts, ranks, invariances, and what must not be invariant."""

import dataclasses as dc
import itertools
import math

import numpy as np
import pytest
from sciinv_vlbi import gains
from sciinv_vlbi.averaging import add_systematic, average, compact, scans, zero_baseline
from sciinv_vlbi.closures import closures, whitening
from sciinv_vlbi.observation import MICRO_ARCSECOND
from vlbi_files import crescent, track

from sciinv.errors import InputError, UsageError


def noisy(obs, seed, level=1.0):
    rng = np.random.default_rng([9, seed])
    noise = rng.normal(size=len(obs)) + 1j * rng.normal(size=len(obs))
    return dc.replace(obs, vis=obs.vis + level * obs.sigma * noise)


def fine(sigma=None):
    """Scans of two minutes in ten-second integrations; sigma differs from row to row."""
    obs = track(hours=1.0, step=1200.0, tint=10.0)
    n = 12
    time = np.repeat(obs.time, n) + np.tile(np.arange(n) * 10 / 3600, len(obs))
    out = dc.replace(obs.rows(np.repeat(np.arange(len(obs)), n)), time=time, vis=np.ones(n * len(obs), complex))
    return dc.replace(out, sigma=out.sigma * np.random.default_rng(0).uniform(0.5, 2, len(out)))


def test_scans_and_intervals():
    obs = fine()
    assert len(set(scans(obs))) == 4 and len(average(obs, "scan")) == len(track(1.0, 1200.0))
    assert len(average(obs, 60.0)) == 2 * len(average(obs, "scan")) and len(average(obs, "none")) == len(obs)
    assert len(set(scans(obs, 5.0))) == 48
    scan = average(obs, "scan")
    np.testing.assert_allclose(scan.tint, 120.0)
    for bad in (-1.0, "day", math.nan):
        with pytest.raises(UsageError):
            average(obs, bad)


def test_average_has_the_error_that_it_says():
    obs = fine()
    z = np.array([(a := average(noisy(obs, seed), "scan")).vis - 1 for seed in range(400)]) / a.sigma
    for part in (z.real, z.imag):
        assert part.std() == pytest.approx(1.0, abs=0.02) and abs(part.mean()) < 0.02


def test_reversed_baselines_and_repeats_are_merged():
    obs = crescent(noise=1e-6)
    flipped = dc.replace(obs, a=obs.b, b=obs.a, u=-obs.u, v=-obs.v, vis=obs.vis.conj())
    twice = dc.replace(
        obs, **{n: np.concatenate([getattr(obs, n), getattr(flipped, n)])
                for n in ("time", "a", "b", "u", "v", "vis", "sigma", "tint", "band")}
    )  # fmt: skip
    merged, plain = average(twice, "none"), average(obs, "none")
    np.testing.assert_allclose(merged.vis, plain.vis)
    np.testing.assert_allclose(merged.u, plain.u)
    np.testing.assert_allclose(merged.sigma, plain.sigma / np.sqrt(2))


def test_systematic_noise_adds_in_quadrature():
    obs = crescent()
    more = add_systematic(obs, 0.02, {"LM": 0.1})
    lm = [s.name for s in obs.stations].index("LM")
    share = 0.02**2 + 0.01 * ((obs.a == lm) | (obs.b == lm))
    np.testing.assert_allclose(more.sigma**2, obs.sigma**2 + share * np.abs(obs.vis) ** 2)
    with pytest.raises(UsageError, match="no such station"):
        add_systematic(obs, 0.0, {"XX": 0.1})
    with pytest.raises(UsageError, match="fraction"):
        add_systematic(obs, 2.0)


def test_short_baselines():
    obs = crescent(noise=1e-3)
    obs = dc.replace(obs, vis=np.where(obs.distance < 1e8, 1.2, obs.vis))
    assert zero_baseline(obs, 1e8) == pytest.approx(1.2)
    assert compact(obs, "keep", 0.6, 1e8, 0)[0] is obs
    dropped, none = compact(obs, "drop", 0.6, 1e8, 0)
    assert none is None and dropped.distance.min() > 1e8 and 0 < len(dropped) < len(obs)
    scaled, _ = compact(obs, "scale", 0.6, 1e8, 0)
    near = obs.distance < 1e8
    np.testing.assert_allclose(np.abs(scaled.vis[near]), 0.6)
    np.testing.assert_allclose(scaled.snr, obs.snr)
    same, extra = compact(obs, "component", 0.6, 1e8, 250 * MICRO_ARCSECOND)
    assert same is obs and np.abs(extra[near]) == pytest.approx(0.6, rel=1e-2) and np.abs(extra[~near]).max() < 1e-3
    with pytest.raises(InputError, match="short enough"):
        zero_baseline(dropped, 1e8)
    with pytest.raises(InputError, match="every baseline is short"):
        compact(obs.rows(near), "drop", 0.6, 1e8, 0)


def complete(n):
    """One instant of n stations with every baseline."""
    obs = track()
    pairs = np.array(list(itertools.combinations(range(n), 2)))
    rng = np.random.default_rng(n)
    size = len(pairs)
    return dc.replace(
        obs.rows(np.zeros(size, int)), a=pairs[:, 0], b=pairs[:, 1],
        vis=rng.normal(size=size) + 1j * rng.normal(size=size),
        sigma=rng.uniform(0.01, 0.1, size), stations=obs.stations[:1] * n,
    )  # fmt: skip


@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_numbers_and_rank_of_a_complete_array(n):
    obs = complete(n)
    wanted = {"phase": (n - 1) * (n - 2) // 2, "amplitude": n * (n - 3) // 2}
    every = {"phase": math.comb(n, 3), "amplitude": 3 * math.comb(n, 4)}
    for kind in ("phase", "amplitude"):
        few, all_ = (closures(obs, kind, count) for count in ("minimal", "all"))
        assert (len(few), len(all_)) == (wanted[kind], every[kind])
        ranks = [np.linalg.matrix_rank(c.design(len(obs)).toarray()) if len(c) else 0 for c in (few, all_)]
        assert ranks == [wanted[kind]] * 2


def test_missing_baselines_keep_full_rank_and_the_least_noisy_come_first():
    obs = complete(7)
    gone = (obs.a == 0) & (obs.b < 4)  # no station has all baselines
    obs = obs.rows(~gone & ~((obs.a == 5) & (obs.b == 6)))
    relative = obs.sigma / np.abs(obs.vis)
    for kind in ("phase", "amplitude"):
        few, all_ = (closures(obs, kind, count) for count in ("minimal", "all"))
        assert len(few) == np.linalg.matrix_rank(all_.design(len(obs)).toarray())
        assert few.sigma(relative).min() == all_.sigma(relative).min()
        # a greedy basis of a matroid has the least total weight: no exchange of one closure for another improves it
        design, weight = few.design(len(obs)).toarray(), few.sigma(relative)
        for row, w in zip(all_.design(len(obs)).toarray(), all_.sigma(relative), strict=True):
            share = np.linalg.lstsq(design.T, row, rcond=None)[0]
            assert (weight[np.abs(share) > 1e-9] <= w + 1e-12).all()


def test_weak_visibilities_take_no_part():
    obs = crescent(seed=3)
    obs = dc.replace(obs, sigma=obs.sigma * 20)
    chosen = closures(obs, "phase", "all", snr=3.0)
    assert 0 < len(chosen) < len(closures(obs, "phase", "all")) and obs.snr[chosen.index].min() >= 3


@pytest.mark.parametrize("kind", ["phase", "amplitude"])
def test_gains_cancel_and_nothing_else_does(kind):
    obs = crescent(noise=1e-9)
    set_ = closures(obs, kind, "all")
    factor = gains.corruption(obs, g := gains.draw(obs, 5, amplitude=0.5), "scan").diagonal.numpy()
    np.testing.assert_allclose(factor, g[scans(obs), obs.a] * g[scans(obs), obs.b].conj(), rtol=1e-6)
    exact = g[scans(obs), obs.a] * g[scans(obs), obs.b].conj()
    before, after = set_.values(obs.vis), set_.values(obs.vis * exact)
    gap = np.angle(np.exp(1j * (after - before))) if kind == "phase" else after - before
    assert np.abs(gap).max() < 1e-11
    rng = np.random.default_rng(0)  # an error of a baseline is no gain
    bad = set_.values(obs.vis * np.exp(0.1 * (rng.normal(size=len(obs)) + 1j * rng.normal(size=len(obs)))))
    assert np.abs(bad - before).max() > 0.05


def test_translation_leaves_closures_and_turns_by_180_degrees_flip_phases_only():
    obs = crescent(noise=1e-9)
    phases, amplitudes = (closures(obs, kind, "all") for kind in ("phase", "amplitude"))
    moved = obs.vis * np.exp(2j * np.pi * (obs.u * 7 + obs.v * -3) * MICRO_ARCSECOND)
    np.testing.assert_allclose(np.exp(1j * phases.values(moved)), np.exp(1j * phases.values(obs.vis)), atol=1e-9)
    turned = obs.vis.conj()
    np.testing.assert_allclose(amplitudes.values(turned), amplitudes.values(obs.vis), atol=1e-12)
    np.testing.assert_allclose(np.exp(1j * phases.values(turned)), np.exp(-1j * phases.values(obs.vis)), atol=1e-12)
    assert np.abs(phases.values(obs.vis)).max() > 0.5


@pytest.mark.parametrize("kind", ["phase", "amplitude"])
def test_covariance_against_monte_carlo(kind):
    obs = average(crescent(noise=1e-9), "none")
    obs = dc.replace(obs.rows(obs.time == obs.time[-1]), label="one scan")
    obs = dc.replace(obs, sigma=np.abs(obs.vis) / np.random.default_rng(1).uniform(15, 60, len(obs)))
    chosen = closures(obs, kind, "minimal")
    relative = obs.sigma / np.abs(obs.vis)
    (c,) = chosen.covariance(relative)
    truth = chosen.values(obs.vis)
    draws = np.array([chosen.values(noisy(obs, seed).vis) for seed in range(4000)]) - truth
    draws = np.angle(np.exp(1j * draws)) if kind == "phase" else draws
    scale = np.sqrt(np.diag(c))
    correlation, measured = c / scale[:, None] / scale, np.cov(draws.T) / scale[:, None] / scale
    assert np.abs(correlation - np.eye(len(c))).max() > 0.2  # there is something to get wrong
    np.testing.assert_allclose(measured, correlation, atol=0.09)
    np.testing.assert_allclose(np.sqrt(np.diag(c)), chosen.sigma(relative))
    (w,) = whitening([c])
    np.testing.assert_allclose(w @ c @ w.T, np.eye(len(c)), atol=1e-9)
    assert (draws @ w.T).std() == pytest.approx(1.0, abs=0.02)
    (d,) = whitening([c], full=False)
    np.testing.assert_allclose(d, np.diag(1 / scale))


def test_all_closures_say_no_more_than_a_minimal_set():
    obs = complete(6)
    relative = obs.sigma / np.abs(obs.vis)
    rng = np.random.default_rng(2)
    errors = relative * rng.normal(size=len(obs))
    for kind in ("phase", "amplitude"):
        chi2 = []
        for count in ("minimal", "all"):
            chosen = closures(obs, kind, count)
            (w,) = whitening(chosen.covariance(relative))
            chi2.append(((w @ chosen.combine(errors)) ** 2).sum())
        assert chi2[0] == pytest.approx(chi2[1], rel=1e-6)


def test_bias_of_the_log_amplitude_is_what_the_products_module_says():
    from scipy.special import exp1

    s, rng = 2.0, np.random.default_rng(3)
    draws = np.log(np.abs(s + rng.normal(size=10**6) + 1j * rng.normal(size=10**6)))
    assert draws.mean() - np.log(s) == pytest.approx(0.5 * exp1(s * s / 2), abs=2e-3)
    assert 0.5 * exp1(4.5) == pytest.approx(0.001, abs=1e-4)
