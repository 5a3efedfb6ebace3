"""Readers of CT: what they make of good files, and what they say about bad ones."""

import nibabel as nib
import numpy as np
import pytest
from ct_files import (
    CELLS,
    MU,
    PITCH,
    VIEWS,
    dicom,
    disc_lines,
    dxchange,
    enhanced,
    htc,
    image,
    lines_of,
    lodopab,
    nifti,
    tiff,
)
from hostile import refused
from sciinv_ct import io
from sciinv_ct.io.scan import MU_WATER

from sciinv.errors import InputError


def test_each_format_is_recognised_by_its_content(tmp_path):
    made = {
        "dxchange": dxchange(tmp_path / "a"), "htc2022": htc(tmp_path / "b.mat"), "lodopab": lodopab(tmp_path / "c"),
        "nifti-ct": nifti(tmp_path / "d.nii.gz"), "dicom-ct": dicom(tmp_path / "e"), "ct-tiff": tiff(tmp_path),
    }  # fmt: skip
    for name, path in made.items():
        assert io.find_reader(path) == name
        assert io.validate(path) == []
        facts = io.describe(path)
        assert facts["format"] == name and facts["items"] >= 1
        assert "SECRET" not in str(facts) and "12345" not in str(facts)
    assert [n for n, r in io.READERS.items() if r.sniff(tmp_path / "nothing")] == []


@pytest.mark.parametrize("kind", ["dxchange", "tiff"])
def test_counts_become_the_line_integrals_they_came_from(tmp_path, kind):
    path = dxchange(tmp_path / "a.h5") if kind == "dxchange" else tiff(tmp_path)
    scan = io.read(path)
    assert scan.values.shape == (2, VIEWS, CELLS) and not scan.is_image
    assert np.allclose(scan.angles, np.arange(VIEWS) * np.pi / VIEWS)
    noise = np.sqrt(np.exp(disc_lines()) / 20_000 * 1.3)
    pull = (lines_of(scan) - disc_lines()) / noise
    assert abs(pull.mean()) < 0.1 and 0.8 < pull.std() < 1.1
    assert scan.select([1]).values.shape == (1, VIEWS, CELLS)


def test_htc_geometry_and_both_names(tmp_path):
    for name, compress in (("CtDataFull", True), ("CtDataLimited", False)):
        scan = io.read(htc(tmp_path / "a.mat", name=name, compress=compress))
        assert (scan.beam.kind, scan.beam.source_origin, scan.beam.source_detector) == ("fan", 400.0, 600.0)
        assert np.isclose(scan.beam.magnification, 1.5) and scan.values.dtype == np.float32
        assert np.allclose(scan.values[0], disc_lines(), atol=1e-6)
    off = io.read(tmp_path / "a.mat", centre=10.0)
    assert np.isclose(off.beam.offset, ((CELLS - 1) / 2 - 10) * 0.75)
    for path in (tmp_path / "a.mat", tiff(tmp_path)):
        refused(lambda path=path: io.read(path, centre=99.0), "off the detector")


def test_lodopab_units_and_counts(tmp_path):
    path = lodopab(tmp_path / "observation_test_000.hdf5")
    scan = io.read(path)
    peak = float(lines_of(scan).max())
    assert abs(peak - 2.4) < 0.01 and scan.counts.gain == 1
    assert np.allclose(lines_of(scan), lines_of(io.read(path, counts=False)), atol=1e-4)


def test_hounsfield_units_become_attenuation(tmp_path):
    for path in (dicom(tmp_path / "a"), nifti(tmp_path / "b.nii")):
        scan = io.read(path)
        assert scan.is_image and scan.units == "HU"
        assert np.allclose(scan.values[0], MU_WATER * image(), atol=2e-5), path
    assert np.allclose(io.read(tmp_path / "a", mu_water=0.02).values[0], 0.02 * image(), atol=2e-5)


def test_orientation_of_dicom_and_nifti_is_that_of_the_patient(tmp_path):
    scan = io.read(dicom(tmp_path / "a"))
    # LPS (-31, -41, 7) of the first pixel is RAS (31, 41, 7); columns go to the left, rows to the back
    assert np.allclose(scan.place.affine @ [0, 0, 0, 1], [31, 41, 7, 1])
    assert np.allclose(scan.place.affine[:3, :3], np.diag([-2.0, -2.0, 3.0]))
    turned = np.array([[0.0, -2, 0, 5], [2, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1]])
    hu = 1000 * image() - 1000
    plain = io.read(nifti(tmp_path / "b.nii"))
    nib.save(nib.Nifti1Image(np.stack([hu, hu])[:, ::-1].transpose(2, 1, 0).astype("f4"), turned), tmp_path / "c.nii")
    quarter = io.read(tmp_path / "c.nii")
    for scan in (plain, quarter):  # the hole lies at the same place of the patient whatever the order of the axes
        row, column = np.argwhere(scan.values[0] < 0.3 * MU_WATER)[np.abs(
            np.argwhere(scan.values[0] < 0.3 * MU_WATER) - 15.5).sum(1).argmin()]  # fmt: skip
        assert scan.values[0, row, column] < 0.01 and scan.place.affine is not None
    back = np.linalg.inv(turned) @ quarter.place.affine @ [3, 5, 1, 1]
    i, j, k = np.round(back[:3]).astype(int)
    stored = np.stack([hu, hu])[:, ::-1].transpose(2, 1, 0)
    assert np.isclose(quarter.values[1, 5, 3], MU_WATER * (1 + stored[i, j, k] / 1000), atol=1e-6)


def test_enhanced_images_take_their_rescale_from_the_groups_and_are_sorted(tmp_path):
    for shared in (True, False):
        scan = io.read(enhanced(tmp_path / "a", shared))
        assert len(scan) == 2 and np.allclose(scan.place.origin[:, 2], [0, 3])
        assert np.allclose(scan.values[1], MU_WATER * image(), atol=5e-5)
        assert np.allclose(scan.values[0], MU_WATER * image(level=0.5), atol=5e-5)


def test_a_series_is_read_from_its_folder(tmp_path):
    for k, z in enumerate((6.0, 0.0, 3.0)):
        dicom(tmp_path / f"{k}.dcm", SOPInstanceUID=f"1.2.{k}", ImagePositionPatient=[0, 0, z],
              RescaleIntercept=-1000 + 10 * z)  # fmt: skip
    dicom(tmp_path / "other.dcm", SeriesInstanceUID="9.9")
    scan = io.read(tmp_path / "0.dcm", series=True)
    assert np.allclose(scan.place.origin[:, 2], [0, 3, 6]) and scan.place.thickness == 3
    assert np.all(np.diff(scan.values[:, 16, 12]) > 0)
    assert len(io.read(tmp_path / "0.dcm")) == 1


def test_padding_and_overlay_bits_do_not_become_tissue(tmp_path):
    stored = np.round(1000 * image()).astype("<u2")
    stored[:3] = 4000
    scan = io.read(dicom(tmp_path / "a", stored | np.uint16(0x4000), PixelPaddingValue=4000))
    assert (scan.values[0, :3] == 0).all() and scan.facts["padding_pixels"] == 3 * 32
    assert np.allclose(scan.values[0, 3:], MU_WATER * image()[3:], atol=2e-5)
    signed = (np.round(1000 * image()) - 1000).astype("<i2")
    scan = io.read(dicom(tmp_path / "b", signed.view("<u2"), PixelRepresentation=1, RescaleIntercept=0, BitsStored=16,
                         HighBit=15))  # fmt: skip
    assert np.allclose(scan.values[0], MU_WATER * image(), atol=2e-5)


BAD_DX = {
    "the angles look like radians": {"theta": np.linspace(0, np.pi, VIEWS)},
    "the angles look like degrees": {"theta": np.linspace(0, 180, VIEWS), "unit": "radians"},
    "the dark frames are above the white ones": {"swap": True},
    "counted next to nothing": {"lines": np.full((VIEWS, CELLS), 30.0)},
    "out of range": {"theta": np.linspace(0, 5000, VIEWS)},
    "has view = ": {"theta": np.arange(5.0)},
}


@pytest.mark.parametrize("message", BAD_DX)
def test_impossible_counts_are_refused(tmp_path, message):
    path = dxchange(tmp_path / "a.h5", **BAD_DX[message])
    refused(lambda: io.read(path), message)


def test_options_of_readers_are_checked(tmp_path):
    path = dxchange(tmp_path / "a.h5")
    refused(lambda: io.read(path, centre=99.0), "off the detector")
    assert np.isclose(io.read(path, centre=12.0, pitch=PITCH).beam.offset, (15.5 - 12) * PITCH)
    assert any("centre of rotation" in w for w in io.read(path).warnings)
    rad = dxchange(tmp_path / "b.h5", theta=np.linspace(0, np.pi, VIEWS))
    assert np.isclose(io.read(rad, angle_unit="rad").angles.max(), np.pi)


BAD_HTC = {
    "distances are impossible": {"distanceSourceOrigin": 700.0},
    "does not have the detector's cells": {"numDetectorsPost": 7.0},
    "no line integrals": {"sinogram": 1e4 * (1 + disc_lines())},
    "has view = ": {"angles": np.arange(7) * 15.0},
    "NaN": {"sinogram": np.where(disc_lines() > 0, disc_lines(), np.nan)},
    "sinogram is missing": {"name": "Something"},
    "pixelSizePost is": {"pixelSizePost": -1.0},
}


@pytest.mark.parametrize("message", BAD_HTC)
def test_impossible_sinograms_are_refused(tmp_path, message):
    path = htc(tmp_path / "a.mat", **BAD_HTC[message])
    refused(lambda: io.read(path), message)


BAD_DICOM = {
    "no CT image": {"Modality": "MR"},
    "cannot be turned into Hounsfield units": {"RescaleSlope": None},
    "do not fit the header": {"Rows": 3000},
    "PixelSpacing is missing": {"PixelSpacing": None},
    "MONOCHROME2": {"PhotometricInterpretation": "MONOCHROME1"},
    "nothing but air": {"RescaleIntercept": -9000},
    "BitsAllocated is": {"BitsAllocated": 1000},
}


@pytest.mark.parametrize("message", BAD_DICOM)
def test_impossible_images_are_refused(tmp_path, message):
    path = dicom(tmp_path / "a.dcm", **BAD_DICOM[message])
    refused(lambda: io.read(path, format="dicom-ct"), message)


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.50"])
def test_compressed_images_are_recognised_and_refused_with_a_remedy(tmp_path, syntax):
    path = dicom(tmp_path / "a.dcm", syntax=syntax)
    assert io.find_reader(path) == "dicom-ct"
    refused(lambda: io.read(path), "compressed pixels are not read", "gdcmconv")
    assert io.find_reader(dicom(tmp_path / "plain.dcm")) == "dicom-ct"
    refused(lambda: io.read(tmp_path / "plain.dcm", series=True), "compressed pixels are not read")  # the same series


def test_recognising_a_file_that_only_begins_like_dicom_never_raises(tmp_path):
    rng = np.random.default_rng(0)
    whole = dicom(tmp_path / "a").read_bytes()
    for index in range(40):
        head = whole[: 132 + 8 * index]
        (tmp_path / "b").write_bytes(head + rng.bytes(60) if index % 2 else head)
        assert io.READERS["dicom-ct"].sniff(tmp_path / "b") in (True, False)


BAD_TIFF = {
    "only files beside": {"projections": "../proj_*.tif"},
    "no file matches": {"projections": "nothing_*.tif"},
    "the beam is impossible": {"beam": "{kind: fan, pitch: 0.5, source_origin: 9, source_detector: 3}"},
    "beam.kind is unknown": {"beam": "{kind: spiral, pitch: 0.5}"},
    "white and dark frames go together": {"dark": None},
    "no description of a scan": {"surprise": 1},
    "beam/pitch is missing": {"beam": "{kind: parallel}"},
    "angles look like radians": {"angles": "{first: 0, last: 3.14, unit: deg}"},
}


@pytest.mark.parametrize("message", BAD_TIFF)
def test_impossible_stacks_are_refused(tmp_path, message):
    path = tiff(tmp_path, **BAD_TIFF[message])
    with pytest.raises(Exception, match=message) as caught:
        io.read(path)
    assert caught.value.exit_code in (2, 3)


def test_of_a_stack_only_the_rows_that_are_wanted_are_kept(tmp_path):
    """The whole stack would take ten times what is allowed."""
    path = tiff(tmp_path, rows=64, row=40)
    scan = io.read(path, max_bytes=20_000)
    assert scan.values.shape == (1, VIEWS, CELLS) and 24 * 64 * CELLS * 4 > 190_000
    whole = io.read(tiff(tmp_path, rows=64))
    assert np.array_equal(whole.values[40], scan.values[0]) and len(whole) == 64
    assert np.array_equal(whole.counts.white[40], scan.counts.white[0])
    refused(lambda: io.read(tiff(tmp_path, rows=64, row=64)), "no such row")
    refused(lambda: io.read(tiff(tmp_path, rows=64), max_bytes=20_000), "raise --max-bytes")


def test_units_of_a_volume_must_be_clear(tmp_path):
    path = nifti(tmp_path / "a.nii", hu=image() * 3)
    refused(lambda: io.read(path), "unit of the values")
    assert io.read(path, unit="1/mm").units == "1/mm"
    assert MU > 0


@pytest.mark.realdata
def test_real_files(real_data):
    folder = real_data / "ct"
    for path in sorted(folder.glob("htc2022/*_full.mat")):
        scan = io.read(path)
        assert scan.values.shape == (1, 721, 560) and np.isclose(scan.beam.magnification, 1.3484, atol=1e-4)
    tooth = io.read(folder / "tomopy" / "tooth.h5")
    assert tooth.values.shape == (2, 181, 640) and 1.8 < np.quantile(lines_of(tooth), 0.999) < 2
    frames = io.read(folder / "dicom" / "eCT_Supplemental.dcm")
    assert len(frames) == 2 and frames.facts["hu_range"][0] == -1024
    small = io.read(folder / "dicom" / "CT_small.dcm")
    assert small.place.pixel == (0.661468, 0.661468) and small.values.max() < 0.0195 * 2.2
    with pytest.raises(InputError, match="no reader"):
        io.read(folder.parent / "mri" / "MR_small.dcm")
