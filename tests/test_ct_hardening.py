"""Beam hardening: the curve of a solid disc straightens the data of the same material."""

import dataclasses as dc

import numpy as np
import pytest
import torch
from ct_files import CELLS, MU, PITCH, disc_lines, dxchange, nifti
from sciinv_ct import io
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.hardening import chords, of_disc, straight
from sciinv_ct.io.scan import Beam, Scan
from sciinv_ct.options import CTOptions
from sciinv_ct.prepare import readings
from sciinv_ct.problem import problem
from sciinv_ct.projector import Projector

from sciinv.errors import InputError, UsageError

STRENGTHS, LEVELS = np.array([0.5, 0.5]), np.array([0.6, 1.4])


def hardened(q):
    """Two energies of equal strength: what a beam shows of the line integral q that the weak beam limit has."""
    return -np.log((STRENGTHS * np.exp(-LEVELS * q[..., None])).sum(-1))


def solid(lines):
    angles = np.linspace(0, np.pi, len(lines), endpoint=False)
    return Scan(
        lines[None].astype(np.float32), "htc2022", "disc", "0" * 64, angles=angles, beam=Beam("parallel", PITCH)
    )


def test_a_polynomial_of_the_solid_disc_straightens_the_curve():
    lines = disc_lines(60, 128, 25.0)  # to q = 2
    found = of_disc(solid(hardened(lines)), 3)
    q, slope = straight(hardened(lines[0]), found)
    inside = lines[0] > 0.2
    assert np.ptp(hardened(lines[0])[inside] / lines[0][inside]) > 0.1
    assert np.ptp(q[inside] / lines[0][inside]) < 0.002
    middle = [*range(40, 62), *range(66, 88)]  # dq/dp by differences along the row
    differences = np.gradient(lines[0])[middle] / np.gradient(hardened(lines[0]))[middle]
    assert np.allclose(slope[middle], differences, rtol=0.05)
    assert np.abs(of_disc(solid(lines), 2)).max() < 1e-4


def test_noise_grows_with_the_slope_and_the_scale_follows():
    scan = solid(hardened(disc_lines(60, 128, 25.0)))
    options = CTOptions(size=32, sigma=0.01, model_error=0.0)
    plain, bent = readings(scan, options), readings(scan, dc.replace(options, hardening=(0.2, 0.1)))
    p = plain.lines
    assert np.allclose(bent.lines, np.where(p > 0, p * (1 + 0.2 * p + 0.1 * p**2), p))
    assert np.allclose(bent.sigma, plain.sigma * np.where(p > 0, 1 + 0.4 * p + 0.3 * p**2, 1))
    some = dc.replace(options, hardening=of_disc(scan), views=20)
    image = problem(scan, 0, some).meta["reference"][0]
    hard = problem(scan, 0, dc.replace(some, hardening=None)).meta["reference"][0]
    rim, middle = (slice(15, 17), slice(5, 8)), (slice(15, 17), slice(15, 17))
    assert abs(float(image[rim].mean() / image[middle].mean()) - 1) < 0.01  # cupping is gone
    assert float(hard[rim].mean() / hard[middle].mean()) > 1.05


@pytest.mark.parametrize("kind", ["parallel", "fan"])
def test_chords_are_those_of_the_projector(kind):
    source = {} if kind == "parallel" else {"source_origin": 60.0, "source_detector": 90.0}
    g = Geometry(kind, np.arange(5) * 0.7, CELLS, PITCH, Grid((256, 256), 16.0 / 256), **source)

    across, along, _ = (np.asarray(t) for t in g.grid.axes())
    disc = (np.hypot(across[None] - 1.0, along[:, None] + 2.0) < 3.0).astype(np.float32)

    lines = Projector(g)(torch.from_numpy(disc)).numpy()
    assert np.abs(lines - chords(g, 1.0, -2.0, 3.0)).max() < 0.6 and lines.max() > 5
    assert np.abs(lines - chords(g, 1.0, -2.0, 3.0)).mean() < 0.02


def test_refusals(tmp_path):
    with pytest.raises(InputError, match="does not rise"):
        straight(np.array([0.0, 2.0]), (-0.5,))
    with pytest.raises(InputError, match="no disc is seen"):
        of_disc(solid(np.zeros((60, 128))))
    with pytest.raises(InputError, match="line integrals of a flat detector"):
        of_disc(io.read(dxchange(tmp_path / "a.h5"), pitch=PITCH))
    counts = io.read(dxchange(tmp_path / "b.h5", lines=disc_lines(60)), pitch=PITCH)
    options = CTOptions(size=32, hardening=(0.1,))
    with pytest.raises(UsageError, match="straightens measured"):
        problem(counts, 0, dc.replace(options, noise="poisson"))
    assert problem(counts, 0, dc.replace(options, noise="gaussian")).meta["scale"] > MU
    with pytest.raises(UsageError, match="straightens measured"):
        problem(io.read(nifti(tmp_path / "c.nii.gz")), 0, options)


@pytest.mark.realdata
def test_the_solid_disc_of_htc2022_straightens_another_one(real_data):
    folder = real_data / "ct" / "htc2022"
    if not (folder / "htc2022_solid_disc_full.mat").is_file():
        pytest.skip("no htc2022_solid_disc_full.mat")
    found = of_disc(io.read(folder / "htc2022_solid_disc_full.mat"))
    options = CTOptions(size=128, fov=75.941, views=30)
    contrast = []
    for hardening in (None, found):
        p = problem(io.read(folder / "htc2022_01a_full.mat"), 0, dc.replace(options, hardening=hardening))
        image = p.meta["reference"][0] / p.meta["reference"].quantile(0.9)
        inside = image[32:96, 32:96].flatten().sort().values  # of two materials, air in the holes
        contrast.append(float(inside[:40].mean() / inside[-400:].mean()))
    assert contrast[0] > 0.2 and contrast[1] < 0.08
