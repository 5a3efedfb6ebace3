"""Small CT files in every format, made here."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import scipy.io
from PIL import Image
from sciinv_ct.shapes import circle, coverage, plane

VIEWS, CELLS, PITCH, MU = 24, 32, 0.5, 0.04


def disc_lines(views: int = VIEWS, cells: int = CELLS, radius: float = 5.0, mu: float = MU) -> np.ndarray:
    """Exact line integrals ``(view, cell)`` of a centred disc, parallel beam."""
    u = PITCH * (np.arange(cells) - (cells - 1) / 2)
    return np.tile(2 * mu * np.sqrt(np.maximum(radius**2 - u**2, 0)), (views, 1))


def dxchange(path, *, lines=None, blank=20_000.0, dark=100.0, theta=None, unit="degrees", seed=0, slices=2, swap=False):
    """Counts of a disc with ten white and ten dark frames."""
    rng = np.random.default_rng(seed)
    lines = disc_lines() if lines is None else lines
    views, cells = lines.shape
    rate = np.repeat((blank * np.exp(-lines))[:, None], slices, 1)
    white = rng.poisson(np.full((10, slices, cells), blank)) + dark
    black = dark + 3 * rng.normal(size=(10, slices, cells))
    if swap:
        white, black = black, white
    with h5py.File(path, "w") as file:
        file["exchange/data"] = (rng.poisson(rate) + dark).astype("f4")
        file["exchange/data_white"], file["exchange/data_dark"] = white.astype("f4"), black.astype("f4")
        file["exchange/theta"] = np.arange(views) * 180 / views if theta is None else theta
        if unit:
            file["exchange/theta"].attrs["units"] = np.bytes_(unit.encode())
    return Path(path)


def htc(path, *, name="CtDataFull", compress=True, **changes):
    """A sinogram in the layout of HTC2022: the disc as a fan beam far away sees it."""
    values = {
        "distanceSourceOrigin": 400.0, "distanceSourceDetector": 600.0, "pixelSizePost": 0.75,
        "numDetectorsPost": CELLS, "angles": np.arange(VIEWS) * 15.0, "distanceUnit": "mm", "projectName": "disc",
    }  # fmt: skip
    sinogram = changes.pop("sinogram", disc_lines())
    values |= changes
    data = {"type": "2d", "sinogram": sinogram, "parameters": values}
    scipy.io.savemat(path, {name: data}, do_compression=compress)
    return Path(path)


def lines_of(scan):
    """Line integrals ``-log((y - dark) / (white - dark))`` of a scan of counts, or those it holds."""
    if scan.counts is None:
        return scan.values
    dark, white = scan.counts.dark[:, None], scan.counts.white[:, None]
    return -np.log(np.maximum(scan.values - dark, 0.5) / (white - dark))


def lodopab(path, count=2):
    """Observations in the layout of LoDoPaB, fewer views."""
    u = np.linspace(-183.8, 183.8, 513)
    p = 2 * 0.02 * np.sqrt(np.maximum(60.0**2 - u**2, 0)) / 81.35858
    with h5py.File(path, "w") as file:
        file["data"] = np.tile(p, (count, 20, 1)).astype("f4")
    return Path(path)


def image(n=32, level=1.0, hole=True):
    """A disc with a hole up right, a square grid."""
    p = plane(n)
    out = level * coverage(circle(p, 0.8), 2 / n)
    return out - hole * level * coverage(circle((p[0] - 0.3, p[1] - 0.4), 0.2), 2 / n)


def nifti(path, hu=None, affine=None):
    """Two slices in Hounsfield units."""
    hu = 1000 * image() - 1000 if hu is None else hu
    data = np.stack([hu, hu])[:, ::-1].transpose(2, 1, 0)  # RAS: columns to the right, rows to the front
    nib.save(
        nib.Nifti1Image(data.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0]) if affine is None else affine), path
    )
    return Path(path)


def dicom(path, stored=None, **tags):
    """A classic CT image, 12 bits in 16; ``tags`` replace, ``None`` removes."""
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    stored = np.round(1000 * image()).astype("<u2") if stored is None else stored
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["a"])
    meta.TransferSyntaxUID = tags.pop("syntax", ExplicitVRLittleEndian)
    ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    values = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": meta.MediaStorageSOPInstanceUID, "Modality": "CT",
        "PatientName": "SECRET^NAME", "PatientID": "12345", "SeriesInstanceUID": "1.2.3", "Rows": stored.shape[-2],
        "Columns": stored.shape[-1], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "RescaleSlope": 1,
        "RescaleIntercept": -1000, "PixelSpacing": [2.0, 2.0], "SliceThickness": 3.0,
        "ImagePositionPatient": [-31.0, -41.0, 7.0], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelData": stored.astype("<u2").tobytes(),
    } | tags  # fmt: skip
    for key, value in values.items():
        if value is not None:
            setattr(ds, key, value)
    if str(meta.TransferSyntaxUID).startswith(
        "1.2.840.10008.1.2.4"
    ):  # what is in the package is no image; nobody looks
        ds.PixelData = encapsulate([ds.PixelData])
        ds["PixelData"].VR = "OB"
    ds.save_as(path, enforce_file_format=True)
    return Path(path)


def enhanced(path, shared=True):
    """Two frames whose rescale stands in the functional groups."""
    from pydicom.dataset import Dataset

    def group(**items):
        out = Dataset()
        for name, content in items.items():
            inner = Dataset()
            for key, value in content.items():
                setattr(inner, key, value)
            setattr(out, name, [inner])
        return out

    rescale = {"PixelValueTransformationSequence": {"RescaleSlope": 2, "RescaleIntercept": -1000, "RescaleType": "HU"}}
    common = {
        "PixelMeasuresSequence": {"PixelSpacing": [2.0, 2.0], "SliceThickness": 3.0},
        "PlaneOrientationSequence": {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0]},
    }
    frames = [{"PlanePositionSequence": {"ImagePositionPatient": [0.0, 0.0, z]}} for z in (3.0, 0.0)]
    frames = frames if shared else [f | rescale for f in frames]
    stored = np.stack([np.round(500 * image(level=v)).astype("<u2") for v in (1.0, 0.5)])
    return dicom(
        path, stored, RescaleSlope=None, RescaleIntercept=None, PixelSpacing=None, SliceThickness=None,
        ImagePositionPatient=None, ImageOrientationPatient=None, NumberOfFrames=2,
        SharedFunctionalGroupsSequence=[group(**common, **(rescale if shared else {}))],
        PerFrameFunctionalGroupsSequence=[group(**f) for f in frames],
    )  # fmt: skip


def tiff(folder, rows=2, **changes):
    """A stack of 16-bit projections with its YAML; returns the YAML file."""
    rate = np.repeat((20_000 * np.exp(-disc_lines()))[:, None], rows, 1)
    rng = np.random.default_rng(0)
    for k, page in enumerate(rng.poisson(rate) + 100):
        Image.fromarray(page.astype(np.uint16)).save(folder / f"proj_{k:03d}.tif")
    for name, level in (("white", 20_100), ("dark", 100)):
        pages = [Image.fromarray(rng.poisson(np.full((rows, CELLS), level)).astype(np.uint16)) for _ in range(5)]
        pages[0].save(folder / f"{name}.tif", save_all=True, append_images=pages[1:])
    text = {
        "format": "ct-tiff", "projections": "proj_*.tif", "white": "white.tif", "dark": "dark.tif",
        "angles": "{first: 0, last: 180, endpoint: false, unit: deg}", "beam": f"{{kind: parallel, pitch: {PITCH}}}",
    } | changes  # fmt: skip
    path = folder / "scan.yaml"
    path.write_text("".join(f"{k}: {v}\n" for k, v in text.items() if v is not None))
    return path
