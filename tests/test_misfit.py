"""The mismatch tests: false alarms as rare as they say, where truth and prior agree; alarms where they do not."""

from __future__ import annotations

import pytest
import torch

from sciinv.diagnostics.misfit import LEVEL, combined, fit_p, improbability, prior_draws, rank_p, smallest
from sciinv.priors.gaussian import GaussianPrior

D, N, SAMPLES, TRIALS = 12, 30, 16, 400
GENERATOR = torch.Generator().manual_seed(5)
A = torch.randn(N, D, dtype=torch.float64, generator=GENERATOR)
SCALES = torch.logspace(0, -2, D, dtype=torch.float64)  # the prior is wide in some directions and narrow in others


def trials(wider: float, noise: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact posterior samples of many data sets, ``(trial, sample, D)``, and their chi-squared; A is of rank D.

    The truth comes from the prior with its narrow directions made `wider` times wider.
    """
    g = torch.Generator().manual_seed(int(wider))
    spread = torch.where(SCALES < 0.05, wider * SCALES, SCALES)
    x = spread * torch.randn(TRIALS, D, dtype=torch.float64, generator=g)
    y = x @ A.T + noise * torch.randn(TRIALS, N, dtype=torch.float64, generator=g)
    precision = A.T @ A / noise**2 + torch.diag(SCALES**-2)
    root = torch.linalg.cholesky(precision.inverse())
    mean = y @ A @ precision.inverse() / noise**2
    samples = mean[:, None] + torch.randn(TRIALS, SAMPLES, D, dtype=torch.float64, generator=g) @ root.T
    return samples, (y[:, None] - samples @ A.T).square().sum(-1) / noise**2


def rate(p: list[float]) -> float:
    return sum(value < LEVEL for value in p) / len(p)


def test_the_data_fit_alarms_as_rarely_as_it_says() -> None:
    _, chi2 = trials(1.0)
    # the law itself: of one exact sample, chi-squared has that of the data
    assert float(chi2[:, 0].mean()) == pytest.approx(N, abs=4 * (2 * N / TRIALS) ** 0.5)
    assert rate([fit_p(c, N) for c in chi2]) <= LEVEL
    assert rate([fit_p(c[:1], N) for c in chi2]) <= LEVEL
    assert rate([fit_p(3 * c, N) for c in chi2]) > 0.9  # noise taken too small


def test_what_the_prior_cannot_make_is_an_alarm() -> None:
    _, chi2 = trials(200.0)
    assert rate([fit_p(c, N) for c in chi2]) > 0.9


def prior() -> GaussianPrior:
    return GaussianPrior(torch.zeros(1, D), torch.diag(SCALES.square()))


def test_improbable_samples_are_ranked_among_draws_of_the_prior() -> None:
    p = prior()  # data so strong that samples follow them wherever they lead
    reference = SCALES * torch.randn(127, D, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    levels = [0.01, 0.1, 1.0]
    scores = improbability(p, reference[:, None].float(), levels)
    found = {}
    for wider in (1.0, 20.0):
        samples, chi2 = trials(wider, noise=1e-3)
        assert rate([fit_p(c, N) for c in chi2]) <= LEVEL
        flat = improbability(p, samples[:150].reshape(-1, 1, D).float(), levels, batch=10_000)
        found[wider] = rate([rank_p(t, scores) for t in flat.view(150, SAMPLES)])
    assert found[1.0] <= LEVEL and found[20.0] > 0.8


def test_draws_of_the_prior_have_its_law_whatever_the_batch() -> None:
    p = prior()
    p.sigma_max, p.sigma_min = 20.0, 1e-3
    x = prior_draws(p, 400, seed=3, batch=400)[:, 0]
    assert torch.allclose(x.std(0), SCALES.float(), rtol=0.2)
    assert torch.allclose(prior_draws(p, 6, seed=3, batch=4)[:, 0], x[:6], atol=1e-5)


def test_p_values_combine_as_they_must() -> None:
    assert combined(torch.tensor([0.01, 0.03])) == pytest.approx(0.04) and combined(torch.ones(3)) == 1.0
    assert smallest({"a": 0.01, "b": 0.5}) == ("a", 0.02)
    # the largest of 9 draws: nothing lies above it
    assert rank_p(torch.tensor([5.0]), torch.arange(-4.0, 5.0)) == pytest.approx(0.2)
