"""Summaries of weighted samples against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from sciinv.samples import Samples, order_bounds, weighted_bounds

F64 = torch.float64


def test_a_weighted_summary_is_the_closed_form() -> None:
    x = torch.tensor([[0.0], [1.0], [3.0]], dtype=F64)
    w = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    found = Samples(x, w.log() + 100.0).summary(0.5)
    assert float(found["mean"]) == pytest.approx(0.9) and float(found["magnitude_mean"]) == pytest.approx(0.9)
    # sum w (x - m)^2 = .5 * .81 + .3 * .01 + .2 * 4.41 = 1.29, over 1 - sum w^2 = .62
    assert float(found["std"]) == pytest.approx(math.sqrt(1.29 / 0.62))
    assert found["ess"] == pytest.approx(1 / 0.38) and found["n"] == 3
    # both tails want .25 (m + 1) / m = .345, less than half a sample away: 0 cuts off .5 below, 3 cuts off .2 above,
    # and .2 + .1 is not .345 yet, so the upper end is 1 with .5
    assert float(found["lower"]) == 0.0 and float(found["upper"]) == 1.0
    m = 1 / 0.38
    assert found["coverage"] == pytest.approx(1 - m / (m + 1))


def test_failed_samples_have_no_weight_and_equal_weights_are_double() -> None:
    x = torch.tensor([[1.0], [float("nan")], [3.0]])
    failed = torch.tensor([False, True, False])
    weighted = Samples(x, torch.tensor([0.0, 50.0, 0.0], dtype=F64), failed=failed)
    assert torch.equal(weighted.weights, torch.full((2,), 0.5, dtype=F64))
    assert float(weighted.summary()["mean"]) == 2.0
    equal = Samples(torch.zeros(3, 2, dtype=torch.complex64))
    assert equal.weights.dtype == F64 and float(equal.weights[0]) == 1 / 3  # the double, not the single nearest to it
    summary = equal.summary()
    assert summary["mean"].dtype == torch.complex64 and summary["std"].dtype == torch.float32


def test_all_the_weight_on_one_sample() -> None:
    x = torch.tensor([[5.0], [1.0], [9.0]])
    found = Samples(x, torch.tensor([-math.inf, 0.0, -math.inf], dtype=F64)).summary()
    assert [float(found[key]) for key in ("mean", "std", "lower", "upper")] == [1.0, 0.0, 1.0, 1.0]
    assert found["ess"] == pytest.approx(1.0) and found["coverage"] == pytest.approx(0.0)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 33, 64])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_equal_weights_give_the_order_statistics(n: int, level: float) -> None:
    value = torch.randn(n, 9, generator=torch.Generator().manual_seed(n))
    plain, weighted = order_bounds(value, level), weighted_bounds(value, torch.full((n,), 1 / n, dtype=F64), level)
    assert torch.equal(plain[0], weighted[0]) and torch.equal(plain[1], weighted[1])
    assert plain[2] == pytest.approx(weighted[2])


@pytest.mark.parametrize("uneven", [0.5, 1.2])
def test_weighted_bounds_cover_what_they_say(uneven: float) -> None:
    g = torch.Generator().manual_seed(1)
    said, held = 0.0, 0.0
    for _ in range(300):
        value, truth = torch.randn(48, 60, generator=g), torch.randn(60, generator=g)
        w = (uneven * torch.randn(48, generator=g, dtype=F64)).softmax(0)
        lower, upper, coverage = weighted_bounds(value, w, 0.8)
        said += coverage / 300
        held += float(((truth >= lower) & (truth <= upper)).double().mean()) / 300
    assert abs(said - held) < 0.01 and 0.7 < said < 0.85, (said, held)


def test_a_sample_of_little_weight_is_never_a_bound() -> None:
    """Four effective samples can cut off a fifth of the posterior, not the hundredth that a stray one weighs."""
    value = torch.tensor([[-100.0], [0.0], [1.0], [2.0], [3.0], [100.0]])
    for stray in (0.01, 0.0):
        w = torch.tensor([stray, 0.25, 0.25, 0.25, 0.25, 0.0], dtype=F64)
        lower, upper, coverage = weighted_bounds(value, w / w.sum(), 0.99)
        assert float(lower) == 0.0 and float(upper) == 3.0
        assert coverage == pytest.approx(0.6, abs=0.02)
