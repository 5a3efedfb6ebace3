"""The head made of equations: reproducible, coherent through slices, brain-like in its tissue shares."""

from __future__ import annotations

import numpy as np
import pytest
from sciinv_mri.phantom import _TISSUES, CONTRASTS, HEAD_MM, Head, Waves, head, resample, smooth_phase

from sciinv.errors import UsageError


def grid(n: int = 96) -> tuple[np.ndarray, np.ndarray, float]:
    pixel = HEAD_MM[0] / n
    line = ((np.arange(n) - n // 2) * pixel).astype(np.float32)
    y, x = np.meshgrid(-line, line, indexing="ij")
    return x, y, pixel


def shares(seed: int, z: float) -> dict[str, float]:
    x, y, pixel = grid()
    return dict(zip(_TISSUES, Head(seed).labels(x, y, z, pixel).sum((1, 2)) * pixel**2, strict=True))


def test_same_seed_same_head_other_seed_other_head() -> None:
    a, b, c = (head((48, 40), [18.0], seed=s) for s in (1, 1, 2))
    assert a.dtype == np.complex64 and a.shape == (1, 48, 40)
    np.testing.assert_array_equal(a, b)
    assert np.linalg.norm(np.abs(a) - np.abs(c)) > 0.1 * np.linalg.norm(a)


@pytest.mark.parametrize("z", [-30.0, 10.0, 45.0])
def test_tissue_fractions_are_a_partition(z: float) -> None:
    x, y, pixel = grid(64)
    fraction = Head(0).labels(x, y, z, pixel)
    np.testing.assert_allclose(fraction.sum(0), 1, atol=1e-4)
    assert fraction.min() >= -1e-6


@pytest.mark.parametrize("seed", range(4))
def test_tissue_shares_are_those_of_a_head(seed: int) -> None:
    part = shares(seed, 20.0)
    brain = part["grey"] + part["white"] + part["deep"] + part["pallidum"] + part["csf"]
    assert 9000 < brain < 22000  # an axial brain section of an adult has 120 to 190 cm^2 at this height
    assert 0.2 < part["grey"] / brain < 0.55
    assert 0.2 < part["white"] / brain < 0.6
    assert 0.08 < part["csf"] / brain < 0.4
    assert part["fat"] > 1000 and part["bone"] > 800
    assert part["vitreous"] == 0 < shares(seed, -30.0)["vitreous"]


def test_cortex_is_folded() -> None:
    # the border of grey matter is several times longer than the hull around it
    x, y, pixel = grid(160)
    subject = Head(3)
    grey = subject.labels(x, y, 35.0, pixel)[_TISSUES.index("grey")] > 0.5
    hull = subject._depth(x, y, 35.0)[0] > 0

    def border(mask: np.ndarray) -> int:
        return int((mask[1:] != mask[:-1]).sum() + (mask[:, 1:] != mask[:, :-1]).sum())

    assert border(grey) > 5 * border(hull)


def test_neighbouring_slices_belong_to_one_head() -> None:
    near, far = (np.abs(head((64, 56), [20.0, 20.0 + gap], seed=5)) for gap in (1.5, 25.0))

    def change(pair: np.ndarray) -> float:
        return float(np.linalg.norm(pair[1] - pair[0]) / np.linalg.norm(pair[0]))

    assert change(near) < 0.25 < change(far)


def test_contrasts_order_the_tissues_as_in_a_clinic() -> None:
    signal = {name: dict(zip(_TISSUES, values, strict=True)) for name, values in CONTRASTS.items()}
    assert signal["t1"]["white"] > signal["t1"]["grey"] > signal["t1"]["csf"]
    assert signal["t2"]["csf"] > signal["t2"]["grey"] > signal["t2"]["white"]
    assert signal["flair"]["csf"] < signal["flair"]["white"] < signal["flair"]["grey"]
    with pytest.raises(UsageError, match="unknown contrast"):
        head((32, 32), contrast="dwi")


def test_random_field_has_unit_variance_and_its_wavelength() -> None:
    x, y, _ = grid(128)
    field = Waves(np.random.default_rng(0), 20.0, 200, 0.0)(x, y, 0.0)
    assert 0.85 < field.std() < 1.15
    # mean square gradient of an isotropic field with one wavelength, in the plane: 2/3 (2 pi / wavelength)^2
    gradient = np.gradient(field, HEAD_MM[0] / 128)
    assert np.isclose(np.mean(gradient[0] ** 2 + gradient[1] ** 2), 2 / 3 * (2 * np.pi / 20) ** 2, rtol=0.2)


def test_phase_is_smooth_and_wraps_nowhere_between_pixels() -> None:
    phase = smooth_phase((96, 80), 4)
    assert np.abs(np.diff(phase, axis=0)).max() < 0.3 and np.abs(np.diff(phase, axis=1)).max() < 0.3
    assert phase.std() > 0.1


@pytest.mark.parametrize(("old", "new"), [((64, 48), (32, 30)), ((33, 40), (48, 51)), ((20, 40), (40, 20))])
def test_resample_keeps_smooth_images(old: tuple[int, int], new: tuple[int, int]) -> None:
    def wave(shape: tuple[int, int]) -> np.ndarray:
        r, c = ((np.arange(n) - n // 2) / n for n in shape)
        return np.exp(2j * np.pi * (2 * r[:, None] - 3 * c)) + 0.5

    np.testing.assert_allclose(resample(wave(old), new), wave(new), atol=1e-5)
