"""Write k-space as a fastMRI file with a minimal, valid ISMRMRD header: for `demo`, `simulate mri` and tests."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from sciinv.errors import InputError
from sciinv.io.atomic import atomic_path

_HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.ismrm.org/ISMRMRD ismrmrd.xsd">
 <acquisitionSystemInformation>
  <systemFieldStrength_T>{field}</systemFieldStrength_T>
  <receiverChannels>{coils}</receiverChannels>
 </acquisitionSystemInformation>
 <experimentalConditions>
  <H1resonanceFrequency_Hz>{frequency}</H1resonanceFrequency_Hz>
 </experimentalConditions>
 <encoding>
  <encodedSpace><matrixSize><x>{ex}</x><y>{ey}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{efx}</x><y>{efy}</y><z>{thick}</z></fieldOfView_mm></encodedSpace>
  <reconSpace><matrixSize><x>{rx}</x><y>{ry}</y><z>1</z></matrixSize>
   <fieldOfView_mm><x>{rfx}</x><y>{rfy}</y><z>{thick}</z></fieldOfView_mm></reconSpace>
  <encodingLimits>
   <kspace_encoding_step_1><minimum>0</minimum><maximum>{maximum}</maximum><center>{center}</center>
   </kspace_encoding_step_1>
   <slice><minimum>0</minimum><maximum>{slices}</maximum><center>0</center></slice>
  </encodingLimits>
  <trajectory>cartesian</trajectory>
 </encoding>
</ismrmrdHeader>
"""


def fastmri_header(
    shape: tuple[int, int, int, int],
    *,
    size: tuple[int, int] | None = None,
    voxel: tuple[float, float, float] = (1.0, 1.0, 5.0),
    ky_range: tuple[int, int] | None = None,
    field_strength: float = 3.0,
) -> str:
    """ISMRMRD XML for k-space of `shape` (slice, coil, kx, ky); see `write_fastmri` for the arguments."""
    slices, coils, rows, columns = shape
    height, width = size or (rows, columns)
    left, right = ky_range or (0, columns)
    return _HEADER.format(
        field=field_strength, frequency=round(field_strength * 42_577_478.5), coils=coils, slices=slices - 1,
        ex=rows, ey=columns, rx=height, ry=width,
        efx=rows * voxel[0], efy=columns * voxel[1], rfx=height * voxel[0], rfy=width * voxel[1], thick=voxel[2],
        maximum=right - left - 1, center=columns // 2 - left,
    )  # fmt: skip


def write_fastmri(
    path: str | os.PathLike[str],
    kspace: NDArray[np.complex64],
    *,
    mask: NDArray[np.bool_] | None = None,
    reference: NDArray[np.float32] | None = None,
    size: tuple[int, int] | None = None,
    voxel: tuple[float, float, float] = (1.0, 1.0, 5.0),
    ky_range: tuple[int, int] | None = None,
    acquisition: str = "AXT1",
    header: bool = True,
    field_strength: float = 3.0,
) -> Path:
    """Write one volume in the fastMRI layout.

    Parameters
    ----------
    path
        The HDF5 file, written atomically.
    kspace
        complex64 (slice, coil, kx, ky) or single-coil (slice, kx, ky), zero where not measured.
    mask
        bool (ky,), or (kx, ky) or (slice, kx, ky) for 2-D patterns (our extension); None leaves it out, as in training
        files.
    reference
        float32 (slice, h, w), stored as ``reconstruction_rss`` (or ``_esc`` for single-coil data).
    size
        (h, w) of the final image: smaller than kx when the readout is oversampled (default: no oversampling).
    voxel
        (row, column, slice) spacing in mm.
    ky_range
        Columns that are not zero padding.
    acquisition
        Name of the protocol.
    header
        Whether to write ``ismrmrd_header``.
    field_strength
        In tesla.
    """
    kspace = np.asarray(kspace)
    if kspace.ndim not in (3, 4) or kspace.dtype.kind != "c":
        raise InputError(
            "k-space must be complex (slice, coil, kx, ky)",
            where=Path(path).name,
            found=f"{kspace.dtype} {kspace.shape}",
        )
    single = kspace.ndim == 3
    shape = (kspace.shape[0], 1 if single else kspace.shape[1], kspace.shape[-2], kspace.shape[-1])
    with atomic_path(path) as temporary, h5py.File(temporary, "w-") as file:
        file.create_dataset("kspace", data=kspace.astype(np.complex64))
        if mask is not None:
            mask = np.asarray(mask, bool)
            while mask.ndim > 1 and mask.shape[0] == 1:
                mask = mask[0]
            file.create_dataset("mask", data=mask)
        if header:
            xml = fastmri_header(shape, size=size, voxel=voxel, ky_range=ky_range, field_strength=field_strength)
            file.create_dataset("ismrmrd_header", data=np.bytes_(xml.encode()))
        if reference is not None:
            name = "reconstruction_esc" if single else "reconstruction_rss"
            reference = np.asarray(reference, np.float32)
            file.create_dataset(name, data=reference)
            file.attrs["max"], file.attrs["norm"] = float(reference.max()), float(np.linalg.norm(reference))
        file.attrs["acquisition"] = acquisition
    return Path(path)
