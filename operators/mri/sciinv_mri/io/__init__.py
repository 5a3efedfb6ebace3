"""Files of MRI: readers (`READERS`), what is in a file (`describe`), what is wrong (`validate`), and writers."""

from __future__ import annotations

from pathlib import Path

from sciinv.io.formats import Format, Formats
from sciinv.io.limits import starts_with
from sciinv.io.maps import RESEARCH_USE, write_dataset_description, write_nifti
from sciinv_mri.io.fastmri import read_fastmri, sniff_fastmri, view_fastmri
from sciinv_mri.io.fastmri_out import write_fastmri
from sciinv_mri.io.ismrmrd_reader import read_ismrmrd, sniff_ismrmrd, view_ismrmrd
from sciinv_mri.io.kspace import KSpace
from sciinv_mri.io.nifti_in import Magnitude, read_nifti_magnitude, sniff_nifti, view_nifti
from sciinv_mri.io.nifti_out import sidecar, write_maps
from sciinv_mri.io.npy import load_mat73, read_mat, read_npy_kspace, sniff_mat, sniff_npy, view_mat, view_npy
from sciinv_mri.io.samples_h5 import read_samples, write_reconstruction, write_samples

READERS: dict[str, Format] = {
    "mat73": Format(sniff_mat, read_mat, "npy-kspace", view_mat, "kspace", ("dataset",)),
    "fastmri": Format(sniff_fastmri, read_fastmri, "fastmri", view_fastmri, "kspace"),
    "ismrmrd": Format(sniff_ismrmrd, read_ismrmrd, "ismrmrd", view_ismrmrd, "kspace"),
    "npy": Format(sniff_npy, read_npy_kspace, "npy-kspace", view_npy, "kspace"),
    "nifti": Format(sniff_nifti, read_nifti_magnitude, "nifti-magnitude", view_nifti, "magnitude"),
}


def _hint(path: Path) -> str:
    if starts_with(path, b"MATLAB 5.0"):
        return "save it in MATLAB with -v7.3"
    if starts_with(path, b"PK\x03\x04"):
        return "save the array as a single .npy file"
    return "convert it with siemens_to_ismrmrd or a similar tool"


FORMATS = Formats(READERS, _hint)
find_reader, read, describe, validate = FORMATS.find_reader, FORMATS.read, FORMATS.describe, FORMATS.validate

__all__ = [
    "FORMATS",
    "READERS",
    "RESEARCH_USE",
    "KSpace",
    "Magnitude",
    "describe",
    "find_reader",
    "load_mat73",
    "read",
    "read_fastmri",
    "read_ismrmrd",
    "read_mat",
    "read_nifti_magnitude",
    "read_npy_kspace",
    "read_samples",
    "sidecar",
    "validate",
    "write_dataset_description",
    "write_fastmri",
    "write_maps",
    "write_nifti",
    "write_reconstruction",
    "write_samples",
]
