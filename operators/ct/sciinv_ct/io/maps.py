"""Maps as DICOM CT images, and where a reconstruction lies; the same input gives the same bytes.

DICOM holds 16-bit integers with a rescale; the images are derived, carry no identity and nothing of the patient but
where the pixels are (PS3.3 A.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sciinv.io.atomic import write_bytes
from sciinv.io.maps import RESEARCH_USE
from sciinv_ct.io.scan import Placement

Volume = NDArray[np.float32]


def write_dicom(
    folder: Path, volume: Volume, place: Placement, *, name: str, units: str, seed: str, number: int
) -> list[Path]:
    """Write ``(slice, row, column)`` as one CT image a slice, ``{name}_{slice}.dcm``.

    Parameters
    ----------
    units : ``HU`` or another unit; the rescale type is HU or US (unspecified).
    seed : what the identifiers are made from; the same seed, name and slice give the same ones.
    number : of the series.
    """
    from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
    from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

    def uid(*parts: object) -> UID:
        return generate_uid(entropy_srcs=[seed, *map(str, parts)])

    largest = float(np.abs(volume).max())
    slope = 10.0 ** math.ceil(math.log10(max(largest, 1e-9) / 32767))
    paths = []
    for k, image in enumerate(volume):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, uid(name, k)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, uid(name, k)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = uid("study"), uid(name)
        ds.FrameOfReferenceUID = uid("frame")
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "RESEARCH^ONLY", "SCIINV", "", "O"
        ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ds.StudyID = ds.ReferringPhysicianName = ""
        ds.Modality, ds.Manufacturer, ds.SeriesNumber, ds.InstanceNumber = "CT", "sciinv", number, k + 1
        ds.SeriesDescription = f"sciinv {name} [{units}], research use only"
        ds.ImageType, ds.KVP, ds.AcquisitionNumber = ["DERIVED", "SECONDARY", "AXIAL"], None, None
        ds.DerivationDescription = RESEARCH_USE[:1024]
        ds.PositionReferenceIndicator = ds.PatientPosition = ""
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = image.shape
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelSpacing = [_decimal(v) for v in place.pixel]
        ds.SliceThickness = _decimal(place.thickness)
        if place.origin is not None and place.orientation is not None:
            ds.ImagePositionPatient = [_decimal(v) for v in place.origin[k]]
            ds.ImageOrientationPatient = [_decimal(v) for v in place.orientation]
        else:
            ds.ImagePositionPatient = [0, 0, _decimal(k * place.thickness)]
            ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = _decimal(slope), 0, "HU" if units == "HU" else "US"
        ds.PixelData = np.round(image / slope).astype("<i2").tobytes()
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        paths.append(write_bytes(folder / f"{name}_{k:04d}.dcm", buffer.getvalue()))
    return paths


def on_grid(place: Placement, shape: Sequence[int], size: int, items: Sequence[int]) -> Placement:
    """Where a reconstruction of ``size`` pixels a side lies that covers the square around an image of ``shape``.

    `sciinv_ct.prepare.squared` centres the image in that square and gives it square pixels.
    """
    small = min(place.pixel)
    tall, wide = (max(1, round(n * p / small)) for n, p in zip(shape, place.pixel, strict=True))
    n = max(tall, wide)
    step = n / size
    # index of the first pixel's centre on the image's own grid, per axis
    row0, column0 = (
        ((0.5 * step) - (n - side) // 2) * small / p - 0.5 for side, p in zip((tall, wide), place.pixel, strict=True)
    )
    origin, affine = place.origin, place.affine
    if origin is not None:
        origin = origin[list(items)]
        if place.orientation is not None:
            along_row, along_column = np.array(place.orientation[:3]), np.array(place.orientation[3:])
            origin = origin + along_row * place.pixel[1] * column0 + along_column * place.pixel[0] * row0
    if affine is not None:
        move = np.diag([step * small / place.pixel[1], step * small / place.pixel[0], 1.0, 1.0])
        move[:3, 3] = column0, row0, items[0]
        affine = affine @ move
        if len(items) > 1:
            steps = np.diff(items)
            affine = None if np.ptp(steps) else affine @ np.diag([1, 1, float(steps[0]), 1.0])
    return Placement((step * small, step * small), place.thickness, origin, place.orientation, affine)


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    text = repr(round(float(value), 10))
    return text if len(text) <= 16 else f"{value:.9e}"
