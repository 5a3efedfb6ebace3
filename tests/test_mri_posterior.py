"""Multi-coil posterior maps against the closed form: random-field prior, 32 x 32, 1-D and 2-D masks."""

import math

import pytest
import torch
from sciinv_mri.decoupled import DecoupledSense
from sciinv_mri.sense import Sense
from sciinv_mri.simulate import loop_maps

from sciinv.noise import Gaussian
from sciinv.priors.gaussian import GaussianLaw
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import PnPDM, sample

SIZE, SIGMA, CHAINS = 32, 0.1, 64


@pytest.fixture(scope="module")
def maps() -> torch.Tensor:
    return torch.from_numpy(loop_maps(4, (SIZE, SIZE), [0.0], (220.0, 220.0), 0)[0])


def errors(x: torch.Tensor, law: GaussianLaw) -> tuple[float, float]:
    """RMS errors of the mean and std maps of states ``x`` over what as many exact draws would show (the floor)."""
    x, n = x.flatten(1).double(), len(x)
    std = law.cov.diagonal().clamp_min(0).sqrt()
    rms = std.square().mean().sqrt()
    mean_error = (x.mean(0) - law.mean).square().mean().sqrt() / (rms / math.sqrt(n))
    return float(mean_error), float((x.std(0) - std).square().mean().sqrt() / (rms / math.sqrt(2 * (n - 1))))


@pytest.mark.parametrize("lines", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_maps_are_within_twice_the_sampling_floor(maps: torch.Tensor, lines: bool) -> None:
    prior = RandomFieldPrior((SIZE, SIZE), channels=2)
    prior.sigma_min = 0.01
    keep = torch.rand(1 if lines else SIZE, SIZE, generator=torch.Generator().manual_seed(2)) < 0.3
    keep[..., SIZE // 2 - 2 : SIZE // 2 + 2] = True
    operator = DecoupledSense(maps, keep.float()) if lines else Sense(maps, keep.float())
    y = operator(prior.to_physical(prior.draw(Rng(7, [0]))))
    y = (y + SIGMA * Rng(8, [0]).normal_like(y) * keep)[0]
    problem = Problem(y, operator, Gaussian(SIGMA))
    law = prior.posterior(problem.operator, problem.y, SIGMA)
    sampler = PnPDM(start="noise", rho_max=10.0, rho_min=0.05, anneal=24, stationary=16, log_step=0.25)
    drawn = prior.to_physical.adjoint(sample(sampler, problem, prior, CHAINS, seed=0).x)
    mean, std = errors(drawn, law)
    assert mean < 2 and std < 2, (mean, std)
    # negative controls: the prior, a shifted posterior, a spread 0.8 times too small
    assert min(errors(prior.draw(Rng(1, range(CHAINS))), law)) > 2
    spread = law.cov.diagonal().sqrt().view_as(drawn[0])
    assert errors(drawn + 0.3 * spread, law)[0] > 2
    assert errors(drawn.mean(0) + 0.8 * (drawn - drawn.mean(0)), law)[1] > 2
