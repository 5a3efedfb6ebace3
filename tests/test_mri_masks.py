import dataclasses as dc

import numpy as np
import pytest
from sciinv_mri import masks
from sciinv_mri.io.kspace import KSpace

from sciinv.errors import InputError, UsageError


def full(rows=32, columns=48, window=None):
    left, right = window or (0, columns)
    mask = np.zeros((1, 1, columns), bool)
    mask[..., left:right] = True
    k = np.ones((2, 3, rows, columns), np.complex64) * mask[:, None]
    return KSpace(k, mask, (left, right), (rows, columns), "test")


@pytest.mark.parametrize("kind", ["random", "equispaced"])
@pytest.mark.parametrize("acceleration", [2, 4, 6])
@pytest.mark.parametrize("window", [None, (5, 48)])
def test_net_acceleration_is_exact(kind, acceleration, window):
    data = full(window=window)
    width = data.ky_range[1] - data.ky_range[0]
    for seed in range(5):
        u = masks.undersample(data, acceleration, 6, kind, seed)
        assert u.mask.sum() == round(width / acceleration) and u.mask[0, 0, 21:27].all()
        assert (u.kspace[:, :, :, ~u.mask[0, 0]] == 0).all() and (u.kspace[:, :, :, u.mask[0, 0]] == 1).all()
        assert not u.mask[0, 0, : data.ky_range[0]].any()


def test_masks_depend_on_the_seed_only():
    a, b, c = (masks.random_lines(96, 24, 8, s) for s in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


def test_density_falls_outwards():
    count = sum(masks.random_lines(96, 24, 8, s).astype(int) for s in range(200))
    assert count[30:44].mean() > 2 * count[:14].mean() > 0


def test_poisson_and_ellipse():
    p = masks.undersample(full(64, 64), 4, 12, "poisson", 3)
    assert p.mask.shape == (1, 64, 64) and abs(p.acceleration / 4 - 1) < 0.15
    assert p.mask[0, 26:38, 26:38].all()
    e = masks.undersample(full(64, 64), 1, 0, "elliptical")
    assert abs(float(e.mask.mean()) - np.pi / 4) < 0.02 and not e.mask[0, 0, 0]


def test_calibration_region_of_lines():
    line = np.zeros((1, 20), bool)
    line[0, [2, 7, 8, 9, 10, 11, 12, 15]] = True
    assert masks.calibration_region(line) == (slice(None), slice(7, 13))
    line[0, 10] = False
    assert masks.calibration_region(line)[1] == slice(10, 10) or (
        masks.calibration_region(line)[1].stop <= masks.calibration_region(line)[1].start
    )


@pytest.mark.parametrize("seed", range(8))
def test_calibration_rectangle_is_the_largest(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((13, 12)) < 0.8
    mask[4:9, 4:9] = True
    kx, ky = masks.calibration_region(mask)
    assert mask[kx, ky].all() and kx.start <= 6 < kx.stop and ky.start <= 6 < ky.stop
    best = max(
        (b - a) * (d - c)
        for a in range(7) for b in range(7, 14) for c in range(7) for d in range(7, 13) if mask[a:b, c:d].all()
    )  # fmt: skip
    assert (kx.stop - kx.start) * (ky.stop - ky.start) == best


def test_refusals():
    with pytest.raises(UsageError, match="calibration lines alone"):
        masks.undersample(full(), 8, 12)
    with pytest.raises(UsageError, match="pattern"):
        masks.undersample(full(), 2, 8, "spiral")
    with pytest.raises(UsageError, match="acceleration"):
        masks.undersample(full(), 0.5)
    holes = np.zeros((1, 48), bool)
    holes[0, ::2] = True
    with pytest.raises(InputError, match="not fully sampled"):
        masks.calibration_or_error(holes)


def test_undersampling_twice_keeps_only_what_was_measured():
    once = masks.undersample(full(), 2, 8, seed=0)
    twice = masks.undersample(dc.replace(once), 2, 8, seed=1)
    assert not (twice.mask & ~once.mask).any()


def test_centred_part_of_a_region():
    """Off-centre lines beside the calibration lines must not shift the low-resolution image."""
    assert masks.centred(slice(20, 30), 48) == slice(20, 28 + 1)
    assert masks.centred(slice(22, 26), 48) == slice(22, 26)
    assert masks.centred(slice(19, 26), 48) == slice(22, 26)
    assert masks.centred(slice(None), 48) == slice(None)
