"""Files of CT: readers (`READERS`), what is in a file (`describe`), what is wrong (`validate`)."""

from __future__ import annotations

from pathlib import Path

from sciinv.io.formats import Format, Formats
from sciinv.io.limits import starts_with
from sciinv_ct.io.dicom import read_dicom, sniff_dicom, view_dicom
from sciinv_ct.io.dxchange import read_dxchange, sniff_dxchange, view_dxchange
from sciinv_ct.io.htc import read_htc, sniff_htc, view_htc
from sciinv_ct.io.lodopab import read_lodopab, sniff_lodopab, view_lodopab
from sciinv_ct.io.nifti import read_nifti_ct, sniff_nifti, view_nifti
from sciinv_ct.io.scan import Beam, Counts, Placement, Scan
from sciinv_ct.io.tiff import read_tiff, sniff_tiff, view_tiff

READERS: dict[str, Format] = {
    "dxchange": Format(sniff_dxchange, read_dxchange, "dxchange", view_dxchange),
    "htc2022": Format(sniff_htc, read_htc, "htc2022", view_htc),
    "lodopab": Format(sniff_lodopab, read_lodopab, "lodopab", view_lodopab),
    "dicom-ct": Format(sniff_dicom, read_dicom, "dicom-ct", view_dicom),
    "nifti-ct": Format(sniff_nifti, read_nifti_ct, "nifti-ct", view_nifti),
    "ct-tiff": Format(sniff_tiff, read_tiff, "ct-tiff", view_tiff),
}


def _hint(path: Path) -> str:
    if starts_with(path, b"II*\0", b"MM\0*"):
        return "describe the stack in a YAML file beside it (format: ct-tiff) and read that"
    return "projections can be read from TIFF files with a YAML file (format: ct-tiff)"


FORMATS = Formats(READERS, _hint)
find_reader, read, describe, validate = FORMATS.find_reader, FORMATS.read, FORMATS.describe, FORMATS.validate

__all__ = [
    "FORMATS",
    "READERS",
    "Beam",
    "Counts",
    "Placement",
    "Scan",
    "describe",
    "find_reader",
    "read",
    "read_dicom",
    "read_dxchange",
    "read_htc",
    "read_lodopab",
    "read_nifti_ct",
    "read_tiff",
    "validate",
]
