"""Random sources behind the radio prior: units, reproducibility, places, sizes, shares, and light bending."""

from __future__ import annotations

import numpy as np
import pytest
from sciinv_vlbi import shapes
from sciinv_vlbi.options import VLBIOptions
from sciinv_vlbi.problem import FILL
from sciinv_vlbi.sources import CHUNK, FAMILIES, FOV, MAX_SHIFT, NAMES, NPIX, RING_FREE, RINGS, SHARES, draw

COUNT = 768


@pytest.fixture(scope="module")
def population():
    return draw(COUNT, 3)


def moments(images: np.ndarray, fov: float = FOV) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centroid towards East and North, and root-mean-square radius about it, micro-arcseconds."""
    g = shapes.grid(images.shape[-1], fov)
    weight = images / images.sum((1, 2), keepdims=True)
    east, north = (weight * g.east).sum((1, 2)), (weight * g.north).sum((1, 2))
    square = (weight * (g.east**2 + g.north**2)).sum((1, 2)) - east**2 - north**2
    return east, north, np.sqrt(square)


@pytest.mark.parametrize(("npix", "fov"), [(64, 128.0), (48, 120.0)])
def test_units_are_those_of_the_unknown(npix, fov):
    """The flux evenly over a square of FILL of the field would be one: the total is (FILL n)^2 whatever the source."""
    images, tags = draw(40, 1, npix=npix, fov=fov)
    assert images.shape == (40, npix, npix) and images.dtype == np.float32 and tags.shape == (40,)
    np.testing.assert_allclose(images.sum((1, 2), dtype=np.float64), (FILL * npix) ** 2, rtol=1e-4)
    assert (images >= 0).all() and np.isfinite(images).all()


def test_the_grid_is_the_domains():
    options = VLBIOptions()
    assert (NPIX, FOV) == (options.npix, options.fov)
    g = shapes.grid(4, 8.0)
    assert g.north[0, 0] == 3 and g.east[0, 0] == 3 and g.pixel == 2  # North up, East left


def test_draws_repeat_and_begin_alike(population):
    images, tags = population
    again, same = draw(CHUNK, 3)
    assert np.array_equal(images[:CHUNK], again) and np.array_equal(tags[:CHUNK], same)
    assert not np.array_equal(draw(8, 4)[0], draw(8, 3)[0])
    assert not np.array_equal(images[:CHUNK], images[CHUNK : 2 * CHUNK])


def test_shares(population):
    _, tags = population
    assert abs(sum(SHARES.values()) - 1) < 1e-12
    for k, name in enumerate(NAMES):
        p = SHARES[name]
        assert abs((tags == k).sum() - COUNT * p) < 4 * np.sqrt(COUNT * p * (1 - p)), name


def test_centroids_are_spread_over_a_small_disc(population):
    east, north, _ = moments(population[0])
    away = np.hypot(east, north)
    assert away.max() < MAX_SHIFT + 0.7 and away.max() > 0.9 * MAX_SHIFT
    assert abs(away.mean() - 2 / 3 * MAX_SHIFT) < 0.2  # uniform over the disc
    assert np.hypot(east.mean(), north.mean()) < 0.5


def test_no_direction_is_preferred(population):
    """The mean image has equal quadrants, and dipoles of single images point everywhere."""
    mean = population[0].mean(0)
    half = NPIX // 2
    quadrants = np.array([mean[:half, :half], mean[:half, half:], mean[half:, :half], mean[half:, half:]]).sum((1, 2))
    assert quadrants.std() / quadrants.mean() < 0.03
    g = shapes.grid(NPIX, FOV)
    ring = population[0][population[1] == NAMES.index("ring")]
    angle = np.arctan2((ring * g.east).sum((1, 2)), (ring * g.north).sum((1, 2)))
    assert abs(np.exp(1j * angle).mean()) < 3.5 / np.sqrt(len(ring)) and abs(np.exp(2j * angle).mean()) < 0.25
    discs = FAMILIES["disc"][1](np.random.default_rng(1), 200, g)
    axis = np.angle((discs * (g.north + 1j * g.east) ** 2).sum((1, 2)))  # twice the angle of the long axis
    assert abs(np.exp(1j * axis).mean()) < 3.5 / np.sqrt(200)


def test_sizes_are_well_spread(population):
    """Twice the root-mean-square radius of a thin ring is its diameter."""
    images, tags = population
    for name, low, high in (("ring", 32, 62), ("crescent", 26, 47), ("lensed_disc", 42, 60)):
        size = 2 * moments(images[tags == NAMES.index(name)])[2]
        assert np.percentile(size, 10) < low and np.percentile(size, 90) > high, (name, np.percentile(size, (10, 90)))
        assert np.percentile(size, 99) < 100


def test_rings_have_a_hole_and_others_do_not():
    """Brightness in the middle against the largest azimuthal average."""
    g = shapes.grid(NPIX, FOV)
    bins = (np.hypot(g.east, g.north) / 4).astype(int)
    depth = {}
    for name in ("lensed_disc", "disc"):
        images = shapes.unit(FAMILIES[name][1](np.random.default_rng(0), 64, g))
        profile = np.stack([images[:, bins == k].mean(1) for k in range(12)], 1)
        depth[name] = np.median(profile[:, 0] / profile.max(1))
    assert depth["lensed_disc"] < 0.1 and depth["disc"] > 0.8


def test_a_population_of_chosen_families():
    images, tags = draw(64, 0, RING_FREE)
    assert {NAMES[k] for k in tags} <= set(RING_FREE) and len(images) == 64
    assert {NAMES[k] for k in draw(16, 0, {"double": 2.0})[1]} == {"double"}
    assert set(RINGS) | set(RING_FREE) == set(NAMES) and not set(RINGS) & set(RING_FREE)
    assert abs(sum(RING_FREE.values()) - 1) < 1e-12


@pytest.mark.parametrize(
    "shares", [{"galaxy": 1.0}, {"ring": -1.0, "disc": 2.0}, {"ring": 0.0}, {"ring": float("nan")}]
)
def test_impossible_weights_are_refused(shares):
    from sciinv.errors import UsageError

    with pytest.raises(UsageError, match="cannot be drawn"):
        draw(4, 0, shares)


def test_light_bending_is_inverted():
    """``b = r sin(alpha) / sqrt(1 - 2/r)`` with ``1 - cos(alpha) = (1 - cos psi)(1 - 2/r)``; r + 1 face-on, far out."""
    r, cos = np.meshgrid(np.linspace(2.2, 40, 50), np.linspace(-0.9, 0.9, 19))
    alpha = np.arccos(1 - (1 - cos) * (1 - 2 / r))
    b = r * np.sin(alpha) / np.sqrt(1 - 2 / r)
    np.testing.assert_allclose(shapes.emission_radius(b, cos), r, rtol=1e-9)
    far = np.array([100.0])
    assert abs(shapes.emission_radius(far, np.zeros(1)) - (far - 1)) < 0.01
    straight = shapes.emission_radius(np.array([1e6]), np.array([0.6]))
    assert abs(straight / (1e6 / 0.8) - 1) < 1e-5


def test_texture_has_unit_variance_and_the_stated_slope():
    field = shapes.texture(np.random.default_rng(0), 200, shapes.grid(64, 128.0))
    np.testing.assert_allclose(field.std((1, 2)), 1, rtol=1e-3)
    power = (np.abs(np.fft.rfft2(field)) ** 2).mean(0)
    slope = np.log(power[0, 24] / power[0, 12]) / np.log(2)
    assert -5 < slope < -2.5
