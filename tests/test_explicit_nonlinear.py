"""Nonlinear data: each gradient method fits the moduli of an oversampled Fourier transform to their noise."""

import pytest
import torch

from sciinv.generic.phase_retrieval import PhaseRetrieval
from sciinv.noise import Gaussian
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem
from sciinv.rng import Rng
from sciinv.samplers import METHODS, sample


def moduli(power: int) -> tuple[Problem, RandomFieldPrior, torch.Tensor]:
    prior = RandomFieldPrior((8, 8), mean=1.0, std=0.3)
    prior.sigma_max = 20.0
    truth = prior.draw(Rng(7, [0]))
    operator = PhaseRetrieval((1, 8, 8), power=power, dtype=torch.float32)
    y = operator(truth)[0] + 0.05 * Rng(8, [0]).normal(operator.codomain.shape)[0]
    return Problem(y, operator, Gaussian(0.05)), prior, truth


@pytest.mark.parametrize("name", ["dps", "dsg", "lgd", "mpgd"])
def test_amplitudes_are_fitted_to_their_noise(name: str) -> None:
    problem, prior, truth = moduli(power=1)
    per_datum = lambda x: problem.chi2(x) / problem.n_data  # noqa: E731
    assert per_datum(prior.draw(Rng(9, range(32)))).median() > 5
    out = sample(METHODS[name](steps=100), problem, prior, 8, seed=0)
    # 0.65 to 0.73 measured for the four, 0.84 for the truth: they over-fit a little
    assert 0.5 < per_datum(out.x).median() < 1.0
    wrong = (truth - 1).flatten(1).norm()
    assert (out.x - truth).flatten(1).norm(dim=1).median() < wrong  # 0.73 to 0.83 of it
    alone = sample(METHODS[name](steps=20), problem, prior, 3, seed=0, chunk=1).x
    assert torch.allclose(alone, sample(METHODS[name](steps=20), problem, prior, 3, seed=0).x, atol=1e-3)


@pytest.mark.parametrize(("name", "fits"), [("dsg", True), ("mpgd", True), ("dps", False), ("lgd", False)])
def test_intensities_need_a_step_that_sets_its_own_length(name: str, fits: bool) -> None:
    """Intensities curve: the fixed step length of dps and lgd misses by 5 noise variances a datum (prior: 120)."""
    problem, prior, _ = moduli(power=2)
    misfit = problem.chi2(sample(METHODS[name](steps=100), problem, prior, 16, seed=0).x) / problem.n_data
    assert (misfit.median() < 1) == fits
    assert misfit.median() < 40
