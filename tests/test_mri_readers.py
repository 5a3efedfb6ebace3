"""Readers return the numbers that were written, the mask that was measured, and the place in the patient."""

import dataclasses as dc

import h5py
import ismrmrd
import nibabel as nib
import numpy as np
import pytest
from mri_files import coil_images, fft2, ifft2, make_ismrmrd
from sciinv_mri import io
from sciinv_mri.io.convert import centre_crop, crop_readout, remove_oversampling, to_complex64
from sciinv_mri.io.kspace import mask_from_samples
from scipy.spatial.transform import Rotation

from sciinv.errors import InputError, UsageError


@pytest.fixture
def kspace():
    return fft2(coil_images()).astype(np.complex64)


def test_fastmri_round_trip(tmp_path, kspace):
    mask = np.arange(24) % 3 == 0
    mask[10:14] = True
    path = io.write_fastmri(tmp_path / "a.h5", kspace * mask, mask=mask, voxel=(1.0, 1.2, 4.0))
    data = io.read_fastmri(path)
    np.testing.assert_array_equal(data.kspace, kspace * mask)
    np.testing.assert_array_equal(data.mask, mask[None, None])
    assert data.voxel == pytest.approx((1.0, 1.2, 4.0)) and data.affine is None
    assert data.acceleration == pytest.approx(24 / mask.sum()) and data.meta["protocol"] == "AXT1"
    assert not data.phi_present and io.find_reader(path) == "fastmri" and io.validate(path) == []


def test_training_mask_comes_from_the_columns_that_hold_samples(tmp_path, kspace):
    mask = np.arange(24) % 2 == 0
    data = io.read_fastmri(io.write_fastmri(tmp_path / "a.h5", kspace * mask))
    np.testing.assert_array_equal(data.mask, mask[None, None])


@pytest.mark.parametrize("with_mask", [True, False])
def test_padding_is_never_measured(tmp_path, kspace, with_mask):
    """Columns 5..21 were scanned, every second of them; the stored mask wrongly also marks the padding."""
    scanned = (np.arange(24) >= 5) & (np.arange(24) < 21)
    measured = scanned & ((np.arange(24) % 2 == 0) | (np.abs(np.arange(24) - 12) < 3))
    stored = measured | ~scanned
    path = io.write_fastmri(tmp_path / "a.h5", kspace * measured, mask=stored if with_mask else None, ky_range=(5, 21))
    data = io.read_fastmri(path)
    assert data.ky_range == (5, 21)
    np.testing.assert_array_equal(data.mask, measured[None, None])
    assert data.acceleration == pytest.approx(16 / measured.sum())


def test_a_mask_column_without_samples_is_not_measured(tmp_path, kspace):
    mask = np.ones(24, bool)
    kspace[..., 3] = 0
    data = io.read_fastmri(io.write_fastmri(tmp_path / "a.h5", kspace, mask=mask))
    assert not data.mask[0, 0, 3] and data.mask.sum() == 23
    assert any("only zeros" in note for note in data.warnings)


def test_samples_outside_the_mask_are_not_used(tmp_path, kspace):
    mask = np.arange(24) % 2 == 0
    data = io.read_fastmri(io.write_fastmri(tmp_path / "a.h5", kspace, mask=mask))
    assert not data.kspace[..., ~mask].any() and any("not used" in note for note in data.warnings)


def test_readout_oversampling_is_removed(tmp_path, kspace):
    data = io.read_fastmri(io.write_fastmri(tmp_path / "a.h5", kspace, size=(16, 20)))
    assert data.kspace.shape == (2, 3, 16, 24) and data.target == (16, 20)
    np.testing.assert_allclose(ifft2(data.kspace), centre_crop(coil_images(), (16, 24)), atol=1e-5)
    whole = io.read_fastmri(tmp_path / "a.h5", keep_oversampling=True)
    assert whole.kspace.shape == kspace.shape


@pytest.mark.parametrize(("old", "new"), [(32, 16), (33, 16), (32, 17), (33, 17), (31, 30)])
def test_oversampling_keeps_the_centre_and_the_noise(old, new):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((1, 4, old, 8)) + 1j * rng.standard_normal((1, 4, old, 8))).astype(np.complex64)
    cropped = remove_oversampling(fft2(x).astype(np.complex64), new)
    np.testing.assert_allclose(ifft2(cropped), centre_crop(x, (new, 8)), atol=1e-5)
    assert abs(np.abs(cropped).var() / np.abs(fft2(x)).var() - 1) < 0.25


def test_partial_echo_gives_up_the_rows_at_its_border(kspace):
    mask = np.zeros((1, 32, 24), bool)
    mask[:, 8:] = True
    cropped, rows, note = crop_readout(kspace * mask, mask, 16)
    true = remove_oversampling(kspace, 16)
    assert note and not cropped[:, :, ~rows[0, :, 0]].any()
    kept = rows[0, :, 0]
    assert 4 < kept.sum() < 12 and kept[8]
    error = np.abs(cropped - true)[:, :, kept].max() / np.abs(true).max()
    assert error < 0.02
    pattern = np.random.default_rng(0).random((1, 32, 24)) < 0.5
    same, _, note = crop_readout(kspace * pattern, pattern, 16)
    assert same.shape[2] == 32 and "kept" in note


def test_missing_header_is_a_warning_and_the_reference_gives_the_size(tmp_path, kspace):
    reference = np.sqrt((np.abs(centre_crop(coil_images(), (16, 20))) ** 2).sum(1))
    path = io.write_fastmri(tmp_path / "a.h5", kspace, reference=reference, header=False)
    data = io.read_fastmri(path)
    assert data.target == (16, 20) and data.voxel is None and "no ISMRMRD header" in data.warnings[0]
    np.testing.assert_allclose(data.reference, reference, rtol=1e-6)
    image = np.sqrt((np.abs(centre_crop(ifft2(data.kspace), data.target)) ** 2).sum(1))
    np.testing.assert_allclose(image, reference, atol=1e-5)  # the reader's grid is the one the reference was made on


def test_single_coil_and_two_dimensional_masks(tmp_path, kspace):
    data = io.read_fastmri(io.write_fastmri(tmp_path / "a.h5", kspace[:, 0]))
    assert data.kspace.shape == (2, 1, 32, 24)
    pattern = np.random.default_rng(0).random((32, 24)) < 0.4
    data = io.read_fastmri(io.write_fastmri(tmp_path / "b.h5", kspace * pattern, mask=pattern))
    np.testing.assert_array_equal(data.mask, pattern[None])
    assert not data.one_dimensional and data.acceleration == pytest.approx(pattern.size / pattern.sum())


def test_a_zero_by_chance_is_still_a_measurement(kspace):
    kspace[:, :, 5, 7] = 0
    assert mask_from_samples(kspace).shape == (1, 1, 24) and mask_from_samples(kspace).all()


def test_an_empty_slice_does_not_hide_the_pattern(kspace):
    mask = np.arange(24) % 2 == 0
    kspace = kspace * mask
    kspace[0] = 0
    np.testing.assert_array_equal(mask_from_samples(kspace), mask[None, None])


@pytest.mark.parametrize("form", ["c8", "c16", ">c8", ">c16", "f4x2", "f8x2", "i2x2", "compound", "compound-r-i"])
def test_every_stored_form_of_complex_reads_the_same(tmp_path, kspace, form):
    # integers first, so that int16 holds the values exactly
    scale = 0.01
    exact = (np.rint(kspace / scale).astype(np.complex128) * scale).astype(np.complex64)
    stored = exact.astype(np.complex128)
    pair = np.stack([stored.real, stored.imag], -1)
    array, factor = {
        "f4x2": (pair.astype("f4"), 1.0),
        "f8x2": (pair, 1.0),
        "i2x2": (np.rint(pair / scale).astype("i2"), scale),
        "compound": (pair.view([("real", "f8"), ("imag", "f8")])[..., 0], 1.0),
        "compound-r-i": (pair.view([("r", "f8"), ("i", "f8")])[..., 0], 1.0),
    }.get(form, (stored.astype(form) if "x" not in form and "comp" not in form else stored, 1.0))
    np.save(tmp_path / "a.npy", array)
    names = "slice,coil,kx,ky" + (",part" if "x2" in form else "")
    data = io.read_npy_kspace(tmp_path / "a.npy", axes=names, scale=factor)
    np.testing.assert_allclose(data.kspace, exact, atol=1e-6 * np.abs(exact).max(), rtol=0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = array
        file["kspace"].attrs["scale"] = factor
    again = io.read_fastmri(tmp_path / "a.h5")
    np.testing.assert_allclose(again.kspace, exact, atol=1e-6 * np.abs(exact).max(), rtol=0)


def test_tiny_values_are_kept_and_impossible_ones_refused():
    tiny = np.full((2, 2), 1e-9 + 1e-9j)
    np.testing.assert_allclose(to_complex64(tiny, where="t"), tiny, rtol=1e-6)
    for peak in (1e-40, 1e35):
        with pytest.raises(InputError, match="rescale"):
            to_complex64(np.full((2, 2), peak + 0j), where="t")


def test_npy_axes(tmp_path, kspace):
    np.save(tmp_path / "a.npy", kspace[0].transpose(0, 2, 1))
    data = io.read_npy_kspace(tmp_path / "a.npy", axes="coil,ky,kx")
    np.testing.assert_array_equal(data.kspace, kspace[:1])
    np.save(tmp_path / "b.npy", kspace)
    np.testing.assert_array_equal(io.read(tmp_path / "b.npy").kspace, kspace)
    assert "guessed" in io.read(tmp_path / "b.npy").warnings[0]
    np.save(tmp_path / "c.npy", np.asfortranarray(kspace[0, :, None]))
    np.testing.assert_array_equal(io.read(tmp_path / "c.npy", axes="coil,_,y,x").kspace, kspace[:1])
    for wrong in ("coil,ky", "coil,ky,ky", "coil,ky,banana", "coil,slice,ky"):
        with pytest.raises(UsageError):
            io.read_npy_kspace(tmp_path / "a.npy", axes=wrong)
    np.save(tmp_path / "d.npy", np.zeros((320, 8, 8), np.complex64) + 1)
    with pytest.raises(InputError, match="too many coils"):
        io.read_npy_kspace(tmp_path / "d.npy")


@pytest.mark.realdata
def test_real_files(real_data):
    data = io.read(real_data / "mri" / "sigpy_tutorial_brain8ch_poisson8x_ksp.npy")
    assert data.kspace.shape == (1, 8, 230, 180) and not data.one_dimensional and 7 < data.acceleration < 9
    assert data.mask[0, 115 - 10 : 115 + 10, 90 - 10 : 90 + 10].all()  # the calibration square is in the centre
    brain = real_data / "mri" / "mchiew_sense_tutorial_brain16ch_full_raw_data.mat"
    data = io.read(brain)
    assert data.kspace.shape == (1, 16, 96, 96) and not data.undersampled
    raw = io.load_mat73(brain, "raw")
    np.testing.assert_array_equal(data.kspace[0], raw[:, 0])
    image = np.sqrt((np.abs(ifft2(data.kspace[0])) ** 2).sum(0))
    assert image[32:64, 32:64].mean() > 5 * image[:8].mean()  # centred: the head is in the middle, air at the edge


def test_ismrmrd_matches_what_was_written(tmp_path, kspace):
    mask = np.arange(24) % 3 != 1
    path = make_ismrmrd(tmp_path / "a.h5", kspace, mask=mask)
    data = io.read_ismrmrd(path)
    np.testing.assert_allclose(data.kspace, kspace * mask, atol=1e-6)
    np.testing.assert_array_equal(data.mask, mask[None, None])
    assert (
        data.noise is None and data.averages is None and io.find_reader(path) == "ismrmrd" and io.validate(path) == []
    )
    assert data.meta["field_strength_T"] == 2.89 and data.meta["TR_ms"] == 3000


def test_ismrmrd_skips_what_is_no_image(tmp_path, kspace):
    skipped = (19, 23, 24, 26, 27, 28, 29)
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "a.h5", kspace, extra_flags=skipped))
    np.testing.assert_allclose(data.kspace, kspace, atol=1e-6)
    # a flag next to the skipped ones must not be skipped: the line with 1e3 then shows in the average
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "b.h5", kspace, extra_flags=(25,)))
    assert np.abs(data.kspace[0, :, :, 12]).max() > 100
    separate = "<mrd:parallelImaging><mrd:calibrationMode>separate</mrd:calibrationMode></mrd:parallelImaging>"
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "c.h5", kspace, extra_flags=(20,), calibration=separate))
    np.testing.assert_allclose(data.kspace, kspace, atol=1e-6)


def test_ismrmrd_noise_scan_has_the_bandwidth_of_the_image(tmp_path, kspace):
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal((3, 256)) + 1j * rng.standard_normal((3, 256))).astype(np.complex64)
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "a.h5", kspace, noise=noise))
    np.testing.assert_allclose(data.noise, noise, atol=1e-6)
    np.testing.assert_allclose(data.kspace, kspace, atol=1e-6)
    # a dwell time four times shorter in the image: four times the bandwidth, twice the noise
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "b.h5", kspace, noise=noise, dwell=(20.0, 5.0), bandwidth=0.79))
    np.testing.assert_allclose(data.noise, noise * np.sqrt(4 / 0.79), rtol=1e-5)


def test_ismrmrd_averages_and_contrasts(tmp_path, kspace):
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "a.h5", kspace, averages=2, contrasts=2))
    np.testing.assert_allclose(data.kspace, kspace, atol=1e-5)
    assert (data.averages == 2).all() and any("contrast" in note for note in data.warnings)
    data = io.read_ismrmrd(tmp_path / "a.h5", contrast=1)
    np.testing.assert_allclose(data.kspace, 2 * kspace, atol=1e-5)
    with pytest.raises(InputError, match="contrast"):
        io.read_ismrmrd(tmp_path / "a.h5", contrast=5)


def test_ismrmrd_partial_fourier_and_asymmetric_echo_keep_their_place(tmp_path, kspace):
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "a.h5", kspace, first_line=6, drop_left=5))
    held = np.zeros((32, 24), bool)
    held[5:, 6:] = True
    np.testing.assert_allclose(data.kspace, kspace * held, atol=1e-6)
    np.testing.assert_array_equal(data.mask, held[None])
    assert data.ky_range == (6, 24)


def test_ismrmrd_oversampling_and_slice_order(tmp_path, kspace):
    four = np.concatenate([kspace, 2 * kspace])
    path = make_ismrmrd(tmp_path / "a.h5", four, recon=(16, 24), slice_numbers=[2, 0, 3, 1])
    data = io.read_ismrmrd(path)
    assert data.kspace.shape == (4, 3, 16, 24)
    full = np.concatenate([coil_images(), 2 * coil_images()])
    np.testing.assert_allclose(ifft2(data.kspace), centre_crop(full, (16, 24)), atol=1e-4)
    assert any("sorted by position" in note for note in data.warnings)


@pytest.mark.parametrize("size", [(16, 24), (15, 21)])
def test_ismrmrd_affine_of_an_oblique_stack(tmp_path, kspace, size):
    """Each slice's centre voxel sits at its position, each index moves along its own direction, LPS becomes RAS."""
    turn = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    path = make_ismrmrd(tmp_path / "a.h5", kspace, recon=size, axes=turn, voxel=(1.0, 1.2), gap=6.0)
    data = io.read_ismrmrd(path)
    assert data.target == size and data.voxel == pytest.approx((1.0, 1.2, 6.0), rel=1e-4)
    flip = np.diag([-1.0, -1.0, 1.0])
    read, phase, normal = turn.T
    for row, column, number in [(0, 0, 0), (3, 0, 1), (0, 7, 1), (size[0] // 2, size[1] // 2, 0)]:
        lps = np.array([10.0, -20.0, 30.0]) + number * 6.0 * normal
        lps = lps + (row - size[0] // 2) * 1.0 * read + (column - size[1] // 2) * 1.2 * phase
        np.testing.assert_allclose((data.affine @ [column, row, number, 1])[:3], flip @ lps, atol=1e-3)


def test_ismrmrd_axial_scan_reads_as_expected_by_viewers(tmp_path, kspace):
    """Readout towards posterior, phase to the patient's left, slices to the head: index axes are L, P, S."""
    axes = np.stack([[0, 1, 0], [1, 0, 0], [0, 0, 1]], 1).astype(float)
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "a.h5", kspace, axes=axes))
    assert nib.aff2axcodes(data.affine) == ("L", "P", "S")


def test_unknown_orientation_is_said(tmp_path, kspace):
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "a.h5", kspace, axes=np.zeros((3, 3))))
    assert data.affine is None and any("orientation unknown" in note for note in data.warnings)
    assert data.info()["orientation"] == "unknown"


@pytest.mark.parametrize(
    ("twist", "message"),
    [({"trajectory": "radial"}, "Cartesian"), ({"trajectory": "epi"}, "Cartesian"), ({"partitions": 8}, "3-D"),
     ({"extra_flags": (ismrmrd.ACQ_IS_REVERSE,)}, "echo-planar"), ({"centre_sample": 3}, "outside the encoded matrix")],
)  # fmt: skip
def test_ismrmrd_says_what_it_cannot_read(tmp_path, kspace, twist, message):
    with pytest.raises(InputError, match=message) as caught:
        io.read_ismrmrd(make_ismrmrd(tmp_path / "a.h5", kspace, **twist))
    assert caught.value.exit_code == 3 and "a.h5" in str(caught.value)


def test_select_moves_the_affine(tmp_path, kspace):
    four = np.concatenate([kspace, 2 * kspace])
    data = io.read_ismrmrd(make_ismrmrd(tmp_path / "a.h5", four))
    part = data.select(slice(1, 4, 2))
    np.testing.assert_array_equal(part.kspace, data.kspace[[1, 3]])
    np.testing.assert_allclose(part.affine @ [0, 0, 1, 1], data.affine @ [0, 0, 3, 1], atol=1e-9)
    assert data.select([0, 1, 3]).affine is None


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, ">i2", np.float32, ">f8"])
@pytest.mark.parametrize("packed", [".nii", ".nii.gz"])
def test_nifti_any_axis_order_becomes_ras(tmp_path, dtype, packed):
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # (x, y, z) in RAS
    affine = np.array([[2.0, 0, 0, -5], [0, 3, 0, 7], [0, 0, 4, 1], [0, 0, 0, 1]])
    # the same volume stored as (z, -x, y)
    stored = volume.transpose(2, 0, 1)[:, ::-1]
    turned = affine @ np.array([[0, -1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    image = nib.Nifti1Image(stored.astype(dtype), turned, dtype=np.dtype(dtype))
    nib.save(image, tmp_path / f"a{packed}")
    data = io.read(tmp_path / f"a{packed}")
    np.testing.assert_allclose(data.volume, volume.transpose(2, 1, 0))
    np.testing.assert_allclose(data.affine, affine, atol=1e-5)
    assert data.voxel == pytest.approx((3, 2, 4)) and data.oriented


def test_nifti_slope_and_series(tmp_path):
    series = np.arange(4 * 5 * 6 * 2, dtype=np.int16).reshape(4, 5, 6, 2)
    image = nib.Nifti1Image(series, np.eye(4))
    image.header.set_slope_inter(0.5, 3.0)
    nib.save(image, tmp_path / "a.nii")
    expected = nib.load(tmp_path / "a.nii").get_fdata()
    first, second = io.read(tmp_path / "a.nii"), io.read(tmp_path / "a.nii", volume=1)
    np.testing.assert_allclose(first.volume, expected[..., 0].T, rtol=1e-6)
    np.testing.assert_allclose(second.volume, expected[..., 1].T, rtol=1e-6)
    assert "2 volumes" in first.warnings[0] and not second.warnings


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["colin27_ch2.nii.gz", "nibabel_example4d.nii.gz"])
def test_real_nifti_agrees_with_nibabel(real_data, name):
    data = io.read(real_data / "mri" / name)
    image = nib.as_closest_canonical(nib.load(real_data / "mri" / name))
    expected = np.asarray(image.dataobj)
    expected = expected[..., 0] if expected.ndim == 4 else expected
    np.testing.assert_allclose(data.volume, expected.T, rtol=1e-5)
    np.testing.assert_allclose(data.affine, image.affine, atol=1e-4)


def test_no_patient_data_leaves_a_reader(tmp_path, kspace):
    """30 kinds of canary would be as silent as these: nothing outside an allow-list is copied."""
    path = make_ismrmrd(tmp_path / "CANARY_name.h5", kspace, phi=True)
    fast = io.write_fastmri(tmp_path / "CANARY-2.h5", kspace, acquisition="CANARY")
    with h5py.File(fast, "r+") as file:
        file.attrs["patient_id"] = "CANARY-3"
        xml = file["ismrmrd_header"][()]
        del file["ismrmrd_header"]
        tag = b"<subjectInformation><patientName>CANARY</patientName></subjectInformation></ismrmrdHeader>"
        file["ismrmrd_header"] = np.bytes_(xml.replace(b"</ismrmrdHeader>", tag))
    for data in (io.read(path), io.read(fast)):
        public = dc.asdict(dc.replace(data, source=""))
        assert data.phi_present and "CANARY" not in str(public) and "CANARY" not in str(data.info())
        assert "1999" not in str(public["meta"]) and "CANARY" not in data.label
        assert any("not copied" in note for note in data.warnings)
