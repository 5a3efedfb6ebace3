"""The SMC core and split-Gibbs SMC: resampling counts, evidence, islands, law against closed forms."""

import math

import pytest
import torch
from support import Plain, gaussian_problem

from sciinv.certify.metrics import wasserstein_error, wasserstein_floor
from sciinv.certify.references import ring
from sciinv.certify.stream import OneStream
from sciinv.errors import UsageError
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.priors.mixture import grid_mixture
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import METHODS, sample
from sciinv.samplers.smc import ess, furthest, systematic

SGSSMC = METHODS["sgs_smc"]
F64 = torch.float64


def draw(sampler, problem, prior, n: int, seed: int):
    """`sample` with one generator for all particles: the same law, and much quicker for many small ones."""
    return sample(sampler, problem, prior, n, seed, rng_factory=OneStream)


def test_effective_sample_size_of_known_weights() -> None:
    w = torch.tensor([[0.25, 0.25, 0.25, 0.25], [1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0]], dtype=F64)
    assert torch.allclose(ess(w.log() + 3.0), torch.tensor([4.0, 1.0, 2.0], dtype=F64))


def test_systematic_resampling_copies_each_particle_its_share() -> None:
    g = torch.Generator().manual_seed(0)
    log_w = torch.randn(3, 50, generator=g, dtype=F64) * 2
    share = 50 * log_w.softmax(1)
    total = torch.zeros(3, 50, dtype=F64)
    for u in torch.linspace(0, 1, 401, dtype=F64)[:-1]:
        count = torch.zeros(3, 50, dtype=F64)
        count.scatter_add_(1, systematic(log_w, u.expand(3)), torch.ones(3, 50, dtype=F64))
        assert bool((count >= share.floor() - 1e-9).all()) and bool((count <= share.ceil() + 1e-9).all())
        total += count / 400
    assert torch.allclose(total, share, atol=0.02)  # on average exactly n w
    dead = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]], dtype=F64)
    for u in (0.0, 0.5, 1 - 1e-12):
        assert set(systematic(dead, torch.tensor([u], dtype=F64)).flatten().tolist()) <= {0, 2}


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_particle_that_weighs_nothing_does_not_decide_the_step(bad: float) -> None:
    """What `reweigh` will not count must not be counted when the step is chosen."""
    sampler, rng = SGSSMC(), Rng(0, range(10))
    state = sampler.start(torch.zeros(10, 1, dtype=F64))
    ratio = torch.zeros(10, dtype=F64)
    ratio[3] = bad
    assert bool(sampler.keeps(state, ratio, 0.89)) and not bool(sampler.keeps(state, ratio, 0.91))
    assert float(sampler.reweigh(state, ratio, rng)[1]["ess"][0]) == pytest.approx(9)
    # the smallest island decides
    split = SGSSMC(islands=2)
    assert not bool(split.keeps(split.start(torch.zeros(10, 1, dtype=F64)), ratio, 0.89))


def test_bisection_finds_the_furthest_share() -> None:
    zero = torch.zeros((), dtype=F64)
    assert float(furthest(lambda share: share <= 0.3, zero, 30)) == pytest.approx(0.3, abs=1e-8)
    assert float(furthest(lambda share: share <= 1, zero, 4)) == 1
    assert float(furthest(lambda share: share < 0, zero, 4)) == 0


def toy(seed: int, m: int, d: int = 8, spacing: float = 8.0):
    """The 25-mode mixture behind m random projections."""
    g = torch.Generator().manual_seed(1000 + seed)
    prior = grid_mixture(d, seed, spacing, dtype=F64)
    prior.sigma_max, prior.sigma_min = 80.0, 0.01
    u, _, vh = torch.linalg.svd(torch.randn(m, d, generator=g, dtype=F64), full_matrices=False)
    s = torch.rand(m, generator=g, dtype=F64).sort(descending=True).values
    sigma = float(torch.rand((), generator=g, dtype=F64) * s.max())
    a = u @ torch.diag(s) @ vh
    y = a @ prior.draw(Rng(seed, [10**6]))[0].flatten() + sigma * torch.randn(m, generator=g, dtype=F64)
    return Problem(y, Dense(a, (1, d)), Gaussian(sigma)), prior


def weight_error(law, x: torch.Tensor, w: torch.Tensor) -> float:
    """Total variation of the mode weights, modes told apart by the nearest posterior mean."""
    found = torch.zeros(len(law.weights), dtype=F64)
    found.scatter_add_(0, torch.cdist(x.flatten(1).double(), law.means).argmin(1), w)
    return 0.5 * float((found - law.weights).abs().sum())


def test_isolated_modes_get_their_weights_and_more_particles_help() -> None:
    errors = {}
    for n in (64, 1024):
        runs = []
        for seed in range(4):
            problem, prior = toy(seed, 2)
            law = prior.posterior(problem.operator, problem.y, problem.noise.sigma)
            out = draw(SGSSMC(), problem, prior, n, seed)
            runs.append(weight_error(law, out.x, out.weights))
            assert out.provenance["network_calls"] <= 250
        errors[n] = sum(runs) / len(runs)
    assert errors[1024] < 0.06 and errors[1024] < 0.6 * errors[64], errors
    # negative control: without data the weights are the prior's
    problem, prior = toy(0, 2)
    blind = Problem(problem.y, problem.operator, Gaussian(1e3))
    out = draw(SGSSMC(), blind, prior, 1024, 0)
    law = prior.posterior(problem.operator, problem.y, problem.noise.sigma)
    assert weight_error(law, out.x, out.weights) > 0.3


def test_evidence_is_unbiased() -> None:
    ratios = []
    for seed in range(4):
        problem, prior = toy(seed, 2)
        truth = prior.posterior(problem.operator, problem.y, problem.noise.sigma).log_evidence
        out = draw(SGSSMC(log_step=0.2, islands=3), problem, prior, 3 * 256, seed)
        ratios.append((out.trace["log_z"][-1].view(3, 256)[:, 0] - truth).exp())
    t = torch.cat(ratios)
    assert abs(float(t.mean()) - 1) < 3 * float(t.std()) / math.sqrt(len(t)), ratios
    assert float(t.std()) < 0.5  # else the first line could not fail


def test_gaussian_posterior_and_evidence_with_islands() -> None:
    problem, prior = gaussian_problem()
    prior.sigma_max, prior.sigma_min = 20.0, 0.005
    law = prior.posterior(problem.operator, problem.y, problem.noise.sigma)
    out = draw(SGSSMC(islands=4, log_step=0.2), problem, prior, 1200, 0)
    x, w = out.x.flatten(1), out.weights
    mean = w @ x
    floor = law.cov.diagonal().sqrt() / math.sqrt(1200)
    assert bool(((mean - law.mean).abs() < 5 * floor).all())
    cov = (w[:, None] * (x - mean)).T @ (x - mean)
    assert float((cov - law.cov).norm() / law.cov.norm()) < 0.12
    assert out.provenance["log_evidence"] == pytest.approx(float(law.log_evidence), abs=0.2)
    assert out.provenance["log_evidence_spread"] < 0.3 and out.provenance["islands_pooled"] == "by evidence"


def test_chunks_bound_the_network_batch_only() -> None:
    problem, prior = toy(1, 2)
    sizes: list[int] = []
    real = prior.denoise
    prior.denoise = lambda x, sigma: (sizes.append(len(x)), real(x, sigma))[1]  # type: ignore[method-assign]
    whole = sample(SGSSMC(), problem, prior, 48, seed=3)
    sizes.clear()
    parts = sample(SGSSMC(), problem, prior, 48, seed=3, chunk=20)
    assert set(sizes) == {20, 8}
    assert torch.allclose(whole.x, parts.x) and torch.allclose(whole.weights, parts.weights)


def test_impossible_populations_are_refused() -> None:
    problem, prior = toy(1, 1)
    with pytest.raises(UsageError, match="islands"):
        SGSSMC(islands=0)
    with pytest.raises(UsageError, match="ess_target < resample_below"):  # weights would stall the ladder
        SGSSMC(resample_below=0.5)
    with pytest.raises(UsageError, match="multiple of 3"):
        sample(SGSSMC(islands=3), problem, prior, 8, 0)


def test_without_a_decomposition_the_quadratic_form_is_solved() -> None:
    problem, prior = gaussian_problem()
    prior.sigma_max, prior.sigma_min = 20.0, 0.005
    law = prior.posterior(problem.operator, problem.y, problem.noise.sigma)
    plain = Problem(problem.y, Plain(problem.operator), problem.noise, cg_tol=1e-9)
    out = draw(SGSSMC(ess_target=0.6), plain, prior, 400, 0)
    assert "log_evidence" not in out.provenance
    floor = law.cov.diagonal().sqrt() / math.sqrt(400)
    assert bool(((out.weights @ out.x.flatten(1) - law.mean).abs() < 6 * floor).all())
    # negative control: one jump from the prior to the posterior leaves few particles with weight
    assert float(draw(SGSSMC(rungs=1), plain, prior, 400, 0).weights.max()) > 0.01


def test_nonlinear_data_against_quadrature() -> None:
    reference = ring()
    out = draw(SGSSMC(rho_max=2.0), reference.problem, reference.prior, 800, 0)
    floor = wasserstein_floor(reference.draw, 800)
    assert wasserstein_error(out.x.flatten(1), out.weights, reference.draw) < 2 * floor
    assert out.provenance["log_evidence"] == pytest.approx(reference.log_evidence, abs=0.25)
    # negative control: without the weights of the first leg the particles are prior draws
    blind = Problem(reference.problem.y, reference.problem.operator, Gaussian(1e3))
    other = draw(SGSSMC(rho_max=2.0), blind, reference.prior, 800, 0)
    assert wasserstein_error(other.x.flatten(1), other.weights, reference.draw) > 2.5 * floor
