"""Convergence and image metrics against known answers."""

import math

import pytest
import torch

from sciinv.diagnostics.alarms import alarms
from sciinv.diagnostics.convergence import ess, split_rhat
from sciinv.diagnostics.metrics import coverage, error_correlation, nmse, psnr, ssim
from sciinv.errors import MismatchError, UsageError


def chains(phi, draws=2000, m=4, q=5, seed=0):
    """AR(1) chains with unit variance; ESS per draw is (1 - phi) / (1 + phi)."""
    g = torch.Generator().manual_seed(seed)
    x = torch.zeros(draws, m, q)
    x[0] = torch.randn(m, q, generator=g)
    for t in range(1, draws):
        x[t] = phi * x[t - 1] + math.sqrt(1 - phi**2) * torch.randn(m, q, generator=g)
    return x


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9])
def test_ess_of_autoregressive_chains(phi):
    x = chains(phi)
    expected = x.shape[0] * x.shape[1] * (1 - phi) / (1 + phi)
    assert (ess(x).mean() / expected - 1).abs() < 0.15
    assert (split_rhat(x) < 1.03).all()


def test_rhat_sees_shifted_chains_and_trends():
    x = chains(0.0, draws=400)
    shifted = x + torch.arange(4.0)[:, None]
    assert (split_rhat(shifted) > 1.3).all() and (ess(shifted) < 20).all()
    trend = x + torch.linspace(0, 4, 400)[:, None, None]
    assert (split_rhat(trend) > 1.3).all()


def test_rhat_equals_the_formula_on_two_split_chains():
    x = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0], [4.0, 7.0]])
    halves = torch.stack([x[:2, 0], x[:2, 1], x[2:, 0], x[2:, 1]])
    w, b = halves.var(1).mean(), halves.mean(1).var()
    assert torch.allclose(split_rhat(x), ((w / 2 + b) / w).sqrt())


def loop_ess(x):
    """One quantity, written out: half-chains ``(n, m)``, pairs added until one is negative."""
    n, m = x.shape
    c = x - x.mean(0)
    acov = [sum((c[: n - t, j] * c[t:, j]).sum() / n for j in range(m)) / m for t in range(n)]
    w = x.var(0).mean()
    v = w * (n - 1) / n + x.mean(0).var()
    rho = [1.0] + [float(1 - (w - a) / v) for a in acov[1:]]
    tau, last = -1.0, math.inf
    for k in range(n // 2):
        pair = rho[2 * k] + rho[2 * k + 1]
        if pair <= 0:
            break
        last = min(last, pair)
        tau += 2 * last
    return n * m / max(tau, 1 / math.log10(n * m))


@pytest.mark.parametrize("draws", [8, 9, 30])
def test_ess_equals_the_loop_on_short_chains(draws):
    x = chains(0.4, draws=draws, m=3, q=4).double()
    halves = torch.cat(x[draws % 2 :].chunk(2), 1)
    expected = torch.tensor([loop_ess(halves[..., k]) for k in range(4)])
    assert torch.allclose(ess(x), expected.double(), rtol=1e-6)


def test_constants_are_handled():
    x = torch.full((10, 3, 2), 0.1)
    assert (split_rhat(x) == 1).all() and (ess(x) == 30).all()
    stuck = x + torch.arange(3.0)[:, None]
    assert torch.isinf(split_rhat(stuck)).all() and (ess(stuck) < 30).all()


def test_antithetic_chains_exceed_the_count_but_are_bounded():
    x = chains(-0.5)
    assert (ess(x) > 8000).all() and (ess(x) <= 8000 * math.log10(8000)).all()


def test_one_quantity_does_not_depend_on_its_neighbours():
    x = chains(0.5)
    assert torch.equal(ess(x)[:2], ess(x[..., :2])) and torch.equal(split_rhat(x)[3], split_rhat(x[..., 3]))


def test_too_few_draws_is_one_clear_error():
    with pytest.raises(UsageError, match="at least 4 draws"):
        split_rhat(torch.zeros(3, 2))


def pair(seed=0, shape=(3, 40, 33)):
    g = torch.Generator().manual_seed(seed)
    reference = torch.rand(shape, generator=g, dtype=torch.float64)
    return reference + 0.1 * torch.randn(shape, generator=g, dtype=torch.float64), reference


def test_ssim_and_psnr_agree_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    x, reference = pair()
    for data_range in (1.0, None):
        mine, mine_p = ssim(x, reference, data_range), psnr(x, reference, data_range)
        for k in range(3):
            r = float(reference[k].max()) if data_range is None else data_range
            theirs = metrics.structural_similarity(x[k].numpy(), reference[k].numpy(), data_range=r)
            assert abs(float(mine[k]) - theirs) < 1e-10
            theirs = metrics.peak_signal_noise_ratio(reference[k].numpy(), x[k].numpy(), data_range=r)
            assert abs(float(mine_p[k]) - theirs) < 1e-10


def test_masked_scores_ignore_what_is_outside():
    x, reference = pair(shape=(40, 40))
    mask = torch.zeros(40, 40, dtype=torch.bool)
    mask[10:20, 10:20] = True
    spoiled = x.clone()
    spoiled[30:] += 5
    assert torch.equal(ssim(x, reference, 1.0, mask=mask), ssim(spoiled, reference, 1.0, mask=mask))
    assert torch.equal(psnr(x, reference, 1.0, mask=mask), psnr(spoiled, reference, 1.0, mask=mask))
    assert torch.allclose(psnr(x, reference, 1.0, mask=mask), psnr(x[10:20, 10:20], reference[10:20, 10:20], 1.0))
    assert psnr(spoiled, reference, 1.0) < psnr(x, reference, 1.0) - 3


def test_scores_of_known_images():
    x = torch.ones(8, 8, dtype=torch.complex64)
    assert torch.allclose(psnr(0.9 * x, x), torch.tensor(20.0), atol=1e-3)
    assert torch.allclose(nmse(0.9 * x, x), torch.tensor(0.01), atol=1e-6)
    assert torch.allclose(ssim(x.real, x.real), torch.tensor(1.0, dtype=torch.float64))
    with pytest.raises(MismatchError):
        ssim(x, x)
    with pytest.raises(MismatchError):
        nmse(x, x[:4])


def test_coverage_of_gaussian_intervals():
    g = torch.Generator().manual_seed(1)
    truth = torch.randn(200, 200, generator=g)
    mask = truth > 0
    assert abs(float(coverage(torch.tensor(-1.645), torch.tensor(1.645), truth)) - 0.9) < 0.006
    assert abs(float(coverage(torch.tensor(-9.0), torch.tensor(1.645), truth, mask)) - 0.9) < 0.008


def test_correlation_of_std_with_error():
    g = torch.Generator().manual_seed(2)
    std = torch.rand(100, 100, generator=g) + 0.01
    error = std * torch.randn(100, 100, generator=g)
    # |e| = s |n|: corr = E|n| sd(s) / sqrt(E s^2 - E[s]^2 E|n|^2)
    s = std.double()
    c = math.sqrt(2 / math.pi)
    expected = c * s.std() / (s.square().mean() - (c * s.mean()) ** 2).sqrt()
    assert abs(float(error_correlation(std, error) - expected)) < 0.03
    assert float(error_correlation(torch.ones(4, 4), error[:4, :4])) == 0


HEALTHY = {"particles": 100, "ess_weights": 60.0, "ess_share_min": 0.5, "ancestors": 12, "log_evidence_spread": 0.4}


@pytest.mark.parametrize(
    ("change", "title", "words"),
    [
        ({}, None, ""),
        ({"rhat_max": 1.049}, None, ""),
        ({"rhat_max": 1.06}, "the chains had not mixed", "1.06, limit 1.05, in b"),
        ({"ess_share_min": 0.09}, "the population collapsed", "fell to 9 % of the particles (limit 10 %), in b"),
        ({"ess_weights": 9.0}, "the population collapsed", "fell to 9 %"),
        ({"ancestors": 9}, "the population collapsed", "descend from 9 (limit 10), in b"),
        ({"log_evidence_spread": 1.2}, "islands were pooled equally, one is lost", "differ by 1.2"),
    ],
)
def test_alarms_at_their_limits(change, title, words):
    found = alarms({"a": HEALTHY, "b": {**HEALTHY, **change}})
    assert [alarm.title for alarm in found] == ([] if title is None else [title])
    assert all(words in alarm.text for alarm in found)


def test_one_alarm_a_kind_names_the_items():
    (alarm,) = alarms({f"item {k}": {"rhat_max": 1.0 + 0.1 * k} for k in range(12)})
    assert "up to 2.10" in alarm.text and "item 1, " in alarm.text and alarm.text.endswith("item 8 and 3 more")
