"""What is written opens elsewhere, at the right place, whole or not at all, with the same bytes every time."""

import errno
import hashlib
import json
import os
import subprocess
import sys

import h5py
import nibabel as nib
import numpy as np
import pytest
from mri_files import coil_images, fft2, make_ismrmrd
from sciinv_mri import io
from sciinv_mri.io.nifti_in import read_nifti_magnitude
from scipy.spatial.transform import Rotation

from sciinv.errors import InputError, ResourceError
from sciinv.io.atomic import atomic_path, write_bytes, write_json


def oblique():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [12, -25, 140], degrees=True).as_matrix() @ np.diag([1.2, 0.9, 5.0])
    affine[:3, 3] = (-80.0, 33.0, 12.5)
    return affine


def test_nifti_keeps_values_and_place(tmp_path):
    volume = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)  # slice, row, column
    affine = oblique()
    image = nib.load(io.write_nifti(tmp_path / "a.nii.gz", volume, affine))
    data = image.get_fdata()
    assert data.shape == (5, 4, 3) and data[4, 1, 2] == volume[2, 1, 4]
    np.testing.assert_array_equal(data, volume.transpose(2, 1, 0))
    for matrix, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        np.testing.assert_allclose(matrix, affine, atol=1e-4)
        assert code == 1
    assert image.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(image.header.get_zooms(), (1.2, 0.9, 5.0), rtol=1e-6)


def test_left_handed_affines_survive_the_q_form(tmp_path):
    affine = oblique() @ np.diag([1, 1, -1, 1])
    image = nib.load(io.write_nifti(tmp_path / "a.nii", np.ones((3, 4, 5)), affine))
    np.testing.assert_allclose(image.get_qform(), affine, atol=1e-4)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
def test_axis_codes_round_trip(tmp_path, codes):
    ornt = nib.orientations.axcodes2ornt(codes)
    affine = np.diag([2.0, 3.0, 4.0, 1.0]) @ np.linalg.inv(nib.orientations.inv_ornt_aff(ornt, (5, 4, 3)))
    image = nib.load(io.write_nifti(tmp_path / "a.nii.gz", np.ones((3, 4, 5)), affine))
    assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(affine)


def test_scan_to_nifti_puts_the_object_where_the_scanner_did(tmp_path):
    """A bright dot at a known LPS position, through k-space file, reader, FFT and writer, back through nibabel."""
    turn = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    images = np.full((2, 1, 16, 12), 0.01, np.complex64)
    images[1, 0, 3, 9] = 1.0
    data = io.read(make_ismrmrd(tmp_path / "a.h5", fft2(images).astype(np.complex64), axes=turn, voxel=(1.0, 1.2)))
    grid = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(data.kspace, axes=(2, 3)), norm="ortho"), axes=(2, 3))
    image = nib.load(io.write_nifti(tmp_path / "a.nii.gz", np.abs(grid[:, 0]), data.affine))
    peak = np.unravel_index(np.argmax(image.get_fdata()), image.shape)
    lps = np.array([10, -20, 30.0]) + turn @ [(3 - 8) * 1.0, (9 - 6) * 1.2, 6.0]
    np.testing.assert_allclose((image.affine @ [*peak, 1])[:3], np.diag([-1, -1, 1]) @ lps, atol=1e-3)


def test_unknown_orientation_has_code_zero_and_says_so(tmp_path):
    paths = io.write_maps(tmp_path, {"mean": np.ones((2, 4, 5))}, None, {"units": "a.u."}, voxel=(1.0, 1.5, 5.0))
    image = nib.load(paths[0])
    assert image.get_sform(coded=True)[1] == 0 and image.get_qform(coded=True)[1] == 0
    np.testing.assert_allclose(image.header.get_zooms(), (1.5, 1.0, 5.0))
    assert json.loads(paths[1].read_text())["OrientationKnown"] is False


def test_maps_have_a_json_each(tmp_path):
    names = ("mean", "phase", "std", "lower", "upper", "cov")
    maps = {name: np.full((2, 4, 5), i + 0.5) for i, name in enumerate(names)}
    meta = {
        "units": "arbitrary", "samples": 32, "noise_std": 0.01, "acceleration": 4.0, "prior": "brain",
        "prior_sha256": "ab" * 32, "method": "pnpdm",
        "calibrated": False, "coverage": {"nominal": 0.879, "measured": None}, "extra": {"Slices": 2},
    }  # fmt: skip
    paths = io.write_maps(tmp_path, maps, oblique(), meta)
    assert sorted(path.name for path in paths) == sorted(f"recon_{n}.{e}" for n in names for e in ("nii.gz", "json"))
    for i, name in enumerate(names):
        assert (nib.load(tmp_path / f"recon_{name}.nii.gz").get_fdata() == i + 0.5).all()
        about = json.loads((tmp_path / f"recon_{name}.json").read_text())
        for key in (
            "GeneratedBy",
            "NumberOfPosteriorSamples",
            "NoiseStd",
            "Acceleration",
            "PriorName",
            "PriorSha256",
            "Calibrated",
            "Coverage",
        ):
            assert key in about, key
        assert "not for diagnosis" in about["ResearchUseOnly"] and about["Slices"] == 2
        assert about["Units"] == {"phase": "rad", "cov": "1"}.get(name, "arbitrary")
    assert json.loads(io.write_dataset_description(tmp_path).read_text())["DatasetType"] == "derivative"
    with pytest.raises(InputError):
        io.write_maps(tmp_path, {"../evil": maps["mean"]}, None, meta)
    with pytest.raises(InputError, match="NaN"):
        io.write_maps(tmp_path, {"mean": np.full((2, 4, 5), np.nan)}, None, meta)


def test_our_own_nifti_reads_back(tmp_path):
    volume = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    data = read_nifti_magnitude(io.write_nifti(tmp_path / "a.nii.gz", volume, np.diag([2.0, 3, 4, 1])))
    np.testing.assert_array_equal(data.volume, volume)


def test_bytes_do_not_depend_on_time_or_name(tmp_path):
    rng = np.random.default_rng(0)
    volume = rng.random((3, 4, 5))
    samples = (rng.standard_normal((2, 3, 4, 5)) + 1j).astype(np.complex64)
    script = (
        "import sys, numpy as np; from sciinv_mri import io; rng = np.random.default_rng(0); "
        "volume = rng.random((3, 4, 5));"
        "samples = (rng.standard_normal((2, 3, 4, 5)) + 1j).astype(np.complex64);"
        "io.write_nifti(sys.argv[1] + '/b.nii.gz', volume, None);"
        "io.write_samples(sys.argv[1] + '/b.h5', samples, {'seed': 3})"
    )
    io.write_nifti(tmp_path / "a.nii.gz", volume, None)
    io.write_samples(tmp_path / "a.h5", samples, {"seed": 3})
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True, timeout=60)
    for ending in ("nii.gz", "h5"):
        digests = {hashlib.sha256((tmp_path / f"{name}.{ending}").read_bytes()).hexdigest() for name in "ab"}
        assert len(digests) == 1, ending
    assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == b"\0\0\0\0"  # no time in the gzip header


def test_samples_and_reconstruction_round_trip(tmp_path):
    samples = (np.random.default_rng(0).standard_normal((4, 2, 6, 5)) + 2j).astype(np.complex64)
    path = io.write_samples(tmp_path / "s.h5", samples, {"method": "pnpdm", "seed": 7, "nothing": None})
    back, attributes = io.read_samples(path)
    np.testing.assert_array_equal(back, samples)
    assert attributes == {"method": "pnpdm", "seed": 7}
    with h5py.File(io.write_reconstruction(tmp_path / "r.h5", np.abs(samples[0]))) as file:
        np.testing.assert_array_equal(file["reconstruction"][()], np.abs(samples[0]))


def test_fastmri_header_is_valid_for_the_reference_implementation(tmp_path):
    import ismrmrd.xsd

    kspace = fft2(coil_images()).astype(np.complex64)
    with h5py.File(io.write_fastmri(tmp_path / "a.h5", kspace, size=(16, 20), ky_range=(2, 22))) as file:
        header = ismrmrd.xsd.CreateFromDocument(file["ismrmrd_header"][()])
    code = header.encoding[0]
    assert (code.encodedSpace.matrixSize.x, code.reconSpace.matrixSize.y) == (32, 20)
    limits = code.encodingLimits.kspace_encoding_step_1
    left = code.encodedSpace.matrixSize.y // 2 - limits.center  # the loader of fastMRI computes padding this way
    assert (left, left + limits.maximum + 1) == (2, 22)


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.json"
    write_json(target, {"version": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert json.loads(target.read_text()) == {"version": 1} and os.listdir(tmp_path) == ["a.json"]
    with open(target) as reader:  # whoever has the old file open keeps reading the old file
        write_json(target, {"version": 2})
        assert json.load(reader) == {"version": 1} and json.loads(target.read_text()) == {"version": 2}
    script = (
        "import os, sys, h5py; from sciinv.io.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t, h5py.File(t, 'w') as f:\n"
        "    f['x'] = 1; f.flush(); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "b.h5")], timeout=60).returncode == -9
    assert not (tmp_path / "b.h5").exists()


def test_full_disk_and_forbidden_folder_have_their_exit_codes(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(InputError) as caught:
        write_bytes(blocked / "a.txt", b"x")
    assert caught.value.exit_code == 3
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError) as caught:
        write_bytes(tmp_path / "a.txt", b"x")
    assert caught.value.exit_code == 6 and os.listdir(tmp_path) == ["file"]
