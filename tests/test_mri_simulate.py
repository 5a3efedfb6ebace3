"""Simulated measurements: the file is what the model says, noise has the stated level, bad settings are refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from sciinv_mri import DOMAIN
from sciinv_mri.demo import demo
from sciinv_mri.fft import ifftc
from sciinv_mri.io.fastmri import read_fastmri
from sciinv_mri.simulate import PHANTOM, _noise, loop_maps, simulate

from sciinv.errors import InputError, UsageError

SMALL = {"matrix": (48, 40), "slices": 1, "coils": 6, "calib_lines": 6}


def rss(kspace: np.ndarray) -> np.ndarray:
    return ifftc(torch.from_numpy(kspace), (-2, -1)).abs().square().sum(1).sqrt().numpy()


def test_full_sampling_without_noise_gives_the_truth(tmp_path: Path) -> None:
    data = read_fastmri(simulate(PHANTOM, tmp_path / "a.h5", acceleration=1, snr=1e6, **SMALL))
    assert data.kspace.shape == (1, 6, 48, 40) and data.acceleration == 1
    np.testing.assert_allclose(rss(data.kspace), data.reference, atol=1e-5 * data.reference.max())


def test_noise_has_the_stated_level(tmp_path: Path) -> None:
    clean, noisy = (
        read_fastmri(simulate(PHANTOM, tmp_path / f"{snr}.h5", acceleration=1, snr=snr, **SMALL)) for snr in (1e6, 20.0)
    )
    noise = noisy.kspace - clean.kspace
    object_mean = clean.reference[clean.reference > 0.1 * np.quantile(clean.reference, 0.99)].mean()
    for part in (noise.real, noise.imag):  # per real component, as everywhere in sciinv
        assert np.isclose(part.std(), object_mean / 20, rtol=0.03)
    assert np.isclose(clean.reference.mean(), noisy.reference.mean())  # the truth carries no noise


def test_noise_correlation_is_between_neighbouring_coils(tmp_path: Path) -> None:
    low, high = (
        read_fastmri(simulate(PHANTOM, tmp_path / f"{snr}.h5", acceleration=1, snr=snr, noise_correlation=0.5, **SMALL))
        for snr in (1e6, 5.0)
    )
    flat = (high.kspace - low.kspace).swapaxes(0, 1).reshape(6, -1)
    covariance = flat @ flat.conj().T
    scale = np.sqrt(np.diag(covariance).real)
    correlation = covariance / scale[:, None] / scale
    number = np.arange(6)
    np.testing.assert_allclose(correlation, 0.5 ** np.abs(number[:, None] - number), atol=0.1)


def test_undersampling_is_net_and_calibrated(tmp_path: Path) -> None:
    data = read_fastmri(simulate(PHANTOM, tmp_path / "a.h5", acceleration=4, **SMALL))
    assert np.isclose(data.acceleration, 4, rtol=0.05)
    assert data.mask[0, 0, 17:23].all()
    assert not data.kspace[..., ~data.mask[0, 0]].any()


def test_seed_decides_everything(tmp_path: Path) -> None:
    a, b, c = (
        read_fastmri(simulate(PHANTOM, tmp_path / f"{i}.h5", seed=seed, **SMALL)) for i, seed in enumerate((3, 3, 4))
    )
    np.testing.assert_array_equal(a.kspace, b.kspace)
    assert not np.array_equal(a.mask, c.mask)


@pytest.mark.parametrize("coils", [1, 4, 8, 20])
def test_coil_maps_are_smooth_and_normalised(coils: int) -> None:
    maps = loop_maps(coils, (40, 36), [10.0, 30.0], (208.0, 176.0))
    assert maps.shape == (2, coils, 40, 36)
    np.testing.assert_allclose((np.abs(maps) ** 2).sum(1), 1, atol=1e-5)
    if coils >= 4:
        r, c = ((np.arange(n) - n // 2) / (0.45 * n) for n in (40, 36))
        inside = (r[:, None] ** 2 + c**2 < 1)[1:]  # where a head can be
        assert np.abs(np.diff(maps, axis=2))[..., inside].max() < 0.2
        # encoding: coils see different places
        flat = np.abs(maps[0]).reshape(coils, -1)
        assert np.corrcoef(flat)[0, coils // 2] < 0.2


def test_nifti_source_is_turned_face_up(tmp_path: Path) -> None:
    # an RAS volume, bright in front on its right side; file axes permuted and flipped on purpose
    volume = np.zeros((30, 36, 8), np.float32)
    volume[4:26, 4:32] = 0.5
    volume[20:25, 26:31] = 1.0
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(volume[::-1], affine), tmp_path / "head.nii.gz")
    data = read_fastmri(simulate(tmp_path / "head.nii.gz", tmp_path / "a.h5", slices=[3], acceleration=1, coils=4))
    assert data.reference.shape == (1, 36, 30) and data.voxel[:2] == (2.0, 2.0)
    row, column = np.unravel_index(data.reference[0].argmax(), (36, 30))
    assert row < 12 and column > 18  # rows run from front to back, columns from left to right
    with pytest.raises(InputError, match="no such slice"):
        simulate(tmp_path / "head.nii.gz", tmp_path / "b.h5", slices=[8])
    assert not (tmp_path / "b.h5").exists()


def test_demo_file_is_small_and_the_same_every_time(tmp_path: Path) -> None:
    first, second = demo(tmp_path / "a"), demo(tmp_path / "b")
    a, b = read_fastmri(first), read_fastmri(second)
    np.testing.assert_array_equal(a.kspace, b.kspace)
    assert first.stat().st_size < 3e6 and not a.warnings and not a.phi_present
    assert a.label == first.name and np.isclose(a.acceleration, 4) and a.reference is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"coils": 0},
        {"snr": 0.0},
        {"noise_correlation": 1.0},
        {"matrix": (8, 40)},
        {"slices": 0},
        {"slices": []},
        {"acceleration": float("nan")},
        {"acceleration": 0.5},
        {"calib_lines": -1},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UsageError, match="out of range"):
        simulate(PHANTOM, tmp_path / "a.h5", **wrong)


def test_settings_from_the_command_line_are_checked_by_name_and_type(tmp_path: Path) -> None:
    words = {"matrix": [48, 40], "slices": "1", "coils": "4", "calib_lines": 6, "pattern": "equispaced"}
    data = read_fastmri(DOMAIN.simulate(PHANTOM, tmp_path / "a.h5", words))
    assert data.kspace.shape == (1, 4, 48, 40)
    for wrong in ({"coil": 4}, {"coils": "many"}, {"pattern": "radial"}, {"matrix": 3}, {"contrast": "dwi"}):
        with pytest.raises(UsageError):
            DOMAIN.simulate(PHANTOM, tmp_path / "b.h5", {"matrix": (48, 40), **wrong})
    assert not (tmp_path / "b.h5").exists()


def test_noise_differs_between_seeds() -> None:
    a, b = (_noise((1, 4, 24, 24), 0.0, seed).ravel() for seed in (1, 2))
    assert abs(np.vdot(a, b)) < 0.1 * np.vdot(a, a).real
