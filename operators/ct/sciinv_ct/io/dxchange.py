"""DXchange HDF5 (``/exchange``): counts of a parallel beam with white and dark frames, one slice a detector row.

``/exchange/data`` is (theta, y, x), ``data_white`` and ``data_dark`` are (frame, y, x), ``theta`` is in degrees
(De Carlo et al., J. Synchrotron Rad. 21, 1224, 2014). The file format does not say where the centre of rotation is.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from sciinv.errors import InputError
from sciinv.io.limits import reading, sha256
from sciinv.io.safe_hdf5 import Hdf5File, is_hdf5
from sciinv.io.spec import HeaderView, check_spec, load_spec
from sciinv_ct.io.scan import AngleUnit, Beam, Scan, blank_scans, check_projections, detector_offset, radians, square

SPEC = "dxchange"
PITCH, REFERENCE = "pitch_mm", "/sciinv/reference"
"""Where `sciinv simulate ct` says the width of a cell, and keeps the truth (slice, n, n) in 1/mm."""
PATHS = ("/exchange/data", "/exchange/data_white", "/exchange/data_dark", "/exchange/theta", "/exchange/theta@units")


def sniff_dxchange(path: str | os.PathLike[str]) -> bool:
    """Say whether the HDF5 file has projections under ``/exchange``; never raises."""
    if not is_hdf5(path):
        return False
    try:
        with Hdf5File(path) as file:
            return file.find("/exchange/data") is not None
    except InputError:
        return False


def view_dxchange(path: str | os.PathLike[str]) -> HeaderView:
    """Shapes and types."""
    with Hdf5File(path) as file:
        return file.view(PATHS)


def read_dxchange(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, pitch: float = 0.0, centre: float | None = None,
    angle_unit: AngleUnit = "auto",
) -> Scan:  # fmt: skip
    """Read all detector rows as slices.

    Parameters
    ----------
    pitch : width of a detector cell at the object, mm; 0 takes the file's, or lengths in cells.
    centre : detector index on which the axis of rotation projects, 0-based; by default the middle.
    angle_unit : of ``theta``, where the file is wrong.
    """
    path = Path(path)
    with reading(path, "DXchange HDF5"), Hdf5File(path, max_bytes=max_bytes) as file:
        check_spec(file.view(PATHS), load_spec(SPEC), where=path.name)
        told = file.attribute("/exchange/data", PITCH)
        truth = None if file.find(REFERENCE) is None else file.array(REFERENCE).astype(np.float32)
        known = bool(pitch) or isinstance(told, float)
        pitch = float(pitch or (told if known else 1.0))
        if not 1e-7 < pitch < 1e4:
            raise InputError("pitch is impossible", where=path.name, expected="mm", found=f"{pitch:g}")
        data = file.array("/exchange/data")
        theta, unit = file.array("/exchange/theta"), file.attribute("/exchange/theta", "units")
        white, dark = file.array("/exchange/data_white"), file.array("/exchange/data_dark")
    with reading(path, "DXchange HDF5"):
        if white.shape[1:] != data.shape[1:] or dark.shape[1:] != data.shape[1:]:
            raise InputError(
                "white and dark frames do not fit the projections", where=path.name, expected=str(data.shape[1:]),
                found=f"white {white.shape[1:]}, dark {dark.shape[1:]}",
            )  # fmt: skip
        angles = radians(theta, angle_unit, unit if isinstance(unit, str) else "", path.name)
        counts = blank_scans(white, dark, path.name)
        values = np.ascontiguousarray(data.transpose(1, 0, 2), np.float32)
        notes = check_projections(values, angles, path.name, counts)
        cells = values.shape[2]
        if centre is None:
            notes.append(
                f"the centre of rotation is taken in the middle of the detector, cell {(cells - 1) / 2:g}: "
                "--set input.centre=CELL"
            )
        if not known:
            notes.append("the file gives no pixel size: lengths are in detector cells (--set input.pitch=MM)")
        if truth is not None and (not square(truth) or len(truth) != len(values) or not np.isfinite(truth).all()):
            raise InputError("the reference does not fit", where=path.name, expected=f"({len(values)}, n, n)",
                             found=str(truth.shape))  # fmt: skip
        offset = detector_offset(centre, cells, pitch, path.name)
    return Scan(
        values, SPEC, path.name, sha256(path), angles, Beam("parallel", pitch, offset=offset), counts,
        truth, 0.0 if truth is None else pitch * cells / truth.shape[-1], warnings=tuple(notes),
    )  # fmt: skip
