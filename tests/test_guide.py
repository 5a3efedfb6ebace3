"""Moment matching for nonlinear data: exact where it should be, batch-independent, and a start for split Gibbs."""

import pytest
import torch
from known import Ring
from support import gaussian_problem
from test_row_mcmc import Split

from sciinv.certify.stream import OneStream
from sciinv.errors import MismatchError, UsageError
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.prior import Counted
from sciinv.priors.gaussian import GaussianPrior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import State, sample
from sciinv.samplers.exact import guide
from sciinv.samplers.exact.pnpdm import PnPDM, chi2_limit
from sciinv.testing import mean_cov_error, moments

N = 1500
F64 = torch.float64


def split_problem() -> tuple[Problem, GaussianPrior, tuple[torch.Tensor, torch.Tensor]]:
    """The dense Gaussian problem behind a g that is the identity, its prior, and the exact posterior."""
    problem, prior = gaussian_problem()
    prior.sigma_min, prior.sigma_max = 0.005, 20.0
    a = problem.linear.as_matrix()
    hidden = Problem(problem.y, Split(Dense(a, (1, 6)), lambda s: s, 3), problem.noise)
    return hidden, prior, prior.posterior(problem.operator, problem.y, problem.noise.sigma)[:2]


def test_errors_of_a_gaussian_prior_are_its_posterior_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "DRAWS", 20000)
    problem, prior, _ = split_problem()
    counted = Counted(prior)
    basis = problem.reduced.basis
    eye = torch.eye(6, dtype=F64)
    zero, shifted = prior.denoise(torch.zeros(1, 1, 6, dtype=F64), torch.tensor(0.5, dtype=F64)), None
    shifted = prior.denoise(eye[:, None], torch.tensor(0.5, dtype=F64)) - zero
    # Tweedie: the covariance of x_0 given x_t is t^2 dD/dx
    exact = 0.25 * basis @ shifted[:, 0] @ basis.T
    k = guide.denoising_errors(counted, problem.reduced).at(0.5)[0]
    assert float((k @ k.T - exact).norm() / exact.norm()) < 0.1
    assert guide.denoising_errors(counted, problem.reduced) is guide.denoising_errors(counted, problem.reduced)


def test_the_guess_is_the_density_of_the_data_and_the_mean_that_of_the_posterior() -> None:
    problem, prior, _ = split_problem()
    t = 0.7
    x = Rng(0, [0, 1]).normal((1, 6), F64)
    counted = Counted(prior)
    d, pull = counted.denoise_vjp(x, t)
    a = problem.operator.inner.as_matrix()
    cov = torch.stack([t * t * pull(e.expand(2, 1, 6))[0, 0] for e in torch.eye(6, dtype=F64)])
    basis = problem.reduced.basis
    factor = torch.linalg.cholesky(basis @ cov @ basis.T)
    found = guide.guess(problem, d, factor)
    s = a @ cov @ a.T + problem.noise.sigma**2 * torch.eye(3, dtype=F64)
    r = problem.y - d[:, 0] @ a.T
    density = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), s).log_prob(r)
    assert float(found.value[0] - found.value[1]) == pytest.approx(float(density[0] - density[1]), rel=1e-4)
    regression = torch.linalg.solve(basis @ cov @ basis.T, basis @ cov @ (torch.eye(6, dtype=F64) - basis.T @ basis))
    errors = guide.Errors([t], (basis @ cov @ basis.T / t**2)[None], regression[None])
    problem.reduced.measured[prior] = errors
    mean, again, plain = guide.matched_mean(problem, counted, x, t)
    expected = d[:, 0] + r @ torch.linalg.inv(s) @ a @ cov
    assert torch.allclose(mean[:, 0], expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(plain, d) and torch.allclose(again.value, found.value)


def test_the_start_is_near_the_posterior_of_a_gaussian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "DRAWS", 5000)
    monkeypatch.setattr(guide, "LEVELS", 16)
    problem, prior, truth = split_problem()
    sampler = PnPDM(rho_min=0.05, anneal=24, stationary=4, log_step=0.25)
    out = sample(sampler, problem, prior, N, seed=0, rng_factory=OneStream)
    mean, cov = mean_cov_error(*moments(out.x), *truth)
    assert mean < 0.1 and cov < 0.15, (mean, cov)
    blind = sample(PnPDM(start="noise", rho_max=2.0, rho_min=0.05, anneal=24, log_step=0.25), problem, prior, N, seed=0,
                   rng_factory=OneStream)  # fmt: skip
    assert mean_cov_error(*moments(blind.x), *truth)[0] > 2 * mean


@pytest.mark.parametrize("fields", [{}, {"tries": 2, "settle": 2, "rho_max": 0.2}], ids=str)
def test_samples_do_not_depend_on_their_batch(fields: dict) -> None:
    problem, prior, _ = split_problem()
    sampler = PnPDM(rho_min=0.05, anneal=6, stationary=2, **fields)
    whole, parts = (sample(sampler, problem, prior, 4, seed=3, chunk=c).x for c in (4, 2))
    assert torch.allclose(whole, parts, atol=1e-5)


def test_of_two_starts_one_is_kept_with_the_odds_of_the_data() -> None:
    problem, prior, _ = split_problem()
    sampler, n = PnPDM(tries=2, settle=2, rho_max=0.4), 4000
    here = torch.linalg.lstsq(problem.operator.inner.as_matrix(), problem.y).solution.expand(n, 1, 6)
    there = here + 0.35
    rng, counted = OneStream(0, range(n)), Counted(prior)
    x, aux = here, {}
    for k, start in enumerate((here, there)):
        chain = {"z": start, "log_step": torch.full((n,), float(k)), "tuned": torch.zeros(n), "sweeps": torch.ones(n)}
        x, aux = sampler._judge(problem, counted, start, 0.4, 20.0 if k == 0 else 0.3, {**aux, **chain}, rng)
        if k == 0:
            assert float((x / prior.sigma_max).std()) == pytest.approx(1, abs=0.02)  # the next start
    a, width = problem.operator.inner.as_matrix(), 0.4**2
    law = torch.distributions.MultivariateNormal(
        problem.y, width * a @ a.T + problem.noise.sigma**2 * torch.eye(3, dtype=F64)
    )
    odds = float((law.log_prob(a @ there[0, 0]) - law.log_prob(a @ here[0, 0])).exp())
    second = (x == there).flatten(1).all(1)
    assert bool((second | (x == here).flatten(1).all(1)).all()) and 0.05 < odds < 0.9
    assert float(second.double().mean()) == pytest.approx(odds / (1 + odds), abs=0.03)
    assert torch.equal(aux["log_step"], second.float()) and torch.equal(aux["z"], x)
    assert set(aux) == {"z", "log_step", "tuned", "sweeps"}


def test_several_starts_reach_the_same_posterior(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "DRAWS", 3000)
    problem, prior, truth = split_problem()
    sampler = PnPDM(rho_max=0.4, rho_min=0.05, anneal=12, settle=10, stationary=4, tries=3, log_step=0.25)
    out = sample(sampler, problem, prior, N, seed=0, rng_factory=OneStream)
    mean, cov = mean_cov_error(*moments(out.x), *truth)
    assert mean < 0.15 and cov < 0.15, (mean, cov)
    assert "rhat_max" in out.provenance  # the sweeps at the end are found behind those of three starts
    with pytest.raises(UsageError, match="tries"):
        PnPDM(tries=2)
    with pytest.raises(MismatchError, match="tries=1"):
        sample(sampler, gaussian_problem()[0], prior, 2, seed=0)


def test_a_problem_that_does_not_split_is_refused() -> None:
    with pytest.raises(MismatchError, match="start=noise"):
        sample(
            PnPDM(),
            Problem(torch.tensor([1.5]), Ring(), Gaussian(0.4)),
            GaussianPrior(torch.zeros(1, 2), torch.eye(2)),
            2,
            0,
        )


def test_settling_sweeps_take_over_where_moment_matching_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guide, "DRAWS", 5000)
    monkeypatch.setattr(guide, "LEVELS", 16)
    problem, prior, truth = split_problem()
    sampler = PnPDM(rho_max=0.2, rho_min=0.05, anneal=20, settle=16, stationary=4, log_step=0.25, inner=2)
    levels = sampler.grid(Counted(prior))
    assert levels[0] == pytest.approx(20.0) and list(levels) == sorted(levels, reverse=True)
    assert len(levels) == 20 + 16 + 4 + 1 and levels[20] == pytest.approx(0.2)
    out = sample(sampler, problem, prior, N, seed=0, rng_factory=OneStream)
    mean, cov = mean_cov_error(*moments(out.x), *truth)
    assert mean < 0.15 and cov < 0.15, (mean, cov)
    with pytest.raises(UsageError, match="no room"):
        sample(PnPDM(rho_max=30.0, settle=2), problem, prior, 2, seed=0)


@pytest.mark.parametrize("returns", ["x", "z", "seen"])
def test_what_is_returned_has_their_law_at_a_fixed_width(returns: str) -> None:
    """x: the data's noise inflated; z: the true noise and the prior blurred; seen: blurred in the row space alone."""
    rho = 0.6
    hidden, prior, _ = split_problem()
    a, sigma = hidden.operator.inner.as_matrix(), hidden.noise.sigma
    mean, cov = prior.mean.flatten(), (prior.basis * prior.variances) @ prior.basis.T
    inflated = sigma**2 * torch.eye(3, dtype=F64) + (rho**2 * a @ a.T if returns == "x" else 0)
    basis = hidden.reduced.basis.to(F64)
    blurred = {"x": torch.zeros(6, 6, dtype=F64), "z": torch.eye(6, dtype=F64), "seen": basis.T @ basis}
    wide = cov + rho**2 * blurred[returns]
    gain = wide @ a.T @ torch.linalg.inv(a @ wide @ a.T + inflated)
    expected = mean + gain @ (hidden.y - a @ mean), wide - gain @ a @ wide
    sampler = PnPDM(start="noise", rho_max=rho, rho_min=rho, anneal=1, stationary=25, log_step=0.1, returns=returns)
    out = sample(sampler, hidden, prior, N, seed=0, rng_factory=OneStream)
    errors = mean_cov_error(*moments(out.x), *expected)
    assert errors[0] < 0.1 and errors[1] < 0.12, errors


def test_chains_that_the_data_refute_lose_their_weight() -> None:
    hidden, prior, _ = split_problem()
    limit = chi2_limit(3, 1e-3)
    assert limit == pytest.approx(16.27, rel=0.02) and chi2_limit(344, 1e-3) == pytest.approx(430.8, rel=1e-3)
    sampler = PnPDM(refute=1e-3)
    good = torch.linalg.lstsq(hidden.operator.inner.as_matrix(), hidden.y).solution
    x = torch.stack([good, good + 0.1, good + 2.0])[:, None]
    state = State(x)
    assert torch.equal(sampler.finish(hidden, Counted(prior), state, Rng(0, [0, 1, 2])), x)
    excess = (hidden.chi2(x) - limit).clamp_min(0)
    gap, rank = torch.tensor([0.0, 0.0, 9.0], dtype=F64), hidden.reduced.rank  # in widths, along one coordinate
    z = x + sampler.rho_min * hidden.reduced.states(gap[:, None] * torch.eye(rank, dtype=F64)[0]).to(F64)
    joint = State(z, aux={"z": x})
    sampler.finish(hidden, Counted(prior), joint, Rng(0, [0, 1, 2]))
    both = (hidden.chi2(x) + gap**2 - chi2_limit(3 + rank, 1e-3)).clamp_min(0)
    assert torch.allclose(joint.log_w, -0.5 * both, rtol=1e-4)
    assert torch.allclose(state.log_w, -0.5 * excess) and state.log_w[0] == 0 > state.log_w[2]
    with pytest.raises(UsageError, match="impossible"):
        PnPDM(refute=1e-3, correct=True)
