"""Published SMC methods against known posteriors: moments, error over the floor, evidence; and weights that matter."""

from __future__ import annotations

import pytest
import torch
from known import sliced_w1
from support import gaussian_problem

from sciinv import spectral
from sciinv.certify.stream import OneStream
from sciinv.errors import MismatchError, UsageError
from sciinv.generic.codec import ChannelsToComplex
from sciinv.generic.dense import Dense
from sciinv.generic.fourier import FourierMask
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.operator import Operator, Space
from sciinv.priors.mixture import MixturePrior, grid_mixture
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import METHODS, sample
from sciinv.samplers.exact.twisted import Twisted
from sciinv.samplers.smc import Population
from sciinv.samples import Samples

F64 = torch.float64
WEIGHTED = ["mcgdiff", "tds", "ddsmc"]


def run(name: str, problem: Problem, prior, n: int, seed: int, **settings) -> Samples:
    return sample(METHODS[name](**settings), problem, prior, n, seed, rng_factory=OneStream)


def gaussian(mask: bool = False):
    problem, prior = gaussian_problem()
    prior.sigma_min, prior.sigma_max = 0.01, 40.0
    if mask:
        op = Mask(torch.tensor([[True, False, True, True, False, False]])).double()
        problem = Problem(
            op(prior.draw(Rng(5, [0])))[0] + 0.3 * op(Rng(6, [0]).normal((1, 6), F64))[0], op, Gaussian(0.3)
        )
    return problem, prior, prior.posterior(problem.linear, problem.y, problem.noise.sigma)


def mixture(seed: int, m: int = 2, spacing: float = 8.0):
    """MCGDiff's toy: 25 modes in 8 dimensions, m data, random operator and noise level."""
    prior = grid_mixture(8, seed, spacing, F64)
    prior.sigma_min, prior.sigma_max = 0.01, 80.0
    rng = Rng(seed, [1])
    u, _, vh = torch.linalg.svd(rng.normal((m, 8), F64)[0], full_matrices=False)
    s = rng.uniform((m,), F64)[0].sort(descending=True).values
    op, sigma = Dense((u * s) @ vh, (1, 8)), float(rng.uniform((), F64)) * float(s[0])
    problem = Problem(op(prior.draw(Rng(seed, [2])))[0] + sigma * rng.normal((m,), F64)[0], op, Gaussian(sigma))
    return problem, prior, prior.posterior(op, problem.y, sigma)


def populations(name: str, problem, prior, n: int, runs: int, **settings) -> Samples:
    """``runs`` populations at once, as islands: they share nothing, and one batch is quicker."""
    islands = {"islands": runs} if METHODS[name].population else {}
    return run(name, problem, prior, n * runs, 0, **settings, **islands)


def moments(name: str, problem, prior, law, n: int = 256, runs: int = 6, **settings):
    """Bias of the mean in posterior standard deviations, and eigenvalues of the covariance over the exact one."""
    out = populations(name, problem, prior, n, runs, **settings)
    x, log_w = out.x.flatten(1), torch.zeros(n * runs, dtype=F64) if out.log_w is None else out.log_w
    w = log_w.view(runs, n).softmax(1).flatten() / runs
    second = (w[:, None] * (x - law.mean)).T @ (x - law.mean)
    whiten = torch.linalg.inv(torch.linalg.cholesky(law.cov))
    return float((whiten @ (w @ x - law.mean)).abs().max()), torch.linalg.eigvalsh(whiten @ second @ whiten.T)


def evidence(name: str, problem, prior, law, n: int, runs: int, **settings):
    """Mean of ``Z-hat / Z`` and its standard error."""
    out = populations(name, problem, prior, n, runs, **settings)
    z = (out.trace["log_z"][-1].view(runs, n)[:, 0] - law.log_evidence).exp()
    return float(z.mean()), float(z.std()) / runs**0.5


def errors_and_floors(name: str, n: int, seeds: int, m: int = 2, spacing: float = 8.0, **settings) -> torch.Tensor:
    """Sliced Wasserstein distance to exact draws, and that of two exact sets, for every problem; ``(seeds, 2)``."""
    found = []
    for seed in range(seeds):
        problem, prior, law = mixture(seed, m, spacing)
        out = run(name, problem, prior, n, seed, **settings)
        w = None if out.log_w is None else out.weights.to(F64)
        x = out.x if w is None else out.x[torch.searchsorted(w.cumsum(0), (torch.arange(n) + 0.5) / n).clamp_max(n - 1)]
        exact = law.draw(OneStream(77, range(n)))
        found.append((sliced_w1(x, exact), sliced_w1(law.draw(OneStream(78, range(n))), exact)))
    return torch.tensor(found, dtype=F64)


def over_floor(name: str, n: int, seeds: int, **settings) -> float:
    """Error over floor, both averaged over problems."""
    error, floor = errors_and_floors(name, n, seeds, **settings).mean(0).tolist()
    return error / floor


# --- data in spectral coordinates -------------------------------------------------------------------------------------

OPERATORS = {
    "wide": Dense(Rng(0, [0]).normal((3, 6), F64)[0], (1, 6)),
    "tall": Dense(Rng(0, [1]).normal((5, 3), F64)[0]),
    "k-space behind a codec": FourierMask(torch.rand(4, 5, generator=torch.Generator().manual_seed(1)) < 0.5)
    @ ChannelsToComplex((4, 5), 2.5),
    "k-space of real images, redundant": FourierMask(torch.ones(4, 5), real=True),
    "mask": Mask(torch.tensor([[True, False, True]])),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_observed_coordinates_give_the_likelihood(kind: str) -> None:
    op = OPERATORS[kind].double()
    dtype = torch.complex128 if op.codomain.dtype.is_complex else F64
    problem = Problem(Rng(0, [0]).normal(op.codomain.shape, dtype)[0], op, Gaussian(0.3))
    x = Rng(1, [0, 1, 2]).normal(op.domain.shape, F64)
    seen = problem.observed
    got = seen.constant + seen.log_normal(seen.o - seen.V.adjoint(x), seen.tau.square())
    assert torch.allclose(got, problem.log_likelihood(x), rtol=1e-6, atol=1e-6)


# --- law --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*WEIGHTED, "smcdiff"])
def test_gaussian_moments(name: str) -> None:
    bias, ratio = moments(name, *gaussian(mask=name == "smcdiff"), steps=50)
    assert bias < 0.25 and 0.7 < float(ratio[0]) and float(ratio[-1]) < 1.4


def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Population.reweigh
    monkeypatch.setattr(Population, "reweigh", lambda self, state, ratio, *a: real(self, state, 0 * ratio, *a))


def test_control_moments_need_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    # the others' proposals need next to none on a Gaussian: their controls are the mixture and the evidence
    no_weights(monkeypatch)
    bias, ratio = moments("mcgdiff", *gaussian(), runs=3, steps=50)
    assert bias > 0.25 or float(ratio[0]) < 0.7 or float(ratio[-1]) > 1.4


@pytest.mark.parametrize("name", WEIGHTED)
def test_mixture_is_near_the_floor(name: str) -> None:
    limit = {"mcgdiff": 4.0, "tds": 2.5, "ddsmc": 3.0}[name]
    assert over_floor(name, 256, 3, steps=60) < limit


def test_control_the_mixture_needs_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    no_weights(monkeypatch)
    assert min(over_floor(name, 256, 3, steps=60) for name in WEIGHTED) > 4.0


@pytest.mark.slow
@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("name", WEIGHTED)
def test_error_falls_with_particles(name: str, m: int) -> None:
    # medians: a run that lost a mode of one problem outweighs the others in a mean
    few, many = (errors_and_floors(name, n, 8, m).median(0).values for n in (256, 4096))
    assert float(many[0]) < 0.7 * float(few[0]) and float(many[0]) < 6 * float(many[1]), (few, many)


# --- evidence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mcgdiff", "tds"])
def test_evidence_of_a_gaussian(name: str) -> None:
    mean, error = evidence(name, *gaussian(), n=512 if name == "mcgdiff" else 128, runs=12, steps=50)
    assert abs(mean - 1) < 3 * error + 0.02 and error < 0.35


def test_evidence_of_a_mask_by_its_path() -> None:
    mean, error = evidence("smcdiff", *gaussian(mask=True), n=512, runs=12, steps=50)
    assert abs(mean - 1) < 3 * error + 0.02 and error < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", [*WEIGHTED, "smcdiff"])
def test_evidence_of_more_runs(name: str) -> None:
    mean, error = evidence(name, *gaussian(mask=name == "smcdiff"), n=1024, runs=100, steps=100)
    assert abs(mean - 1) < 3 * error + 0.02 and error < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mcgdiff", "tds"])
def test_evidence_of_the_mixture(name: str) -> None:
    mean, error = evidence(name, *mixture(1), n=512, runs=60)
    assert abs(mean - 1) < 3 * error + 0.02 and error < 0.2


def test_control_evidence_sees_a_lost_term(monkeypatch: pytest.MonkeyPatch) -> None:
    real = spectral.Observed.log_normal

    def at_pins(self, offset, variance, where=None):
        # leave out the determinants, as where only squared residuals are compared
        dropped = real(self, torch.zeros_like(offset), variance, where)
        return real(self, offset, variance, where) - 0.5 * dropped

    monkeypatch.setattr(spectral.Observed, "log_normal", at_pins)
    for name in ("mcgdiff", "smcdiff"):
        mean, error = evidence(name, *gaussian(mask=name == "smcdiff"), n=256, runs=8, steps=40)
        assert abs(mean - 1) > 3 * error + 0.02, name
    monkeypatch.undo()
    monkeypatch.setattr(METHODS["tds"], "propose", unweighted(METHODS["tds"].propose))
    mean, error = evidence("tds", *gaussian(), n=128, runs=8, steps=40)
    assert abs(mean - 1) > 3 * error + 0.02


def unweighted(propose):
    """A proposal whose density is forgotten."""

    def wrapped(self: Twisted, *args):
        x, gained = propose(self, *args)
        return x, 0 * gained

    return wrapped


# --- what is particular to a method -----------------------------------------------------------------------------------


def test_tds_takes_any_differentiable_operator() -> None:
    class Radius(Operator):
        def __init__(self) -> None:
            super().__init__(Space((1, 2)), Space((1,)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x.square().flatten(-2).sum(-1, keepdim=True) + 1e-12).sqrt()

    prior = MixturePrior(torch.ones(1, dtype=F64), torch.zeros(1, 1, 2, dtype=F64), 1.0, dtype=F64)
    prior.sigma_min, prior.sigma_max = 0.01, 20.0
    out = run("tds", Problem(torch.tensor([2.5], dtype=F64), Radius(), Gaussian(0.2)), prior, 512, 0)
    r = torch.linspace(0, 8, 4001, dtype=F64)  # |x| of two standard normals, and the normal likelihood
    density = r * (-0.5 * r**2 - 0.5 * ((2.5 - r) / 0.2) ** 2).exp() / (0.2 * (2 * torch.pi) ** 0.5)
    z = density.sum() * (r[1] - r[0])
    radius = out.x.flatten(1).norm(dim=1)
    assert abs(out.provenance["log_evidence"] - float(z.log())) < 0.15
    assert abs(float(out.weights.to(F64) @ radius) - float((r * density).sum() / density.sum())) < 0.04


def test_ddsmc_keeps_its_proposal_wide_enough() -> None:
    for eta in (0.0, 0.5, 1.0):
        sampler = METHODS["ddsmc"](eta=eta, share=50.0)
        for t, s in [(80.0, 10.0), (1.0, 0.01), (1.0, 0.99)]:
            a, rho2 = sampler.schedule(t, s, torch.tensor(t * t, dtype=F64))
            assert a * s * s - a * a * float(rho2) > 0
    problem, prior, _ = gaussian()
    assert bool(torch.isfinite(run("ddsmc", problem, prior, 32, 0, eta=0.0, share=50.0, steps=12).x).all())


def test_filtering_counts_the_noise_once_a_level() -> None:
    # what the filter misses: the more steps, the narrower in the directions that were measured
    problem, prior, law = gaussian()
    narrow = [float(moments("fps_smc", problem, prior, law, runs=4, steps=k)[1][0]) for k in (30, 120)]
    assert narrow[1] < narrow[0] < 0.35
    # what a fixed share of renewed noise loses: half of the variance, without data as with them
    assert float(moments("fps", problem, prior, law, runs=4, steps=120, c=0.95)[1][-1]) < 0.8
    assert "log_evidence" not in run("fps_smc", problem, prior, 16, 0, steps=5).provenance


def test_a_population_shares_its_path_and_islands_do_not() -> None:
    problem, prior, _ = gaussian(mask=True)
    for name in ("fps_smc", "smcdiff"):
        sampler = METHODS[name](steps=5, islands=2)
        like, rng = torch.zeros(8, 1, 6, dtype=F64), Rng(0, range(8))
        path = sampler.init(problem, prior, rng, like).aux["path"][:, 0, [0, 2, 3]]  # type: ignore[arg-type]
        assert bool((path[:4] == path[0]).all()) and bool((path[4:] == path[4]).all())
        assert bool((path[0] != path[4]).all())


def test_refusals() -> None:
    problem, prior, _ = gaussian()
    with pytest.raises(MismatchError, match="mask"):
        run("smcdiff", problem, prior, 4, 0)
    masked, prior, _ = gaussian(mask=True)
    prior.sigma_max = 0.2
    with pytest.raises(MismatchError, match="level of the data"):
        run("smcdiff", masked, prior, 4, 0)
    for name, bad in {"mcgdiff": {"steps": 1}, "tds": {"variance": 0.0}, "ddsmc": {"eta": 2.0}, "fps": {"c": 1.5},
                      "fps_smc": {"c": 0.0}, "smcdiff": {"order": 3}}.items():  # fmt: skip
        with pytest.raises(UsageError):
            METHODS[name](**bad)
