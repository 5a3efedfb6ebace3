"""The ISMRMRD XML header (also inside fastMRI files): matrix sizes, fields of view, limits, and patient fields.

Children are found by name, never by position, and namespaces do not matter. Schema: ismrmrd.xsd 1.x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element

from sciinv.errors import InputError
from sciinv.io.safe_xml import parse_xml

MAX_MATRIX = 16384
# anything in these blocks may identify a patient; free text (protocol, institution, coil labels) is not copied either
_PHI = frozenset(
    "patientName patientID patientBirthdate patientGender patientWeight_kg patientHeight_m subjectInformation".split()
    + "studyDate studyTime studyID accessionNumber referringPhysicianName studyDescription studyInstanceUID".split()
    + "seriesDate seriesTime measurementID seriesDescription seriesInstanceUIDRoot institutionName stationName".split()
    + "deviceID deviceSerialNumber protocolName frameOfReferenceUID referencedImageSequence bodyPartThickness".split()
)
_NUMBERS = {
    "systemFieldStrength_T": "field_strength_T",
    "TR": "TR_ms",
    "TE": "TE_ms",
    "TI": "TI_ms",
    "flipAngle_deg": "flip_angle_deg",
    "echo_spacing": "echo_spacing_ms",
}


@dataclass(frozen=True)
class Grid:
    """Matrix size and field of view (mm), each as (x, y, z)."""

    matrix: tuple[int, int, int]
    fov: tuple[float, float, float] | None


@dataclass(frozen=True)
class Encoding:
    """One encoding: what is measured and shown, and the range of each counter as (minimum, maximum, centre)."""

    encoded: Grid
    recon: Grid
    trajectory: str
    limits: dict[str, tuple[int, int, int]]
    calibration: str


@dataclass(frozen=True)
class MrdHeader:
    """What sciinv uses of the header; `phi` lists the names (not the values) of fields that may identify a patient."""

    encodings: tuple[Encoding, ...]
    meta: dict[str, Any]
    noise_bandwidth: float
    phi: tuple[str, ...]


def parse_header(text: str, *, where: str) -> MrdHeader:
    """Parse an ISMRMRD XML header.

    Raises
    ------
    InputError
        Malformed XML, a DTD, no encoding, or sizes that are not sensible.
    """
    root = parse_xml(text, where=where)
    if root.tag != "ismrmrdHeader":
        raise InputError("the XML is no ISMRMRD header", where=where, expected="ismrmrdHeader", found=root.tag[:60])
    encodings = tuple(_encoding(node, where) for node in root.findall("encoding"))
    if not encodings:
        raise InputError("the ISMRMRD header describes no encoding", where=where, expected="at least one `encoding`")
    meta: dict[str, Any] = {}
    for node in root.iter():
        if node.tag in _NUMBERS and (value := _float(node.text)) is not None:
            meta.setdefault(_NUMBERS[node.tag], round(value, 6))
    bandwidth = _float(root.findtext("acquisitionSystemInformation/relativeReceiverNoiseBandwidth"))
    phi = sorted({node.tag for node in root.iter() if node.tag in _PHI and (node.text or "").strip()})
    return MrdHeader(encodings, meta, bandwidth if bandwidth and 0.01 < bandwidth <= 10 else 1.0, tuple(phi))


def _encoding(node: Element, where: str) -> Encoding:
    limits: dict[str, tuple[int, int, int]] = {}
    for child in node.find("encodingLimits") or ():
        values = [_int(child.findtext(name), 0) for name in ("minimum", "maximum", "center")]
        if not all(0 <= value <= 65535 for value in values):
            raise InputError(
                "an encoding limit is out of range",
                where=where,
                expected="0 to 65535",
                found=f"{child.tag[:40]} {values}",
            )
        limits[child.tag] = (values[0], values[1], values[2])
    return Encoding(
        _grid(node, "encodedSpace", where),
        _grid(node, "reconSpace", where),
        (node.findtext("trajectory") or "cartesian").strip().lower()[:40],
        limits,
        (node.findtext("parallelImaging/calibrationMode") or "").strip().lower()[:40],
    )


def _grid(node: Element, name: str, where: str) -> Grid:
    sizes = [_int(node.findtext(f"{name}/matrixSize/{axis}"), 0) for axis in "xyz"]
    sizes[2] = sizes[2] or 1
    if not all(1 <= size <= MAX_MATRIX for size in sizes):
        raise InputError(
            f"the matrix size of {name} is unusable",
            where=where,
            expected=f"1 to {MAX_MATRIX} along x, y, z",
            found=str(sizes),
        )
    fov = [_float(node.findtext(f"{name}/fieldOfView_mm/{axis}")) or 0.0 for axis in "xyz"]
    usable = all(1e-3 < size < 1e4 for size in fov)
    return Grid((sizes[0], sizes[1], sizes[2]), (fov[0], fov[1], fov[2]) if usable else None)


def _float(text: str | None) -> float | None:
    try:
        value = float((text or "").strip())
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _int(text: str | None, default: int) -> int:
    try:
        return int((text or "").strip()[:20])
    except ValueError:
        return default
