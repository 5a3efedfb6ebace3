"""From projections to problems: whitening, units, views and cells, exact posteriors, files that come out."""

import dataclasses as dc

import nibabel as nib
import numpy as np
import pytest
import torch
from ct_files import CELLS, MU, PITCH, VIEWS, dicom, disc_lines, dxchange, htc, image, nifti
from sciinv_ct import io
from sciinv_ct.geometry import Geometry, Grid
from sciinv_ct.io.scan import MU_WATER, Beam, Scan
from sciinv_ct.operator import LineIntegrals
from sciinv_ct.options import CTOptions
from sciinv_ct.prepare import readings, resampled, squared, unit_of
from sciinv_ct.problem import baseline, problem
from sciinv_ct.projector import Projector
from sciinv_ct.simulate import simulate
from sciinv_ct.write import write
from scipy.spatial.transform import Rotation

from sciinv.certify.stream import OneStream
from sciinv.errors import InputError, UsageError
from sciinv.generic.dense import Dense
from sciinv.noise import Gaussian
from sciinv.priors.random_field import RandomFieldPrior
from sciinv.problem import Problem
from sciinv.results import ItemResult, RunContext
from sciinv.samplers import METHODS, sample
from sciinv.samples import Samples
from sciinv.testing import check_operator

DISC = CTOptions(size=32, noise="gaussian", model_error=0.0)


def fit(p: Problem, steps: int = 30) -> torch.Tensor:
    """A least-squares image in 1/mm."""
    from sciinv.linalg import cg

    back = p.linear.adjoint(p.y)[None]
    return cg(lambda v: p.linear.normal(v) + 1e-3 * v, back, max_iter=steps, tol=1e-6).x[0, 0] * p.meta["scale"]


def test_operator_meets_the_contract():
    g = Geometry("fan", np.arange(7) * 0.3, 12, 1.5, Grid((8, 8), 1.0), 60.0, 90.0)
    weight = 1 + torch.arange(84.0).reshape(7, 12) / 84
    check_operator(LineIntegrals(Projector(g), 0.3, weight))
    check_operator(LineIntegrals(Projector(g), 0.3))


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_counts_give_a_disc_of_the_right_attenuation_and_noise_of_one(tmp_path, noise):
    scan = io.read(dxchange(tmp_path / "a.h5", lines=disc_lines(90)), pitch=PITCH)
    p = problem(scan, 0, dc.replace(DISC, noise=noise))
    assert ("gaussian" in p.capabilities()) == (noise == "gaussian")
    assert 0.8 * MU < p.meta["scale"] < 1.3 * MU and abs(p.meta["gain"] - 1) < 0.15
    x = fit(p.linearised)
    assert abs(float(x[12:20, 12:20].mean()) / MU - 1) < 0.02
    # the truth itself fits to the noise (pixels of a disc are no exact disc)
    truth = torch.from_numpy(resampled(_disc(256), 32).astype(np.float32)) / p.meta["scale"]
    assert 0.9 < float(p.chi2(truth[None])) / p.n_data < 2
    assert p.meta["support"].shape == (1, 32, 32) and 0.2 < float(p.meta["support"].float().mean()) < 0.5
    assert abs(float((baseline(p)[0] * p.meta["scale"])[12:20, 12:20].mean()) / MU - 1) < 0.05


def _disc(n: int) -> np.ndarray:
    c = (np.arange(n) + 0.5) / n * CELLS * PITCH - CELLS * PITCH / 2
    return MU * (np.hypot(c, c[:, None]) < 5.0)


def test_views_arcs_cells_and_bins_leave_out_what_they_say(tmp_path):
    scan = io.read(dxchange(tmp_path / "a.h5", lines=disc_lines(60)), pitch=PITCH)
    whole = readings(scan.select([0]), DISC)
    assert whole.geometry.shape == (60, CELLS) and whole.full is None
    some = readings(scan.select([0]), dc.replace(DISC, views=20))
    assert np.allclose(np.diff(np.rad2deg(some.geometry.angles)), 9) and some.full.geometry.shape[0] == 60
    arc = readings(scan.select([0]), dc.replace(DISC, arc=30, arc_start=60))
    assert np.allclose(np.rad2deg(arc.geometry.angles), np.arange(60, 91, 3))
    pair = readings(scan.select([0]), dc.replace(DISC, bin=2, size=16))
    assert pair.geometry.shape == (60, 16) and np.isclose(pair.geometry.pitch_column, 2 * PITCH)
    assert np.allclose(pair.photons, whole.photons.reshape(60, 16, 2).sum(2))
    cut = readings(scan.select([0]), dc.replace(DISC, cells=(4, 27)))
    assert np.allclose(cut.geometry.u(), whole.geometry.u()[4:28])
    for wrong in ({"views": 999}, {"cells": (0, 99)}, {"arc": 10, "arc_start": 400}):
        with pytest.raises(UsageError):
            readings(scan.select([0]), dc.replace(DISC, **wrong))


def test_binning_keeps_the_detector_where_it_is(tmp_path):
    """An odd cell at the end is dropped, and the middle of what is left moves by half a cell."""
    lines = disc_lines(60, 33)
    beam = Beam("parallel", PITCH, offset=0.25)
    scan = Scan(lines[None].astype(np.float32), "t", "t", "0", np.arange(60) * np.pi / 60, beam)
    one, two = (readings(scan, dc.replace(DISC, bin=b, fov=16.0)) for b in (1, 2))
    assert np.allclose(two.geometry.u(), one.geometry.u()[:32].reshape(16, 2).mean(1))


def test_dead_cells_are_left_out(tmp_path):
    path = dxchange(tmp_path / "a.h5", lines=disc_lines(60))
    import h5py

    with h5py.File(path, "r+") as file:
        file["exchange/data_white"][:, :, 9] = 90.0
    scan = io.read(path, pitch=PITCH)
    assert any("dead" in w for w in scan.warnings)
    p = problem(scan, 0, DISC)
    assert p.operator.codomain.shape == (1, 60, CELLS - 1)
    assert abs(float(fit(p)[12:20, 12:20].mean()) / MU - 1) < 0.02
    assert abs(float((baseline(p)[0] * p.meta["scale"])[12:20, 12:20].mean()) / MU - 1) < 0.05
    some = problem(scan, 0, dc.replace(DISC, views=20))  # the views left out are a reference in spite of them
    assert abs(float(some.meta["reference"][0, 12:20, 12:20].mean()) / MU - 1) < 0.05


def test_the_centre_of_rotation_matters_and_its_option_repairs_it(tmp_path):
    u = PITCH * (np.arange(CELLS) - 18.5)
    lines = np.tile(2 * MU * np.sqrt(np.maximum(25 - u**2, 0)), (180, 1))
    path = dxchange(tmp_path / "a.h5", lines=lines, theta=np.arange(180) * 2.0)
    misfits = [
        float(p.chi2(fit(p)[None] / p.meta["scale"])) / p.n_data
        for p in (problem(io.read(path, pitch=PITCH), 0, dc.replace(DISC, fov=12.0, centre=c)) for c in (-1.0, 18.5))
    ]
    assert misfits[1] < 2 < 10 < misfits[0], misfits


def test_unit_comes_from_shadows_even_of_a_short_arc():
    for count in (60, 4):
        scan = Scan(disc_lines(60)[None, :count].astype("f4"), "t", "t", "0", np.arange(count) * 0.05,
                    Beam("parallel", PITCH))  # fmt: skip
        assert abs(unit_of(readings(scan, DISC)) / MU - 1) < 0.1
    scan = Scan(np.zeros((1, 9, 9), "f4"), "t", "t", "0", np.arange(9) * 0.1, Beam("parallel", PITCH))
    with pytest.raises(InputError, match="no object"):
        unit_of(readings(scan, dc.replace(DISC, size=16)))


def test_noise_of_bare_line_integrals_is_found_in_air(tmp_path):
    rng = np.random.default_rng(0)
    sinogram = disc_lines(200) + 0.01 * rng.normal(size=(200, CELLS))
    scan = io.read(htc(tmp_path / "a.mat", sinogram=sinogram, angles=np.arange(200) * 1.8))
    found = readings(scan, dc.replace(DISC, model_error=0.0))
    assert abs(float(found.sigma[:, 0].mean()) / 0.01 - 1) < 0.1
    with pytest.raises(InputError, match="no counts"):
        problem(scan, 0, dc.replace(DISC, noise="poisson"))
    sinogram[100:] += 0.1 * rng.normal(size=(100, CELLS))  # views that are left out say nothing
    scan = io.read(htc(tmp_path / "b.mat", sinogram=sinogram, angles=np.arange(200) * 1.8))
    half = readings(scan, dc.replace(DISC, arc=179.0))
    assert len(half.sigma) == 100 and abs(float(half.sigma[:, 0].mean()) / 0.01 - 1) < 0.1


def test_images_are_projected_with_the_noise_that_was_asked_for(tmp_path):
    scan = io.read(dicom(tmp_path / "a"))
    options = CTOptions(views=40, photons=1e4, model_error=0.0, beam="parallel")
    p = problem(scan, 0, options)
    assert p.meta["scale"] == MU_WATER and any("own grid" in w for w in p.meta["warnings"])
    truth = p.meta["reference"] / p.meta["scale"]
    assert np.allclose(truth[0].numpy(), image(), atol=2e-3)
    assert 0.9 < float(p.chi2(truth)) / p.n_data < 1.1
    assert problem(scan, 0, dc.replace(options, photons=20.0)).meta["noise_model"] == "poisson"
    other = problem(scan, 0, dc.replace(options, seed=1))
    assert not torch.equal(other.y, p.y) and torch.equal(problem(scan, 0, options).y, p.y)
    coarse = problem(scan, 0, dc.replace(options, size=16))
    assert coarse.domain.shape == (1, 16, 16) and coarse.meta["pixel_mm"] == 4.0


def test_a_geometry_that_misses_or_crosses_the_object_is_refused(tmp_path):
    scan = io.read(dicom(tmp_path / "a"))
    with pytest.raises(UsageError, match="through the image"):
        problem(scan, 0, CTOptions(source_origin=10.0))
    counts = io.read(dxchange(tmp_path / "b.h5"), pitch=PITCH)
    with pytest.raises(InputError, match="off the detector"):
        problem(counts, 0, dc.replace(DISC, centre=500.0))
    with pytest.raises(InputError, match="no such slice"):
        problem(counts, 9, DISC)


def test_squaring_keeps_the_image_in_the_middle():
    wide = np.zeros((4, 8))
    wide[1:3, 2:6] = 1.0
    out, pixel = squared(wide, (2.0, 1.0))
    assert out.shape == (8, 8) and pixel == 1.0 and abs(out.sum() - 16) < 4
    rows, columns = np.nonzero(out > 0.5)
    assert rows.mean() == columns.mean() == 3.5
    assert np.isclose(resampled(out, 4).mean(), out.mean()) and np.isclose(resampled(out, 5).mean(), out.mean())


def test_exact_posterior_of_a_random_field_against_the_dense_closed_form():
    """32 x 32, parallel, 16 views: mean and standard deviation of pnpdm within twice the sampling floor."""
    n, count = 32, 160
    prior = RandomFieldPrior((n, n), slope=3.0, corner=0.06)
    g = Geometry("parallel", np.arange(16) * np.pi / 16, n, 1.0, Grid((n, n), 1.0))
    weight = torch.full((16, n), 2.0)
    op = LineIntegrals(Projector(g), 0.2, weight)
    truth = prior.draw(OneStream(5, [0]))
    y = op(truth)[0] + OneStream(6, [0]).normal((1, 16, n))[0]
    p = Problem(y, op, Gaussian(1.0), cg_tol=1e-6)
    law = prior.posterior(Dense(op.as_matrix(torch.float32), (1, n, n)), y.flatten(), 1.0)
    out = sample(METHODS["pnpdm"](stationary=2, rho_min=0.03), p, prior, count, 0, rng_factory=OneStream)
    mean, std = law.mean.reshape(n, n), law.cov.diagonal().sqrt().reshape(n, n)
    error = (out.x[:, 0].mean(0) - mean).square().mean().sqrt()
    floor = std.square().mean().sqrt() / count**0.5
    assert float(error) < 2 * float(floor), (error, floor)
    ratio = out.x[:, 0].std(0) / std - 1
    assert float(ratio.square().mean().sqrt()) < 2 * (2 * count) ** -0.5, ratio.square().mean().sqrt()


def test_simulated_files_hold_what_they_say(tmp_path):
    path = simulate("phantom", tmp_path / "a.h5", cells=32, views=40, photons=1e5, seed=3)
    scan = io.read(path)
    assert scan.reference.shape == (1, 32, 32) and np.isclose(scan.beam.pitch, 76 / 32)
    p = problem(scan, 0, CTOptions(model_error=0.0))
    truth = p.meta["reference"] / p.meta["scale"]
    assert 0.8 < float(p.chi2(truth)) / p.n_data < 30  # pixels against a finer object, at 1e5 photons
    assert float((fit(p) - p.meta["reference"][0]).square().mean().sqrt()) < 0.1 * 0.033
    assert simulate("phantom", tmp_path / "b.h5", cells=32, views=40, photons=1e5, seed=3).stat().st_size > 0
    again = io.read(tmp_path / "b.h5")
    assert np.array_equal(again.values, scan.values)
    with pytest.raises(UsageError, match="photons"):
        simulate("phantom", tmp_path / "c.h5", photons=-1)


def result_of(p: Problem, item: int = 0, shift: float = 0.0) -> ItemResult:
    x = p.meta["reference"] + shift + 1e-4 * torch.arange(-2.0, 3.0)[:, None, None, None]
    summary = Samples(x).summary(0.9)
    return ItemResult(item, x, summary, torch.ones(5), meta=dict(p.meta), reference=p.meta["reference"])


CONTEXT = RunContext("x", "0" * 64, "pnpdm", {"name": "p", "sha256": "1"}, 0.9, "words", 1, "plan")


def test_written_units_and_orientation(tmp_path):
    import pydicom

    scan = io.read(dicom(tmp_path / "a"))
    p = problem(scan, 0, CTOptions(views=8, beam="parallel"))
    paths = write(tmp_path / "out", scan, [result_of(p)], CONTEXT)
    assert all(path.is_file() for path in paths)
    mean = nib.load(tmp_path / "out" / "recon_mean.nii.gz")
    hu = np.asarray(mean.dataobj)[:, :, 0].T
    assert np.allclose(hu, 1000 * image() - 1000, atol=2) and np.allclose(mean.affine, scan.place.affine)
    std = np.asarray(nib.load(tmp_path / "out" / "recon_std.nii.gz").dataobj)
    assert np.allclose(std, 1000 / MU_WATER * float(torch.arange(5.0).std()) * 1e-4, rtol=1e-3)  # no offset of -1000
    ds = pydicom.dcmread(tmp_path / "out" / "dicom" / "mean_0000.dcm")
    back = io.read(tmp_path / "out" / "dicom" / "mean_0000.dcm")
    assert np.allclose(back.values[0], MU_WATER * image(), atol=MU_WATER * 2e-3)
    assert np.allclose(back.place.affine, scan.place.affine, atol=1e-6)
    assert "SECRET" not in str(ds) and "12345" not in str(ds) and ds.Modality == "CT"
    again = write(tmp_path / "two", scan, [result_of(p)], CONTEXT)
    assert [a.read_bytes() for a in paths if a.suffix != ".h5"] == [b.read_bytes() for b in again if b.suffix != ".h5"]


def test_maps_of_a_volume_lie_over_it_in_both_formats(tmp_path):
    square = np.array([[0.0, -2, 0, 5], [2, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    square[:3, :3] = Rotation.from_euler("xyz", [12, -25, 14], degrees=True).as_matrix() @ square[:3, :3]
    sheared = square.copy()
    sheared[:3, 1] = 2 * np.array([-np.cos(0.3), np.sin(0.3), 0])
    for name, affine, known in (("a", square, True), ("b", sheared, False)):
        scan = io.read(nifti(tmp_path / f"{name}.nii", affine=affine))
        p = problem(scan, 1, CTOptions(views=8, beam="parallel"))
        write(tmp_path / name, scan, [result_of(p, 1)], CONTEXT)
        maps = nib.load(tmp_path / name / "recon_mean.nii.gz").affine
        assert np.allclose(maps @ [3, 5, 0, 1], scan.place.affine @ [3, 5, 1, 1], atol=1e-4)
        back = io.read(tmp_path / name / "dicom" / "mean_0000.dcm").place.affine
        assert np.allclose(back[:, [0, 1, 3]], maps[:, [0, 1, 3]], atol=1e-4) == known


def test_a_coarser_reconstruction_lies_over_the_image(tmp_path):
    scan = io.read(dicom(tmp_path / "a"))
    p = problem(scan, 0, CTOptions(views=8, beam="parallel", size=16))
    write(tmp_path / "out", scan, [result_of(p)], CONTEXT)
    coarse = nib.load(tmp_path / "out" / "recon_mean.nii.gz")
    assert np.allclose(coarse.header.get_zooms()[:2], 4.0)
    # the first coarse pixel lies between the first four of the image
    assert np.allclose(coarse.affine @ [0, 0, 0, 1], scan.place.affine @ [0.5, 0.5, 0, 1])
    back = io.read(tmp_path / "out" / "dicom" / "mean_0000.dcm")
    assert np.allclose(back.place.affine, coarse.affine, atol=1e-6)
    counts = io.read(dxchange(tmp_path / "b.h5", lines=disc_lines(VIEWS)), pitch=PITCH)
    q = problem(counts, 0, dc.replace(DISC, views=12))
    write(tmp_path / "three", counts, [result_of(q, 1)], CONTEXT)
    plain = nib.load(tmp_path / "three" / "recon_mean.nii.gz")
    assert plain.header["sform_code"] == 0 and np.allclose(plain.header.get_zooms()[:2], PITCH)
    assert float(np.asarray(plain.dataobj).max()) < 2 * MU  # 1/mm, not Hounsfield
