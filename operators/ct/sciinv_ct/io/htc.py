"""Helsinki Tomography Challenge 2022: fan-beam sinograms of acrylic discs in MATLAB v5 files.

``CtDataFull`` or ``CtDataLimited`` holds ``sinogram`` (view, cell), already ``-log``, and ``parameters`` with distances
in mm, angles in degrees and the pitch of the detector after binning (Meaney et al., Zenodo 6984868 and 7418878).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from sciinv.errors import InputError
from sciinv.io.limits import reading, sha256
from sciinv.io.spec import FieldView, HeaderView, check_spec, dtype_class, load_spec
from sciinv_ct.io.mat5 import is_mat5, load_mat5
from sciinv_ct.io.scan import AngleUnit, Beam, Scan, check_projections, detector_offset, radians

SPEC = "htc2022"
NAMES = ("CtDataFull", "CtDataLimited")
NUMBERS = ("distanceSourceOrigin", "distanceSourceDetector", "pixelSizePost", "numDetectorsPost")


def sniff_htc(path: str | os.PathLike[str]) -> bool:
    """Say whether this is a MATLAB v5 file; never raises. What is in it, only unpacking tells."""
    return is_mat5(path)


def view_htc(path: str | os.PathLike[str]) -> HeaderView:
    """Fields of the struct, which have to be read to be looked at."""
    return _view(_struct(load_mat5(path)))


def read_htc(
    path: str | os.PathLike[str], *, max_bytes: int | None = None, angle_unit: AngleUnit = "auto",
    centre: float | None = None,
) -> Scan:  # fmt: skip
    """Read one sinogram.

    Parameters
    ----------
    centre : detector index on which the axis of rotation projects, 0-based; by default the middle.
    """
    path = Path(path)
    with reading(path, "HTC2022 MATLAB"):
        data = _struct(load_mat5(path, max_bytes=max_bytes))
        check_spec(_view(data), load_spec(SPEC), where=path.name)
        p = data["parameters"]
        values = np.ascontiguousarray(data["sinogram"], np.float32)[None]
        angles = radians(np.atleast_1d(p["angles"]), angle_unit, "degrees", path.name)
        origin, detector, pitch, cells = (float(p[name]) for name in NUMBERS)
        if not 0 < origin < detector or not pitch > 0:
            raise InputError(
                "the distances are impossible", where=path.name, expected="0 < source to origin < source to detector",
                found=f"{origin:g}, {detector:g} mm",
            )  # fmt: skip
        if cells != values.shape[2]:
            raise InputError(
                "the sinogram does not have the detector's cells", where=path.name, expected=f"{cells:g}",
                found=str(values.shape[2]),
            )  # fmt: skip
        notes = check_projections(values, angles, path.name, None)
        offset = detector_offset(centre, values.shape[2], pitch, path.name)
    beam = Beam("fan", pitch, origin, detector, offset)
    return Scan(values, SPEC, path.name, sha256(path), angles, beam, warnings=tuple(notes))


def _struct(found: dict[str, Any]) -> dict[str, Any]:
    """The struct, whose parameters are always a dictionary; empty when the file has none of the names."""
    for name in NAMES:
        value = found.get(name)
        if isinstance(value, dict):
            inner = value.get("parameters")
            return {**value, "parameters": inner if isinstance(inner, dict) else {}}
    return {}


def _view(data: dict[str, Any]) -> HeaderView:
    flat = {key: value for key, value in data.items() if key != "parameters"}
    flat |= {f"parameters/{key}": value for key, value in data.get("parameters", {}).items()}
    view: dict[str, FieldView] = {}
    for key, value in flat.items():
        array = np.asarray(value)
        if array.dtype.kind in "biufcSU":
            array = np.atleast_1d(array) if key == "parameters/angles" else array
            view[key] = FieldView(array.shape, dtype_class(array.dtype), value if array.size == 1 else None)
    return view
