"""Ring parameters: known rings come back, what is no ring is not called one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sciinv_vlbi.io.image import read_image
from sciinv_vlbi.observation import MICRO_ARCSECOND
from sciinv_vlbi.rings import is_ring, ring_parameters

PIXEL, SIDE = 2.0, 64


def sky(side: int = SIDE, pixel: float = PIXEL) -> tuple[np.ndarray, np.ndarray]:
    """East and north offset of every pixel."""
    place = ((side - 1) / 2 - np.arange(side)) * pixel
    east, north = np.meshgrid(place, place)
    return east, north


def mring(d=42.0, w=12.0, angle=170.0, a=0.25, x=3.0, y=-2.0, floor=0.0, side=SIDE, pixel=PIXEL) -> np.ndarray:
    """A ring of Gaussian profile across and brightness 1 + 2 a cos(theta - angle) along."""
    east, north = sky(side, pixel)
    r, theta = np.hypot(east - x, north - y), np.arctan2(east - x, north - y)
    return np.exp(-4 * np.log(2) * ((r - d / 2) / w) ** 2) * (1 + 2 * a * np.cos(theta - np.deg2rad(angle))) + floor


def blob(x: float, y: float, fwhm: float) -> np.ndarray:
    east, north = sky()
    return np.exp(-4 * np.log(2) * ((east - x) ** 2 + (north - y) ** 2) / fwhm**2)


def test_a_known_ring_comes_back():
    p = {k: v[0] for k, v in ring_parameters(mring()[None], PIXEL).items()}
    assert abs(p["diameter"] - 42) < 0.3 and abs(p["width"] - 12) < 0.5
    assert abs(p["x"] - 3) < 0.3 and abs(p["y"] + 2) < 0.3
    assert abs(p["position_angle"] - 170) < 1 and abs(p["asymmetry"] - 0.25) < 0.01
    assert p["diameter_spread"] < 1 and p["central_brightness"] < 0.02 and p["ringness"] > 0.95


@pytest.mark.parametrize("d,w,angle", [(36, 8, 20), (48, 16, 290), (30, 5, 95), (56, 10, 200)])
def test_sizes_and_directions(d, w, angle):
    images = np.stack([mring(d, w, angle, 0.2, -4, 5), mring(d, w, angle, 0.1, 0, 0, floor=0.1)])
    p = ring_parameters(torch.from_numpy(images)[:, None], PIXEL)
    np.testing.assert_allclose(p["diameter"], d, atol=0.5)
    np.testing.assert_allclose(p["width"], w, atol=1.0)
    assert (np.abs((p["position_angle"] - angle + 180) % 360 - 180) < 3).all()
    assert is_ring(p).all()


def test_units_and_order_do_not_matter():
    one, two = mring(), mring(d=36, angle=30)
    both = ring_parameters(np.stack([one, 1e-4 * two]), PIXEL)
    swapped = ring_parameters(np.stack([two, one]), PIXEL)
    for key in both:
        np.testing.assert_allclose(both[key], swapped[key][::-1], rtol=1e-3, atol=2e-3, err_msg=key)


def test_finer_pixels_give_the_same_ring():
    coarse, fine = ring_parameters(mring()[None], 2.0), ring_parameters(mring(side=128, pixel=1.0)[None], 1.0)
    for key, tolerance in (("diameter", 0.3), ("width", 0.3), ("position_angle", 0.5), ("asymmetry", 0.01)):
        np.testing.assert_allclose(coarse[key], fine[key], atol=tolerance, err_msg=key)


NO_RINGS = {
    "double": blob(20, 0, 20) + blob(-20, 0, 20),
    "close double": blob(12, 8, 18) + 0.7 * blob(-12, -8, 18),
    "unequal double": blob(0, 18, 15) + 0.4 * blob(0, -22, 15),
    "blob": blob(3, 2, 30),
    "disc": (sky()[0] ** 2 + sky()[1] ** 2 < 22**2).astype(float),
    "triple": blob(20, 0, 15) + blob(-10, 17, 15) + 0.5 * blob(-10, -17, 15),
    "jet": sum(blob(-4 * k, 9 * k - 20, 12) * 0.7**k for k in range(6)),
}


@pytest.mark.parametrize("name", NO_RINGS)
def test_what_is_no_ring_is_not_called_one(name):
    p = ring_parameters(NO_RINGS[name][None], PIXEL)
    assert not is_ring(p).any(), p["ringness"]


def test_a_lopsided_ring_is_one():
    assert is_ring(ring_parameters(mring(a=0.4)[None], PIXEL)).all()


def test_empty_images_give_numbers():
    assert all(np.isfinite(v).all() for v in ring_parameters(np.zeros((2, SIDE, SIDE)), PIXEL).values())


@pytest.mark.realdata
def test_the_pipeline_image_of_m87_measures_as_published(real_data):
    path = real_data / "vlbi/peer_images/m87_101_ehtc_pipeline_direct.fits"
    image = read_image(path)
    p = {k: v[0] for k, v in ring_parameters(image.data[None], image.pixel / MICRO_ARCSECOND).items()}
    # another implementation of the same definitions found 40.5 +- 2.0, 15.2, 166, 0.21, 0.04
    assert abs(p["diameter"] - 40.5) < 1 and p["diameter_spread"] < 2.5 and abs(p["width"] - 15.2) < 1
    assert abs(p["position_angle"] - 166) < 3 and abs(p["asymmetry"] - 0.21) < 0.02
    assert abs(p["central_brightness"] - 0.04) < 0.02 and p["ringness"] > 0.95
