"""Files of MRI: readers (`READERS`), what is in a file (`describe`), what is wrong (`validate`), and writers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from sciinv.errors import InputError, SciinvError
from sciinv.io.limits import check_file, starts_with
from sciinv.io.spec import HeaderView, load_spec, violations
from sciinv_mri.io.fastmri import read_fastmri, sniff_fastmri, view_fastmri
from sciinv_mri.io.fastmri_out import write_fastmri
from sciinv_mri.io.ismrmrd_reader import read_ismrmrd, sniff_ismrmrd, view_ismrmrd
from sciinv_mri.io.kspace import KSpace
from sciinv_mri.io.nifti_in import Magnitude, read_nifti_magnitude, sniff_nifti, view_nifti
from sciinv_mri.io.nifti_out import RESEARCH_USE, sidecar, write_dataset_description, write_maps, write_nifti
from sciinv_mri.io.npy import load_mat73, read_mat, read_npy_kspace, sniff_mat, sniff_npy, view_mat, view_npy
from sciinv_mri.io.samples_h5 import read_samples, write_reconstruction, write_samples


class Reader(NamedTuple):
    """A format: how to recognise, read and view it; the stem of its specification; what `read` returns."""

    sniff: Callable[..., bool]
    read: Callable[..., Any]
    spec: str
    view: Callable[..., HeaderView]
    product: str  # "kspace" or "magnitude"


READERS: dict[str, Reader] = {
    "mat73": Reader(sniff_mat, read_mat, "npy-kspace", view_mat, "kspace"),
    "fastmri": Reader(sniff_fastmri, read_fastmri, "fastmri", view_fastmri, "kspace"),
    "ismrmrd": Reader(sniff_ismrmrd, read_ismrmrd, "ismrmrd", view_ismrmrd, "kspace"),
    "npy": Reader(sniff_npy, read_npy_kspace, "npy-kspace", view_npy, "kspace"),
    "nifti": Reader(sniff_nifti, read_nifti_magnitude, "nifti-magnitude", view_nifti, "magnitude"),
}


def find_reader(path: str | os.PathLike[str]) -> str:
    """Name of the reader that recognises the file by its content, not by its extension.

    Raises
    ------
    InputError
        None does; the message lists the formats.
    """
    path = check_file(path)
    for name, reader in READERS.items():
        if reader.sniff(path):
            return name
    hint = "convert it with siemens_to_ismrmrd or a similar tool"
    if starts_with(path, b"MATLAB 5.0"):
        hint = "save it in MATLAB with -v7.3"
    elif starts_with(path, b"PK\x03\x04"):
        hint = "save the array as a single .npy file"
    raise InputError("no reader recognises this file", where=path.name, expected=", ".join(READERS), hint=hint)


def read(path: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> KSpace | Magnitude:
    """Read a file with the reader named `format` (default: found by content); `options` go to that reader."""
    name = format or find_reader(path)
    if name not in READERS:
        raise InputError("no such format", where=Path(path).name, expected=", ".join(READERS), found=name[:40])
    result: KSpace | Magnitude = READERS[name].read(path, **options)
    return result


def describe(path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Facts about a file for ``sciinv info``: JSON-ready, free of patient data."""
    return read(path, **options).info()


def validate(path: str | os.PathLike[str], *, format: str | None = None, **options: Any) -> list[str]:
    """Everything wrong with a file, as sentences: all violations of its specification, else what reading it says.

    Empty when the file is good. Raises only when the file is missing, or no reader knows it.
    """
    name = format or find_reader(check_file(path))
    try:
        chosen = {"dataset": options["dataset"]} if name == "mat73" and "dataset" in options else {}
        found = violations(READERS[name].view(path, **chosen), load_spec(READERS[name].spec))
        if not found:
            READERS[name].read(path, **options)
    except SciinvError as error:
        found = [str(error)]
    return found


__all__ = [
    "READERS",
    "RESEARCH_USE",
    "KSpace",
    "Magnitude",
    "Reader",
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
