"""SBC and TARP pass for exact posteriors and catch every injected fault; each statistic against its closed form."""

import pytest
import torch
from scipy import stats

from sciinv.certify import calibration, references
from sciinv.certify.models import LinearMixture
from sciinv.certify.posteriors import calibrate_sampler
from sciinv.certify.settings import budgets
from sciinv.rng import Rng
from sciinv.samplers import DPS, MMPS, PnPDM
from sciinv.samplers.base import Sampler, State

F64 = torch.float64
MODELS = {
    "gaussian": references.gaussian_dense,
    "overlap": lambda: references.mixture(8, 2, 0, spacing=2.0),
    "mixture": lambda: references.mixture(8, 1, 2),
}


def model(name: str) -> LinearMixture:
    ref = MODELS[name]()
    return LinearMixture.of(ref.prior, ref.problem.operator, ref.problem.noise.sigma)


@pytest.mark.parametrize("name", MODELS)
def test_exact_posterior_passes_and_every_fault_is_caught_by_both_tests(name: str) -> None:
    """1,000 simulations of 63 draws."""
    joint = model(name)
    good = calibration.calibrate(joint, joint.draw)
    assert good.sbc_passes and good.tarp_passes and good.tarp_limit == pytest.approx(0.043, abs=1e-3)
    for fault in calibration.FAULTS:
        bad = calibration.calibrate(joint, calibration.faulty(joint, joint.draw, fault))
        assert not bad.sbc_passes and not bad.tarp_passes, (fault, bad)


def test_with_a_fifth_of_the_simulations_one_of_the_two_still_catches_each_fault() -> None:
    joint = model("gaussian")
    assert calibration.calibrate(joint, joint.draw, 200, 63, seed=3).sbc_passes
    for fault in calibration.FAULTS:
        broken = calibration.faulty(joint, joint.draw, fault)
        bad = calibration.calibrate(joint, broken, 200, 63, seed=3)
        assert not (bad.sbc_passes and bad.tarp_passes), fault


def test_one_by_one_is_the_vectorised_form() -> None:
    joint = model("overlap")
    _, y = joint.simulate(200, 0)
    alone = calibration.one_by_one(lambda row, n, k: joint.draw(row[None], n, seed=k)[0])
    assert alone(y[:5], 7).shape == (5, 7, 8)
    assert calibration.calibrate(joint, alone, 200, 31).sbc_passes


def test_prior_draws_pass_sbc_of_the_coordinates_alone() -> None:
    """Why the log-likelihood is among the summaries: without it this fault is invisible."""
    joint = model("gaussian")
    theta, y = joint.simulate(1000, 0)
    x = calibration.faulty(joint, joint.draw, "prior")(y, 63)
    assert float(calibration.rank_uniformity(calibration.ranks(theta, x), 63).min()) * 6 > 0.01


def test_rank_test_is_the_chi_squared_test() -> None:
    rank = Rng(0, [0]).uniform((500, 2), F64)[0].mul(64).long()
    rank[:, 1] = rank[:, 1] // 2 + 10
    found = calibration.rank_uniformity(rank, 63)
    for k in range(2):
        count = torch.bincount(rank[:, k] // 4, minlength=16)
        assert float(found[k]) == pytest.approx(stats.chisquare(count.numpy()).pvalue, abs=1e-9)
    assert float(found[0]) > 0.01 > float(found[1])


def test_coverage_gap_of_known_ranks() -> None:
    assert calibration.coverage_gap(torch.arange(64), 63) == pytest.approx(0, abs=1e-12)
    assert calibration.coverage_gap(torch.zeros(50, dtype=torch.long), 63) == pytest.approx(63 / 64)
    half = torch.cat([torch.arange(32), torch.arange(32)])
    assert calibration.coverage_gap(half, 63) == pytest.approx(0.5)


def test_false_alarms_are_as_rare_as_stated() -> None:
    """Exchangeable ranks, 400 runs: TARP rejects at most 5 %, SBC's chi-squared 1 %."""
    rank = Rng(1, [0]).uniform((1000, 400), F64)[0].mul(64).long()
    limit = 1.36 / 1000**0.5
    assert sum(calibration.coverage_gap(rank[:, k], 63) > limit for k in range(400)) <= 30
    assert int((calibration.rank_uniformity(rank, 63) < 0.01).sum()) <= 12


def test_a_good_sampler_passes_and_a_biased_one_does_not() -> None:
    ref = references.gaussian_dense()
    assert calibrate_sampler(MMPS(steps=100, cg_iterations=4), ref, 200, 31).sbc_passes
    bad = calibrate_sampler(DPS(steps=60), ref, 200, 31)
    # its coordinates look right on average over data: it fits the noise, which the log-likelihood alone sees
    assert not bad.sbc_passes and bad.sbc_p[-1] < 1e-6


class Weighted(Sampler):
    """A population: prior draws weighted by the likelihood; right at any data when there are enough of them."""

    name, paper, claims = "weighted", "", ""
    population = True
    keep = True

    def grid(self, prior):
        return [1.0, 0.0]

    def init(self, problem, prior, rng, like):
        return State(prior.prior.draw(rng)) if hasattr(rng, "index") else State(like)

    def step(self, problem, prior, state, t, s, rng):
        log_w = problem.log_likelihood(state.x) if self.keep else state.x.new_zeros(len(state.x))
        return State(state.x, log_w - log_w.logsumexp(0)), {}


class Unweighted(Weighted):
    keep = False


def test_a_population_is_resampled_by_its_weights() -> None:
    ref = references.gaussian_dense(sigma=2.0)
    assert calibrate_sampler(Weighted(), ref, 100, 15).sbc_passes
    assert not calibrate_sampler(Unweighted(), ref, 100, 15).sbc_passes


def test_budgets_grow_by_what_a_method_calls_its_work() -> None:
    ref, high = references.mixture(8, 2, 0), references.mixture(800, 1, 0)
    assert [b.sampler.steps for b in budgets(MMPS, ref, True)] == [25, 100]
    assert [b.n for b in budgets(Weighted, ref, False)] == [256, 1024, 4096]
    assert [b.n for b in budgets(Weighted, high, False)] == [256, 1024]
    few, many = budgets(PnPDM, ref, True)
    assert many.sampler.anneal == PnPDM().anneal and few.sampler.stationary < many.sampler.stationary
    # the shipped widths are for images of standard deviation 0.25; this prior's is 11, and 1 within a mode
    assert many.sampler.rho_max == pytest.approx(PnPDM().rho_max * ref.scale / 0.25) and ref.scale > 10
    assert many.sampler.rho_min == pytest.approx(PnPDM().rho_min / 0.25)
