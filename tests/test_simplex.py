"""Projection onto nonnegative images of one mean, and how a prior remembers it."""

from __future__ import annotations

import pytest
import torch
from test_network_prior import CARD, SPEC, edit, network

from sciinv.errors import InputError
from sciinv.generic.mask import Mask
from sciinv.noise import Gaussian
from sciinv.priors.adapted import AdaptedPrior
from sciinv.priors.card import UNetSpec
from sciinv.priors.checkpoint import load_prior, save_prior
from sciinv.priors.network import NetworkPrior
from sciinv.priors.simplex import to_simplex
from sciinv.priors.unet import UNet
from sciinv.problem import Problem
from sciinv.testing.fake import FakeCuda
from sciinv.training.data import FolderSource

MEAN = 0.3


def noisy(n: int = 40) -> torch.Tensor:
    return torch.randn(n, 1, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def members(n: int = 40) -> torch.Tensor:
    """Sparse images of the set."""
    x = torch.rand(n, 1, 6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).pow(8)
    return x * (MEAN / x.mean((2, 3), keepdim=True))


def test_the_projection_is_the_nearest_point():
    """``<d - P(d), c - P(d)> <= 0`` for all c of the set is what makes P(d) nearest (and unique)."""
    d, some = noisy(), members()
    p = to_simplex(d, MEAN)
    assert float(p.min()) >= 0
    torch.testing.assert_close(p.mean((1, 2, 3)), torch.full((len(p),), MEAN, dtype=p.dtype))
    angles = (d - p).flatten(1) @ some.flatten(1).T - ((d - p) * p).flatten(1).sum(1, keepdim=True)
    assert float(angles.max()) < 1e-9
    torch.testing.assert_close(to_simplex(p, MEAN), p)
    torch.testing.assert_close(to_simplex(some, MEAN), some)


def test_no_member_gets_farther():
    d, c = noisy(), members()
    before, after = (d - c).flatten(1).norm(dim=1), (to_simplex(d, MEAN) - c).flatten(1).norm(dim=1)
    assert bool((after <= before).all()) and float(after.mean()) < 0.8 * float(before.mean())


def test_each_channel_and_sample_has_its_own_shift():
    d = noisy().reshape(20, 2, 6, 5)
    p = to_simplex(d, MEAN)
    torch.testing.assert_close(p[3:4, 1:], to_simplex(d[3:4, 1:], MEAN))
    d[5, 0, 0, 0] = torch.nan  # a sample that went wrong must not end the others
    other = to_simplex(d, MEAN)
    torch.testing.assert_close(other[:5], p[:5])
    assert bool(other[5, 0].isnan().any())


def test_the_prior_projects_and_remembers(tmp_path):
    spec = UNetSpec(channels=1, widths=(8,), blocks=(1,))
    net = UNet(**spec.model_dump()).eval().requires_grad_(False)
    x, sigma = noisy(4).float(), torch.tensor(0.5)
    free = NetworkPrior(net, (6, 5), channels=1, complex_pair=False)
    assert float(free.denoise(x, sigma).min()) < 0
    want = to_simplex(free.denoise(x, sigma), MEAN)
    prior = NetworkPrior(net, (6, 5), channels=1, complex_pair=False, mean=MEAN)
    back = load_prior(save_prior(prior, spec, CARD, tmp_path / "p.safetensors", torch.float32))
    assert prior.at((6, 5)) is prior  # what has been measured about it is found again
    adapted = AdaptedPrior(prior, Problem(x[0], Mask(torch.ones(1, 6, 5, dtype=torch.bool)), Gaussian(0.1)), inner=0)
    for one in (prior, prior.at((6, 5)), prior.at((8, 8)).at((6, 5)), back):
        assert one.mean == MEAN
        torch.testing.assert_close(one.denoise(x, sigma), want)
    torch.testing.assert_close(adapted.denoise(x, sigma), want)


@pytest.mark.parametrize(
    ("side", "least", "known"), [(6, 0.0, True), (8, 0.0, False), (4, 0.0, False), (6, -0.5, False)]
)
def test_training_images_share_a_mean_if_they_are_whole_and_nonnegative(side, least, known):
    """Larger ones are cropped and smaller ones padded, which changes their mean."""
    x = torch.rand(3, 1, side, side, generator=torch.Generator().manual_seed(4)) + least
    source = FolderSource([x * (MEAN / x.mean((1, 2, 3), keepdim=True))], 6)
    assert source.shares(MEAN) == known and not source.shares(2 * MEAN)


@pytest.mark.parametrize(("mean", "why"), [(0.3, "only real images"), (-1.0, "mean"), ("nan", "mean")])
def test_a_note_with_an_impossible_mean_is_refused(tmp_path, mean, why):
    path = save_prior(NetworkPrior(network(), (8, 8)), SPEC, CARD, tmp_path / "p.safetensors")
    edit(path, lambda _, note: note.update(mean=mean))
    with pytest.raises(InputError, match=why):
        load_prior(path)


def test_fake_cuda():
    with FakeCuda() as gpu:
        with gpu.guard("to_simplex"):
            y = to_simplex(gpu.put(noisy().float()), MEAN)
        gpu.check(y, "to_simplex")
        assert gpu.host_reads == 0 and y.shape == noisy().shape
