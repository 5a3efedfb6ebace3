"""Test-time adaptation: a prior that does not know the image bends to its data, and only to them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sciinv.errors import MismatchError, UsageError
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.priors.adapted import AdaptedPrior
from sciinv.priors.network import NetworkPrior
from sciinv.priors.partial import PartialPrior
from sciinv.priors.unet import UNet
from sciinv.problem import Problem
from sciinv.samplers import sample
from sciinv.samplers.explicit.dds import DDS
from sciinv.training.dsm import keyed

SIZE = 8


def prior(channels: int = 1) -> NetworkPrior:
    """An untrained network: its denoiser only shrinks, which is wrong for every image."""
    network = UNet(channels=channels, widths=(16,), blocks=(1,), fold=1, embedding=8)
    network.initialise(keyed(5))
    with torch.no_grad():
        network.leave.weight.normal_(std=0.02, generator=keyed(6))
    return NetworkPrior(network.eval().requires_grad_(False), (SIZE, SIZE), 0.5, 0.01, 5.0, channels, False)


def problem(level: float = 2.0) -> Problem:
    mask = torch.rand(1, SIZE, SIZE, generator=keyed(7)) < 0.6
    y = level + 0.05 * torch.randn(1, SIZE, SIZE, generator=keyed(8))
    return Problem(y * mask, Mask(mask), Gaussian(0.05), {"n_data": int(mask.sum())})


def weights(p: NetworkPrior) -> Tensor:
    return torch.cat([w.flatten() for w in p.network.parameters()])


def test_nothing_changes_before_the_first_step_and_the_trained_weights_never_do():
    base = prior()
    kept = weights(base).clone()
    adapted = AdaptedPrior(base, problem(), inner=0)
    x, level = torch.randn(3, 1, SIZE, SIZE, generator=keyed(1)), torch.tensor(0.3)
    assert torch.equal(adapted.denoise(x, level), base.denoise(x, level))
    adapted.inner = 3
    changed = adapted.denoise(x, level)
    assert not torch.equal(changed, base.denoise(x, level)) and torch.equal(weights(base), kept)
    adapted.reset()
    assert torch.equal(adapted.denoise(x, level), changed)


def test_it_learns_the_image_where_it_was_not_measured_too():
    base, data = prior(), problem()
    adapted = AdaptedPrior(base, data, rate=5e-3, inner=5)
    x, level = 2 + 0.3 * torch.randn(4, 1, SIZE, SIZE, generator=keyed(2)), torch.tensor(0.3)
    hidden = data.operator.diagonal == 0
    errors = []
    for _ in range(60):
        out = adapted.denoise(x, level)
        errors.append(float((out - 2)[:, hidden].square().mean().sqrt()))
    before = float((base.denoise(x, level) - 2)[:, hidden].square().mean().sqrt())
    assert errors[0] < before and errors[-1] < 0.4 * before, (before, errors[::10])


def test_no_adaptation_above_the_start_or_below_the_noise():
    base = prior()
    x = torch.randn(2, 1, SIZE, SIZE, generator=keyed(3))
    adapted = AdaptedPrior(base, problem(), inner=3, start=0.2)
    assert torch.equal(adapted.denoise(x, torch.tensor(0.3)), base.denoise(x, torch.tensor(0.3)))
    quiet = Problem(problem().y, problem().operator, Gaussian(1e3), problem().meta)
    fitted = AdaptedPrior(base, quiet, inner=3)
    assert torch.equal(fitted.denoise(x, torch.tensor(0.3)), base.denoise(x, torch.tensor(0.3)))


def test_samplers_take_it():
    data = problem()
    plain = sample(DDS(steps=20), data, prior(), 2, 0)
    adapted = sample(DDS(steps=20), data, AdaptedPrior(prior(), data, rate=5e-3), 2, 0)
    hidden = data.operator.diagonal == 0
    error = [float((run.x - 2)[:, hidden].abs().mean()) for run in (plain, adapted)]
    assert error[1] < error[0] and not adapted.failed.any()


def test_settings_are_checked():
    with pytest.raises(UsageError, match="out of range"):
        AdaptedPrior(prior(), problem(), rank=0)
    partial = PartialPrior(prior(2).network, (SIZE, SIZE), 0.5, 0.01, 5.0, 1, False)
    with pytest.raises(MismatchError, match="only a prior"):
        AdaptedPrior(partial, problem())
