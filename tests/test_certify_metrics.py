"""Each metric of the certificate against a closed form, and a control that it can fail."""

import math

import pytest
import torch

from sciinv.certify import metrics
from sciinv.rng import Rng

F64 = torch.float64


def normal(n: int, d: int = 1, seed: int = 0) -> torch.Tensor:
    return Rng(seed, [0]).normal((n, d), F64)[0]


def test_wasserstein_of_a_shift_is_the_mean_projection_of_the_shift() -> None:
    x, shift = normal(300, 5), torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0], dtype=F64)
    mean_cosine = math.gamma(2.5) / (math.sqrt(math.pi) * math.gamma(3.0))  # E |u_1| on the sphere in 5 dimensions
    found = metrics.sliced_wasserstein(x, x + shift, slices=4000)
    assert found == pytest.approx(float(shift.norm()) * mean_cosine, rel=0.02)
    assert metrics.sliced_wasserstein(x, x) == 0


def test_wasserstein_of_two_widths_in_one_dimension() -> None:
    x, y = normal(40_000, seed=1), 2 * normal(40_000, seed=2)
    found = metrics.sliced_wasserstein(x, y, slices=2)  # in one dimension all directions are the same
    assert found == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)


def test_weights_count_as_repetitions_and_sizes_may_differ() -> None:
    x, y = normal(50, 3), normal(80, 3, seed=1)
    times = torch.arange(50) % 4
    repeated = metrics.sliced_wasserstein(x.repeat_interleave(times, 0), y)
    assert metrics.sliced_wasserstein(x, y, wx=times.to(F64)) == pytest.approx(repeated, rel=1e-12)
    assert metrics.sliced_wasserstein(y, x, wy=times.to(F64)) == pytest.approx(repeated, rel=1e-12)
    assert metrics.sliced_wasserstein(x, y) != pytest.approx(repeated, rel=1e-3)
    assert metrics.sliced_wasserstein(x, x.repeat(2, 1)) == pytest.approx(0, abs=1e-12)


def test_floor_is_the_known_error_of_empirical_distributions() -> None:
    """``E W1(F_n, G_n) = sqrt(2/n) sqrt(2/pi) int sqrt(F (1 - F))`` for large n in one dimension."""
    t = torch.linspace(-9, 9, 20_001, dtype=F64)
    cdf = torch.special.ndtr(t)
    integral = float(torch.trapezoid((cdf * (1 - cdf)).sqrt(), t))
    floor = metrics.wasserstein_floor(lambda n, seed: normal(n, seed=seed), 400, repeats=200)
    assert floor == pytest.approx(math.sqrt(2 / 400) * math.sqrt(2 / math.pi) * integral, rel=0.08)
    error = metrics.wasserstein_error(normal(400, seed=10**6) * 0.8, None, lambda n, seed: normal(n, seed=seed))
    assert error > 1.5 * floor


def test_mode_weights_are_a_total_variation() -> None:
    weights = torch.tensor([0.5, 0.3, 0.2], dtype=F64)

    def responsibilities(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(x[:, 0].long(), 3).to(F64)

    exact = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)[:, None].to(F64)
    assert metrics.mode_weight_error(exact, None, weights, responsibilities) == pytest.approx(0, abs=1e-12)
    stuck = torch.full((7, 1), 2.0, dtype=F64)
    assert metrics.mode_weight_error(stuck, None, weights, responsibilities) == pytest.approx(0.8)
    one_each = torch.arange(3)[:, None].to(F64)
    assert metrics.mode_weight_error(one_each, 7 * weights, weights, responsibilities) == pytest.approx(0, abs=1e-12)


def test_moments_with_weights_and_their_floor() -> None:
    x, w = normal(60, 2), torch.arange(1, 61).to(F64)
    mean, cov = metrics.weighted_moments(x)
    assert torch.allclose(mean, x.mean(0)) and torch.allclose(cov, torch.cov(x.T))
    times = w.long()
    mean, cov = metrics.weighted_moments(x, w)
    again = x.repeat_interleave(times, 0)
    assert torch.allclose(mean, again.mean(0))
    scale = 1 - float((w / w.sum()).square().sum())
    assert torch.allclose(cov * scale, torch.cov(again.T, correction=0))
    n, d = 500, 4
    eye, zero = torch.eye(d, dtype=F64), torch.zeros(d, dtype=F64)
    a, b = metrics.moment_floor(lambda n, seed: normal(n, d, seed), n, zero, eye, repeats=100)
    # E |mean|^2 = d / n; E |S - I|_F^2 = d (d + 1) / (n - 1)
    assert a == pytest.approx(math.sqrt(1 / n), rel=0.1) and b == pytest.approx(math.sqrt((d + 1) / n), rel=0.1)
    assert metrics.moment_errors(0.8 * normal(n, d), None, zero, eye)[1] > 2 * b


@pytest.mark.parametrize("scale", [1.0, 0.8, 1.3])
def test_coverage_of_a_wrong_width(scale: float) -> None:
    """A normal of ``scale`` times the right width covers ``2 Phi(1.645 scale) - 1``."""
    expected = 2 * float(torch.special.ndtr(torch.tensor(1.6449 * scale, dtype=F64))) - 1
    exact = normal(20_000, 3, seed=5)
    found = [metrics.coverage(scale * normal(200, 3, seed=k), None, exact) for k in range(20)]
    assert sum(found) / 20 == pytest.approx(expected, abs=0.008)
    zero, eye = torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64)
    assert metrics.gaussian_coverage(zero, scale**2 * eye, zero, eye) == pytest.approx(expected, abs=1e-4)


def test_coverage_of_a_small_sample_has_no_bias_of_two_over_n() -> None:
    exact = normal(20_000, 3, seed=5)
    found = [metrics.coverage(normal(39, 3, seed=k), None, exact) for k in range(200)]
    assert sum(found) / 200 == pytest.approx(0.9, abs=0.006)
    x, times = normal(200, 2), torch.arange(200) % 3
    weighted = metrics.coverage(x, times.to(F64), exact[:, :2])
    assert weighted == pytest.approx(metrics.coverage(x.repeat_interleave(times, 0), None, exact[:, :2]), abs=0.02)


def test_shifted_gaussian_coverage_by_quadrature() -> None:
    mean, cov = torch.tensor([0.7], dtype=F64), torch.tensor([[0.5]], dtype=F64)
    found = metrics.gaussian_coverage(mean, cov, torch.zeros(1, dtype=F64), torch.ones(1, 1, dtype=F64))
    half = 1.6449 * math.sqrt(0.5)
    bounds = torch.tensor([0.7 - half, 0.7 + half], dtype=F64)
    assert found == pytest.approx(float(torch.special.ndtr(bounds).diff()), abs=1e-4)


def test_classifier_reaches_the_bayes_accuracy() -> None:
    """N(0, 1) against N(0, 4): the best rule is ``|x| > c``; against itself one half."""
    n = 4000
    cut = torch.tensor(math.sqrt(2 * math.log(2) / (1 - 0.25)), dtype=F64)
    phi = torch.special.ndtr
    bayes = 0.5 * float((2 * phi(cut) - 1) + (2 - 2 * phi(cut / 2)))
    x = torch.cat([normal(n), normal(n, seed=3)], 1)
    assert metrics.c2st(x, torch.cat([2 * normal(n, seed=1), normal(n, seed=4)], 1)) == pytest.approx(bayes, abs=0.02)
    assert metrics.c2st(x, normal(n, 2, seed=8)) == pytest.approx(0.5, abs=0.02)
    # more dimensions than directions: a shift of all coordinates still shows
    assert metrics.c2st(normal(500, 40), normal(500, 40, seed=1) + 0.5) > 0.7


def test_equal_weights_by_systematic_resampling() -> None:
    x, w = torch.arange(4, dtype=F64)[:, None], torch.tensor([0.5, 0.25, 0.25, 0.0], dtype=F64)
    assert metrics.equalised(x, w, 4).flatten().tolist() == [0, 0, 1, 2]
    assert metrics.equalised(x, None, 2).flatten().tolist() == [0, 1]
