"""FITS images as training data: orientation, planes, units, and files that lie."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from astropy.io import fits

from sciinv.errors import InputError, SciinvError
from sciinv.priors.checkpoint import load_prior
from sciinv.training.data import read_folder, read_images
from sciinv.training.folder import train_from_folder


def image(rows: int = 20, columns: int = 24) -> np.ndarray:
    """Upper row first, eastern column first, and no symmetry."""
    return np.arange(1.0, rows * columns + 1).reshape(rows, columns).astype(np.float32)


def write(path, data, **cards):
    unit = fits.PrimaryHDU(data)
    for key, value in cards.items():
        unit.header[key] = value
    unit.writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize("steps", [(-1e-9, 1e-9), (1e-9, 1e-9), (-1e-9, -1e-9), None])
def test_rows_and_columns_are_turned_as_the_header_says(tmp_path, steps):
    stored = image()[::-1]
    cards = {}
    if steps is not None:
        cards = {"CDELT1": steps[0], "CDELT2": steps[1]}
        stored = stored[:, ::-1] if steps[0] > 0 else stored
        stored = stored[::-1] if steps[1] < 0 else stored
    found = read_images(write(tmp_path / "a.fits", stored, **cards), complex_pair=False)
    np.save(tmp_path / "a.npy", image())
    assert torch.equal(found, read_images(tmp_path / "a.npy", complex_pair=False))
    assert found.shape == (1, 1, 20, 24)


def test_stored_integers_and_planes_and_extensions(tmp_path):
    """Scaled integers, four axes, and an image that is not in the primary unit."""
    cube = np.stack([image(), 3 * image()])[None]
    whole = fits.ImageHDU(np.int16(10 * cube[..., ::-1, :] - 50))
    whole.header["BSCALE"], whole.header["BZERO"] = 0.1, 5.0
    fits.HDUList([fits.PrimaryHDU(), whole]).writeto(tmp_path / "cube.fit")
    found = read_images(tmp_path / "cube.fit", complex_pair=False)
    scale = np.percentile(cube, 99)
    torch.testing.assert_close(found, torch.from_numpy(cube[0][:, None] / np.float32(scale)), rtol=1e-5, atol=1e-6)


def test_each_image_is_brought_to_the_mean(tmp_path):
    write(tmp_path / "a.fits", np.stack([image(), 5 * image()]))
    np.save(tmp_path / "b.npy", 1e-4 * image())
    paths, volumes = read_folder(tmp_path, False, mean=0.25)
    assert [p.name for p in paths] == ["a.fits", "b.npy"]
    for volume in volumes:
        torch.testing.assert_close(volume.mean((1, 2, 3)), torch.full((len(volume),), 0.25))
    np.save(tmp_path / "c.npy", np.stack([image(), -image()]))
    with pytest.raises(InputError, match="no positive mean"):
        read_folder(tmp_path, False, mean=0.25)


@pytest.mark.parametrize(
    ("data", "cards", "message"),
    [
        (None, {}, "holds no image"),
        (np.ones(7, np.float32), {}, "holds no image"),
        (np.full((4, 4), np.nan, np.float32), {}, "NaN"),
        (np.zeros((4, 4), np.float32), {}, "empty"),
        (image(), {"CDELT2": "north"}, "CDELT"),
    ],
)
def test_what_is_no_image_is_one_sentence(tmp_path, data, cards, message):
    write(tmp_path / "bad.fits", data, **cards)
    with pytest.raises(InputError, match=message):
        read_images(tmp_path / "bad.fits")


def test_mutated_and_cut_files_never_raise_anything_else(tmp_path):
    path = write(tmp_path / "m.fits", image(8, 8))
    good, rng = path.read_bytes(), np.random.default_rng(0)
    outcomes = []
    for k in range(80):
        bad = bytearray(good)
        for where in rng.integers(0, 480 if k % 2 else len(bad), 3):
            bad[where] = rng.integers(32, 127) if k % 2 else rng.integers(256)
        path.write_bytes(bytes(bad[: rng.integers(1, len(bad))] if k % 5 == 0 else bad))
        try:
            outcomes.append(bool(torch.isfinite(read_images(path)).all()))
        except SciinvError:
            outcomes.append(False)
    assert any(outcomes) and not all(outcomes)


def test_a_header_that_promises_more_than_there_is(tmp_path):
    path = write(tmp_path / "big.fits", image(8, 8))
    path.write_bytes(path.read_bytes().replace(b"NAXIS1  =                    8", b"NAXIS1  =          99999999999"))
    with pytest.raises(InputError, match="shorter than its header"):
        read_images(path)


def test_training_on_fits_ends_in_a_prior_of_that_unit(tmp_path):
    (tmp_path / "data").mkdir()
    for k in range(3):
        write(tmp_path / "data" / f"{k}.fits", np.roll(image(16, 16), k, 0) * 10.0**k)
    path = train_from_folder(
        tmp_path / "data", tmp_path / "out", steps=20, batch=2, crop=16, widths=(8,), blocks=(1,), complex_pair=False,
        mean=0.5, sigma_max=20.0,
    )  # fmt: skip
    prior = load_prior(path)
    assert prior.space.shape == (1, 16, 16) and prior.sigma_max == 20.0 and "mean of 0.5" in prior.card["intensity"]
    assert 0.5 < prior.sigma_data < 0.7
